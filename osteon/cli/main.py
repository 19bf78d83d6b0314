"""The command line: one group, one module a command, and the map from errors to exit codes.

Arguments enter; the module of the one command that was asked for is loaded and run. This is the
composition root: nothing below it knows of it.
"""

from importlib import import_module
from typing import Any, cast

import click

from osteon.cli.options import config_option, example
from osteon.errors import OsteonError

# Each is a module of this package with a click command named ``command``, in the order in which a
# new user meets them.
COMMANDS = (
    "demo",
    "serve",
    "run",
    "send",
    "echo",
    "status",
    "watch",
    "jobs",
    "trace",
    "associations",
    "config",
    "models",
    "routes",
    "shadow",
    "phantom",
    "verify",
    "purge",
    "cluster",
)


class CommandLine(click.Group):
    """The group; it loads a command's module only when that command is named or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load a command."""
        if cmd_name not in COMMANDS:
            return None
        return cast("click.Command", import_module(f"osteon.cli.{cmd_name}").command)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn its error into an exit code."""
        try:
            return super().invoke(ctx)
        except OsteonError as error:
            click.echo(f"osteon: {error.message}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=CommandLine, epilog=example("osteon demo"))
@click.version_option(package_name="osteon", message="osteon %(version)s")
@config_option
def cli() -> None:
    """Osteon: a CT series in by DICOM, its bones back in the PACS as a DICOM Segmentation."""


def main() -> None:
    """Run the command line of this process."""
    cli(prog_name="osteon")


if __name__ == "__main__":
    main()
