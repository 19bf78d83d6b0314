"""How commands write: tables, JSON and progress, for people at a terminal and for programs.

Values enter, text leaves on standard output; progress goes to standard error. Where the stream is
no terminal, tables are plain aligned columns and progress is silent.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from osteon.errors import ConfigError

SKIPPED_NAMED_MAX = 10
WORDS_MIN = 40  # Columns of a terminal.


def printable(value: object) -> str:
    """Return a value as text that cannot steer a terminal: peers choose AE titles and names."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def write_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def write_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, words_min: int = WORDS_MIN
) -> None:
    """Print rows under their columns; whole values and plain text where it is no terminal.

    The last column is at least `words_min` wide at a terminal, however narrow this makes others.
    """
    texts = [[printable(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        Console().print(rich_table(columns, texts, words_min))
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    for line in (columns, *texts):
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def rich_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], words_min: int = WORDS_MIN
) -> Table:
    """Lay rows out for a terminal; nothing in them is taken as markup."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns[:-1]:
        table.add_column(column, overflow="fold")
    # The last one tells in words and takes what room there is.
    table.add_column(columns[-1], overflow="fold", ratio=1, min_width=words_min)
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    return table


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator["Bar"]:
    """Show a bar on standard error while the block runs, where that is a terminal."""
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as shown:
        yield Bar(shown, what, total)


class Bar:
    """One progress bar."""

    def __init__(self, shown: Progress, what: str, total: int | None) -> None:
        self._shown = shown
        self._task = shown.add_task(what, total=total)

    def show(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """Show how many are done, of how many, and what is going on."""
        self._shown.update(self._task, completed=done, total=total, description=what)


def write_skipped(skipped: Sequence[tuple[Path, str]]) -> None:
    """Print files that were passed over with their reasons, the first ten of many."""
    for path, why in skipped[:SKIPPED_NAMED_MAX]:
        click.echo(printable(f"skipped {path}: {why}"))
    if len(skipped) > SKIPPED_NAMED_MAX:
        click.echo(f"skipped {len(skipped) - SKIPPED_NAMED_MAX} more files: see --json")


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Map what a disk refuses while the block writes a command's output.

    Raises
    ------
    ConfigError
        The path cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}: choose another") from error


def local_time(iso: str | None) -> str:
    """Write a time of the job table for people: local, to the second; empty for none."""
    if iso is None:
        return ""
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")
