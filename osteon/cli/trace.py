"""``osteon trace``: why is my study not done? The story of a series, oldest entry first."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from osteon.cli.jobs import wait_of
from osteon.cli.options import config_option, example, job_table, json_option, settings_in_force
from osteon.cli.output import local_time, printable, write_json
from osteon.pipeline.job import standing_of
from osteon.pipeline.table import views


@click.command(name="trace", epilog=example("osteon trace 17", "osteon trace A4711"))
@config_option
@json_option
@click.argument("name", metavar="ID|ACCESSION")
def command(name: str, as_json: bool) -> None:
    """Tell the story of a study, and what it waits for now.

    It goes by a job, a series or study UID, or an accession number.
    """
    with job_table(settings_in_force()) as table:
        stories = views.trace(table, name)
    if as_json:
        write_json(stories)
        return
    for story in stories:
        for line in lines_of(story):
            click.echo(printable(line))


def lines_of(story: dict[str, Any]) -> Iterator[str]:
    """Tell one story of `views.trace`, line by line."""
    yield f"Series {story['series_instance_uid']}, generation {story['generation']}"
    accession = story["accession_number"] or "none"
    yield f"  {story['modality']}, {story['instances']} instances, accession number {accession}"
    for came in story["associations"]:
        end = came["outcome"] or "is still open"
        yield (
            f"  {came['instances']} instances from {came['calling_ae_title']} at {came['address']}"
            f" to {came['called_ae_title']}; association {end}"
        )
    entries = [
        (story["first"], "first instance durable"),
        (story["last"], "last instance durable"),
        *((event["at"], _words(event)) for event in story["events"]),
    ]
    for at, words in sorted(entries, key=lambda entry: entry[0]):
        yield f"  {_clock(at)}  {words}"
    if story["state"] == "receiving":
        yield f"  now: waits for {story['waits_for']}{wait_of(story)}"
    for job in story["jobs"]:
        standing = standing_of(job["status"], job["state"])
        yield f"  now: job {job['id']} is {standing}: {job['reason']}{wait_of(job)}"
        for result in job["results"]:
            for delivery in result["deliveries"]:
                said = f": {delivery['reason']}" if delivery["reason"] else ""
                later = delivery["next_attempt"]
                again = f", next attempt at {local_time(later)}" if later else ""
                yield f"  now: {delivery['destination']} {delivery['state']}{again}{said}"


def _words(event: dict[str, Any]) -> str:
    who = f"job {event['job_id']}" if event["job_id"] else "series"
    place = f" at {event['stage']}" if event["stage"] else ""
    return f"{who} {event['event']}{place} ({event['who']}): {event['why']}"


def _clock(iso: str) -> str:
    at = datetime.fromisoformat(iso).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
