"""``osteon associations``: who connected, what came of it, and who was turned away."""

from datetime import datetime
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
from osteon.pipeline.table.associations import latest

COLUMNS = (
    *("opened", "closed", "calling", "called", "address", "stored", "duplicates", "refused"),
    "outcome",
)
_FORMATS = ["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"]


class LocalTime(click.DateTime):
    """A time as people write it; click's own message names formats of Python."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return the time, or fail."""
        try:
            found: datetime = super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"{value!r} is no time: write 2026-01-31 or '2026-01-31 07:30'", param, ctx)
        return found


@click.group(name="associations", epilog=example("osteon associations list"))
def command() -> None:
    """Show who connected, and what came of it."""


@command.command(
    name="list", epilog=example("osteon associations list --ae CT1 --since 2026-01-31")
)
@config_option
@json_option
@click.option("--ae", metavar="TITLE", help="Only those of this calling AE title.")
@click.option(
    "--since",
    type=LocalTime(_FORMATS),
    metavar="TIME",
    help="Only those since then, local time: 2026-01-31 or '2026-01-31 07:30'.",
)
@number_option("--limit", 1, 10_000, 50, "How many.")
def list_associations(ae: str | None, since: datetime | None, limit: int, as_json: bool) -> None:
    """List who connected, and who was rejected.

    The newest stands first. Duplicates were held already, and count as stored too. Rejections that
    are alike are one line with the first and the last time.
    """
    with job_table(settings_in_force()) as table:
        found = latest(
            table, calling=ae, since=0.0 if since is None else since.timestamp(), limit=limit
        )
    if as_json:
        write_json(found)
    else:
        write_table(COLUMNS, [_row(one) for one in found])


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    return (
        local_time(one["opened"]),
        local_time(one["closed"]),
        one["calling_ae_title"],
        one["called_ae_title"],
        one["address"],
        one["stored"],
        one["duplicates"],
        one["refused"],
        _outcome(one),
    )


def _outcome(one: dict[str, Any]) -> str:
    if one["rejected"] > 1:
        return f"{one['outcome']} ({one['rejected']} times)"
    refused = f"; the last refused: {one['refusal']}" if one["refusal"] else ""
    return f"{one['outcome'] or 'open'}{refused}"
