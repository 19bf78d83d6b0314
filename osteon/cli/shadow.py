"""``osteon shadow``: how models that run beside the first compare with it, before one is used."""

import json
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
from osteon.pipeline.table.views import iso


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
        still_open = shadow.count_open(table)
    if as_json:
        write_json({"models": found, "unfinished": still_open})
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
                    case["worst_segment"],
                )
                for case in one["worst"]
            ]
            write_table(("dice", "job", "beside", "compared", "accession", "worst segment"), rows)
        click.echo()
    click.echo(f"{still_open} not finished" if found or still_open else "no shadow has run yet")


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
        "worst_segment": _words(min(segments, key=lambda s: s["dice"], default=None)),
        "segments": segments,
    }


def _words(segment: dict[str, Any] | None) -> str:
    if segment is None:
        return ""
    return (
        f"{segment['label']}: Dice {segment['dice']:.3f},"
        f" {segment['volume_ml']:.1f} ml beside {segment['first_volume_ml']:.1f} ml"
    )
