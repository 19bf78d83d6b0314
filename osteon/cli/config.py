"""``osteon config``: what is in force, what is wrong with it, and what can be set."""

import click

from osteon.cli.options import (
    chosen_config,
    config_option,
    example,
    json_option,
    settings_in_force,
)
from osteon.cli.output import write_json
from osteon.cli.reference import reference
from osteon.cli.toml import to_toml
from osteon.config.load import faults_of_file, find_config
from osteon.errors import ConfigError


@click.group(name="config", epilog=example("osteon config check"))
def command() -> None:
    """Show, check and explain the configuration."""


@command.command(epilog=example("osteon config show --config /etc/osteon/osteon.toml"))
@config_option
@json_option
def show(as_json: bool) -> None:
    """Print the settings in force as a configuration file.

    Defaults and the environment are included.
    """
    settings = settings_in_force()
    found = find_config(chosen_config())
    values = settings.model_dump(mode="json")
    values["route"] = [route.model_dump(mode="json") for route in settings.routes]
    if as_json:
        write_json(values)
        return
    click.echo(f"# {'defaults' if found is None else found}, and the environment")
    click.echo(to_toml(values), nl=False)


@command.command(epilog=example("osteon config check && systemctl restart osteon.target"))
@config_option
@json_option
def check(as_json: bool) -> None:
    """Check every key, and that what it names is there.

    That is folders, files, certificates and models. It prints OK, or one line per fault; what is
    right and hardly meant, such as a GPU that stays idle, is a warning.
    """
    file = find_config(chosen_config())
    try:
        faults, warnings = faults_of_file(chosen_config()), list[str]()
    except ConfigError as error:  # No TOML, or not to be read: one fault, and nothing else known.
        if as_json:
            write_json({"file": file, "ok": False, "faults": [error.message]})
        raise
    summary = "of the settings are wrong: nothing would start"
    if not faults:
        # Here alone, since the models bring torch, which takes seconds to load.
        from osteon.cli.checks import faults_of, warnings_of  # noqa: PLC0415 - see above

        settings = settings_in_force()
        faults, warnings = faults_of(settings), warnings_of(settings)
        summary = "of the settings do not hold on this machine"
    if as_json:
        told = {"ok": not faults, "faults": faults, "warnings": warnings}
        write_json({"file": file} | told)
    else:
        for warning in warnings:
            click.echo(f"warning: {warning}")
        click.echo("\n".join(faults) or "OK")
    if faults:
        raise ConfigError(f"{len(faults)} {summary}")


@command.command(name="reference", epilog=example("osteon config reference > configuration.md"))
@config_option
def print_reference() -> None:
    """Print every key with its meaning, as Markdown.

    Type, limits, default and environment variable stand beside it.
    """
    click.echo(reference(), nl=False)
