"""``osteon trace``: why is my study not done? The story of a series, oldest entry first."""

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any

import click

from osteon.cli.jobs import wait_of
from osteon.cli.options import config_option, example, job_table, json_option, settings_in_force
from osteon.cli.output import local_time, printable, write_json
from osteon.errors import NotFoundError
from osteon.pipeline.job import standing_of
from osteon.pipeline.table import associations, views
from osteon.pipeline.table.reception import UPLOAD_AE_TITLE

ASSOCIATIONS = 20  # Of a sender, at most.
TOLD_APART_MAX = 5  # Of a story, where they are alike.


@click.command(name="trace", epilog=example("osteon trace 17", "osteon trace A4711"))
@config_option
@json_option
@click.argument("name", metavar="ID|ACCESSION")
def command(name: str, as_json: bool) -> None:
    """Tell the story of a study, and what it waits for now.

    It goes by a job, a series or study UID, or an accession number; an AE title that is none of
    these gets its latest associations told.
    """
    with job_table(settings_in_force()) as table:
        try:
            stories = views.trace(table, name)
        except NotFoundError:
            came = associations.latest(table, calling=name, limit=ASSOCIATIONS)
            if not came:
                raise
            stories = [{"calling_ae_title": name, "associations": came}]
    if as_json:
        write_json(stories)
        return
    for story in stories:
        is_series = "series_instance_uid" in story
        for line in lines_of(story) if is_series else _lines_of_sender(story):
            click.echo(printable(line))


def lines_of(story: dict[str, Any]) -> Iterator[str]:
    """Tell one story of `views.trace`, line by line."""
    yield f"Series {story['series_instance_uid']}, generation {story['generation']}"
    accession = story["accession_number"] or "none"
    yield f"  {story['modality']}, {story['instances']} instances, accession number {accession}"
    if story["uploaded"]:
        yield f"  {story['uploaded']} instances {_by_no_association(story)}"
    entries = [
        *((came["opened"], _association(came)) for came in _gathered(story["associations"])),
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
            for before in result["delivered_before"]:
                at = local_time(before["at"])
                yield f"  before: {before['destination']} has an earlier run's, since {at}"


def _lines_of_sender(story: dict[str, Any]) -> Iterator[str]:
    yield f"The latest associations of {story['calling_ae_title']}"
    for came in reversed(story["associations"]):
        at = came["closed"] if came["rejected"] else came["opened"]
        yield f"  {_clock(at)}  {_association(came)}"


def _gathered(associations: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Make one of many that follow each other and differ in nothing: one for each slice."""
    for _, alike in groupby(associations, key=_kind):
        together = list(alike)
        if len(together) <= TOLD_APART_MAX or together[0]["closed"] is None:
            yield from together
            continue
        sums = {key: sum(came[key] for came in together) for key in ("instances", "again")}
        last = max(came["closed"] for came in together)
        yield together[0] | sums | {"closed": last, "count": len(together)}


def _kind(came: dict[str, Any]) -> tuple[object, ...]:
    keys = ("calling_ae_title", "called_ae_title", "address", "outcome", "refused", "refusal")
    return tuple(came[key] for key in keys)


def _association(came: dict[str, Any]) -> str:
    """Tell of an association what it brought: of a series where one is told of, else in all."""
    way = f"{came['calling_ae_title']} at {came['address']} to {came['called_ae_title']}"
    if came["closed"] is None:
        said = f" {came['instances']} instances," if "instances" in came else ""
        return f"association of {way}:{said} still open"
    if came["rejected"]:
        times, since = came["rejected"], _clock(came["opened"])
        often = f", {times} times since {since}" if times > 1 else ""
        return f"association of {way} {came['outcome']}{often}"
    until, said = _clock(came["closed"]), ", ".join(_brought(came))
    what = f"{came['count']} associations" if "count" in came else "association"
    return f"{what} of {way} until {until}: {said}; {came['outcome']}"


def _brought(came: dict[str, Any]) -> Iterator[str]:
    """Say what an association that is over brought, in words."""
    if "instances" in came:
        yield f"{came['instances']} instances"
        again = came["again"]
    else:
        yield "unknown" if came["stored"] is None else f"{came['stored']} instances"
        again = came["duplicates"]
    if again:
        yield f"{again} held already"
    if came["refused"]:
        yield f"{came['refused']} refused, the last with {came['refusal']}"


def _by_no_association(story: dict[str, Any]) -> str:
    if story["source"] == UPLOAD_AE_TITLE:
        return "by HTTP upload"
    return "without an association: uploaded, or put back on record from the spool"


def _words(event: dict[str, Any]) -> str:
    who = f"job {event['job_id']}" if event["job_id"] else "series"
    place = f" at {event['stage']}" if event["stage"] else ""
    return f"{who} {event['event']}{place} ({event['who']}): {event['why']}"


def _clock(iso: str) -> str:
    at = datetime.fromisoformat(iso).astimezone()
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
