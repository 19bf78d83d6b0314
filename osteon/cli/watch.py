"""``osteon watch``: the jobs of the node as they move, until Ctrl-C."""

import time
from contextlib import suppress

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from osteon.cli.jobs import COLUMNS, row_of
from osteon.cli.options import (
    config_option,
    example,
    job_table,
    json_option,
    number_option,
    settings_in_force,
)
from osteon.cli.output import rich_table, write_json, write_table
from osteon.pipeline.table import views
from osteon.pipeline.table.connection import Table

REFRESH_S = 1.0


@click.command(name="watch", epilog=example("osteon watch", "osteon watch --once"))
@config_option
@json_option
@click.option("--once", is_flag=True, help="Print the table once and end; for scripts.")
@number_option("--limit", 1, 500, 20, "How many.")
def command(once: bool, limit: int, as_json: bool) -> None:
    """Show the newest jobs, refreshed every second, until Ctrl-C."""
    if as_json and not once:
        raise click.UsageError("--json needs --once: it prints one document and ends")
    with job_table(settings_in_force()) as table:
        if once:
            found = views.jobs(table, limit=limit)
            if as_json:
                write_json({"counts": views.counts(table)["jobs"], "jobs": found})
                return
            click.echo(_counts(table))
            write_table(COLUMNS, [row_of(job) for job in found])
            return
        # Ctrl-C is how a person ends this; it is no failure.
        with suppress(KeyboardInterrupt), Live(console=Console(), screen=False) as live:
            while True:
                live.update(_picture(table, limit))
                time.sleep(REFRESH_S)


def _picture(table: Table, limit: int) -> Group:
    rows = [row_of(job) for job in views.jobs(table, limit=limit)]
    return Group(Text(_counts(table), style="bold"), rich_table(COLUMNS, rows))


def _counts(table: Table) -> str:
    counts = views.counts(table)["jobs"]
    return "  ".join(f"{status} {count}" for status, count in counts.items())
