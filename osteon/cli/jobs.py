"""``osteon jobs``: what the node works on, and what a person can do about it."""

import sys
import time
from datetime import datetime
from typing import Any

import click

from osteon.cli import jobactions
from osteon.cli.options import (
    config_option,
    example,
    job_table,
    json_option,
    number_option,
    settings_in_force,
)
from osteon.cli.output import local_time, printable, write_json, write_table
from osteon.cli.segments import write_segments
from osteon.pipeline.job import State, Status, standing_of
from osteon.pipeline.table import views

COLUMNS = (
    *("id", "status", "progress", "instances", "route", "updated", "accession", "gen", "series"),
    "reason",
)
_UID_TAIL = 12  # At a terminal; in a pipe and in JSON a UID is whole.


@click.group(name="jobs", epilog=example("osteon jobs list"))
def command() -> None:
    """List and show jobs; retry, reroute, prioritize or cancel them."""


for action in (jobactions.retry, jobactions.reroute, jobactions.priority, jobactions.cancel):
    command.add_command(action)


@command.command(name="list", epilog=example("osteon jobs list --status failed --json"))
@config_option
@json_option
@click.option(
    "--status",
    type=click.Choice([s.value for s in Status]),
    metavar="STATUS",
    help=f"Only these: {', '.join(Status)}.",
)
@click.option(
    "--state",
    type=click.Choice([s.value for s in State]),
    metavar="STATE",
    help="Only these: what they are doing, or how they ended; cancelled, for example.",
)
@number_option("--limit", 1, 10_000, 50, "How many.")
def list_jobs(status: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List jobs, the newest first.

    Series that are still arriving stand before them.
    """
    with job_table(settings_in_force()) as table:
        found = views.jobs(
            table,
            status=Status(status) if status else None,
            state=State(state) if state else None,
            limit=limit,
        )
    if as_json:
        write_json(found)
    else:
        write_table(COLUMNS, [row_of(job) for job in found])


@command.command(epilog=example("osteon jobs show 17"))
@config_option
@json_option
@click.argument("name", metavar="ID")
def show(name: str, as_json: bool) -> None:
    """Show a job with its results, segments and deliveries.

    ID may be a Series Instance UID.
    """
    with job_table(settings_in_force()) as table:
        job = views.predict(table, name)
    if as_json:
        write_json(job)
        return
    for key in ("id", "status", "stage", "state", "reason", "route", "model"):
        click.echo(f"{key:<10}{printable(job[key])}")
    if job["shadow_of"]:
        click.echo(f"{'beside':<10}job {job['shadow_of']}: a shadow, which is sent to nobody")
    click.echo(f"{'accession':<10}{printable(job['accession_number'] or 'none')}")
    click.echo(f"{'series':<10}{job['series_instance_uid']} generation {job['generation']}")
    ahead = f"{job['ahead']} jobs of its source enter before it"
    told = {key: job[key] and local_time(job[key]) for key in ("since", "until")}
    where = {"worker": job["worker"]}
    for key, words in (where | told | {"ahead": job["ahead"] and ahead}).items():
        if words:
            click.echo(printable(f"{key:<10}{words}"))
    click.echo(f"{'progress':<10}{job['progress']:.0%}")
    click.echo(f"{'instances':<10}{job['instances']}")
    click.echo(f"{'updated':<10}{local_time(job['updated'])}")
    for result in job["results"]:
        _write_result(result)
    if job["segments"]:
        click.echo()
        write_segments(job["segments"])
    for shadow in job["shadow"]:
        click.echo()
        _write_shadow(shadow)


def row_of(job: dict[str, Any]) -> tuple[object, ...]:
    """Return a job as a row under `COLUMNS`."""
    receiving = job["status"] == Status.RECEIVING
    return (
        "" if receiving else job["id"],
        standing_of(job["status"], job["state"]),
        f"{job['progress']:.0%}",
        job["instances"],
        job["route"],
        _shown_time(job["updated"]),
        job["accession_number"],
        job["generation"],
        _shown_uid(job["series_instance_uid"]),
        f"{job['reason']}{wait_of(job)}",
    )


def _shown_time(iso: str) -> str:
    """At a terminal a time of today is without its date."""
    day, _, clock = local_time(iso).partition(" ")
    today = datetime.now().astimezone().strftime("%Y-%m-%d")
    return clock if sys.stdout.isatty() and day == today else f"{day} {clock}"


def _shown_uid(uid: str) -> str:
    whole = not sys.stdout.isatty() or len(uid) <= _UID_TAIL
    return uid if whole else f"…{uid[-_UID_TAIL:]}"


def wait_of(job: dict[str, Any], now: float | None = None) -> str:
    """Say how long a job or series has waited, and until when; "" where it does not wait.

    Parameters
    ----------
    now : float, optional
        Seconds since 1970; the present where absent.
    """
    if job["since"] is None:
        return ""
    now = time.time() if now is None else now
    words = f", for {_span(now - datetime.fromisoformat(job['since']).timestamp())}"
    if job["until"] is not None:
        left = datetime.fromisoformat(job["until"]).timestamp() - now
        words += f", {_span(left)} more at most" if left > 0 else ", due now"
    return words


def _span(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _write_result(result: dict[str, Any]) -> None:
    click.echo(f"{'result':<10}{result['path']}")
    for delivery in result["deliveries"]:
        click.echo(f"{'':<10}{_words(delivery)}")
    for before in result["delivered_before"]:
        words = f"before: to {before['destination']}, delivered at {local_time(before['at'])}"
        click.echo(printable(f"{'':<10}{words}"))


def _write_shadow(shadow: dict[str, Any]) -> None:
    place = f"shadow {shadow['model']}, job {shadow['id']}"
    if shadow["dice"] is None:
        click.echo(
            printable(
                f"{place}: {standing_of(shadow['status'], shadow['state'])}: {shadow['reason']}"
            )
        )
        return
    click.echo(printable(f"{place}: Dice {shadow['dice']:.3f} of all that is segmented"))
    rows = [
        (s["label"], f"{s['dice']:.3f}", f"{s['volume_ml']:.1f}", f"{s['first_volume_ml']:.1f}")
        for s in shadow["segments"]
    ]
    write_table(("segment", "dice", "ml", "ml of the first"), rows)


def _words(delivery: dict[str, Any]) -> str:
    times = "1 attempt" if delivery["attempts"] == 1 else f"{delivery['attempts']} attempts"
    words = f"to {delivery['destination']}: {delivery['state']}, {times}"
    if delivery["next_attempt"]:
        words += f", next at {local_time(delivery['next_attempt'])}"
    return printable(f"{words}: {delivery['reason']}" if delivery["reason"] else words)
