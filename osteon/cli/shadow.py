"""``osteon shadow``: how models that run beside the first compare with it, before one is used."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from osteon.cli.options import (
    config_option,
    example,
    job_table,
    json_option,
    number_option,
    settings_in_force,
)
from osteon.cli.output import local_time, write_json, write_table
from osteon.pipeline.table import shadow
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.times import iso


@click.command(name="shadow", epilog=example("osteon shadow", "osteon shadow --worst 20 --json"))
@config_option
@json_option
@number_option("--worst", 0, 1000, 5, "How many of the cases that agree least, of each model.")
def command(worst: int, as_json: bool) -> None:
    """Compare shadow models with those they run beside.

    Of each: how many series, mean and lowest Dice against the first's result, and the worst cases.
    """
    with job_table(settings_in_force()) as table:
        found = [_summary(table, row, worst) for row in shadow.summaries(table)]
        still_open, failed = shadow.count_open(table), shadow.count_failed(table)
    if as_json:
        write_json({"models": found, "unfinished": still_open, "failed": failed})
        return
    for one in found:
        click.echo(
            f"{one['model']} beside {one['first_model']}: {one['n']} series,"
            f" Dice {one['mean_dice']:.3f} in the mean, {one['min_dice']:.3f} at the lowest"
        )
        if one["worst"]:
            rows = [
                (
                    f"{case['dice']:.3f}",
                    case["job"] or "purged",
                    case["first_job"],
                    local_time(case["compared"]),
                    case["accession_number"],
                    _words(case["segments"]),
                )
                for case in one["worst"]
            ]
            write_table(("dice", "job", "beside", "compared", "accession", "segments"), rows)
        click.echo()
    some = found or still_open or failed
    click.echo(f"{still_open} not finished, {failed} failed" if some else "no shadow has run yet")


def _summary(table: Table, row: Row, worst: int) -> dict[str, Any]:
    cases = shadow.worst(table, row["model"], row["first_model"], worst)
    return dict(row) | {"worst": [_case(case) for case in cases]}


def _case(case: Row) -> dict[str, Any]:
    segments = json.loads(case["segments"])
    return {
        "job": None if case["job_id"] is None else str(case["job_id"]),
        "first_job": None if case["shadow_of"] is None else str(case["shadow_of"]),
        "series_instance_uid": case["series_instance_uid"],
        "accession_number": case["accession_number"],
        "route": case["route"],
        "compared": iso(case["updated"]),
        "dice": case["dice"],
        "segments": segments,
    }


def _words(segments: Sequence[Mapping[str, Any]]) -> str:
    """Say which segment differs most of those that both have, and how many only one has."""
    both = [s for s in segments if s["volume_ml"] and s["first_volume_ml"]]
    words = []
    if both:
        worst = min(both, key=lambda s: float(s["dice"]))
        words.append(
            f"{worst['label']}: Dice {worst['dice']:.3f}, {worst['volume_ml']:.1f} ml beside"
            f" {worst['first_volume_ml']:.1f} ml"
        )
    if len(both) < len(segments):
        words.append(f"{len(segments) - len(both)} that only one has")
    return "; ".join(words)
