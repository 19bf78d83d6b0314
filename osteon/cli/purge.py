"""``osteon purge``: remove what is over and old."""

import sys
import time

import click

from osteon.cli.options import (
    FiniteRange,
    config_option,
    example,
    job_table,
    json_option,
    settings_in_force,
)
from osteon.cli.output import progress, write_json, write_table
from osteon.pipeline.purge import (
    Freed,
    empty_associations,
    purge,
    purge_associations,
    purgeable,
)

DAY_S = 86_400


@click.command(
    name="purge",
    epilog=example("osteon purge --older-than 30 --dry-run", "osteon purge --older-than 30 --yes"),
)
@config_option
@json_option
@click.option(
    "--older-than",
    "days",
    required=True,
    type=FiniteRange(min=0),
    metavar="DAYS",
    help="Days since anything has happened to a series.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def command(days: float, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove finished series that are older than some days.

    Their inputs, results and records go; series with work to do stay. Associations of which nothing
    is held, such as those for C-ECHO, go at the same age.
    """
    with job_table(settings_in_force()) as table:
        before = time.time() - days * DAY_S
        found, empty = purgeable(table, before), empty_associations(table, before)
        if (found or empty) and not dry_run and not yes:
            _ask(found, empty)
        freed = found
        if not dry_run:
            with progress("purging", len(found)) as bar:
                freed = []
                for done, one in enumerate(found, 1):
                    gone = purge(table, one.series_instance_uid, before)
                    freed += [gone] if gone is not None else []
                    bar.show(done)
            # Those of the series that went are gone with them.
            empty = purge_associations(table, before)
    if as_json:
        write_json([vars(one) for one in freed])
        return
    if dry_run:
        rows = [(one.series_instance_uid, one.files, f"{one.size / 1e6:.1f}") for one in freed]
        write_table(("series", "files", "MB"), rows)
    click.echo(f"{'would remove' if dry_run else 'removed'} {_sum(freed, empty)}")


def _ask(found: list[Freed], empty: int) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("this would ask: give --yes, or --dry-run")
    click.confirm(f"Remove {_sum(found, empty)} for good?", abort=True, err=True)


def _sum(found: list[Freed], empty: int) -> str:
    files, size = sum(one.files for one in found), sum(one.size for one in found)
    words = f"{len(found)} series, {files} files, {size / 1e6:.1f} MB"
    log = "1 association" if empty == 1 else f"{empty} associations"
    return f"{words}, and {log} without images" if empty else words
