"""What every command shares: ``--config``, ``--json``, the example under its help, the job table.

The options enter through click; the settings in force and an open job table leave.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from osteon.config.load import load_settings
from osteon.config.settings import Settings
from osteon.errors import ConfigError, UnavailableError
from osteon.pipeline.table.connection import FILE_NAME, Table, open_table

_CONFIG = "osteon.config"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _remember(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.meta[_CONFIG] = value


# It stands before and behind the command's name; the one behind wins.
config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="PATH",
    expose_value=False,
    callback=_remember,
    help="Configuration file, before OSTEON_CONFIG and ./osteon.toml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def number_option(
    flag: str, low: int, high: int, default: int, what: str
) -> Callable[[Decorated], Decorated]:
    """Make an option that takes a whole number between two limits."""
    kind = click.IntRange(low, high)
    return click.option(flag, type=kind, default=default, show_default=True, metavar="N", help=what)


class FiniteRange(click.FloatRange):
    """A number between limits; neither infinity nor "nan", which no limit keeps out."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number, or fail."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


def days_option(what: str) -> Callable[[Decorated], Decorated]:
    """Make the option ``--days``: how far a command looks back."""
    return click.option(
        "--days",
        type=FiniteRange(min=0, min_open=True),
        default=7.0,
        show_default=True,
        metavar="N",
        help=what,
    )


def example(*lines: str) -> str:
    """Write the example that stands under a command's help, unwrapped."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def chosen_config() -> Path | None:
    """Return the file that ``--config`` named, or None."""
    chosen: Path | None = click.get_current_context().meta.get(_CONFIG)
    return chosen


def settings_in_force() -> Settings:
    """Load the settings that hold for this command.

    Raises
    ------
    ConfigError
        A file, key or value is wrong.
    """
    return load_settings(chosen_config())


def require_data(settings: Settings, name: str, what: str) -> None:
    """Make sure that the data directory is one in which a node has run.

    Raises
    ------
    ConfigError
        There is no file or folder of this name in it.
    UnavailableError
        This user may not look.
    """
    folder = settings.data_dir
    try:
        there = (folder / name).exists()
    except PermissionError as error:
        raise UnavailableError(
            f"data_dir: {folder} cannot be read by this user: run this as the user that the node"
            " runs as"
        ) from error
    if not there:
        raise ConfigError(
            f"no {what} in {folder.absolute()}: start `osteon serve`,"
            " or name the node's configuration with --config"
        )


@contextmanager
def job_table(settings: Settings) -> Iterator[Table]:
    """Open the job table of a node that has run before, and close it after the block.

    Raises
    ------
    ConfigError
        There is none: a command that only looks must not create one in the wrong place.
    UnavailableError
        This user may not look.
    """
    require_data(settings, FILE_NAME, "job table")
    table = open_table(settings.data_dir)
    try:
        yield table
    finally:
        table.close()
