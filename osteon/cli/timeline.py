"""The way of one series as a table: when each station was reached, and how long it took.

A story of `osteon.pipeline.table.views.trace` enters, milestones leave; ``demo`` prints them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from osteon.pipeline.job import Event, Stage

# The stage that a job enters when the station before it is passed.
_STATIONS = {
    "predicted": Stage.BONESEG,
    "combined": Stage.ENCODE,
    "encoded": Stage.DELIVER,
}


@dataclass(frozen=True)
class Milestone:
    """A station of the route and when it was passed."""

    name: str
    at: datetime


def timeline(story: dict[str, Any]) -> list[Milestone]:
    """Return what a series has passed so far, in the order of the route.

    Parameters
    ----------
    story : dict
        One element of ``views.trace``, of a series with at most one job.
    """
    found = {"first slice": story["first"], "last slice": story["last"]}
    for event in story["events"]:
        if event["job_id"] is None and event["event"] == "complete":
            found["complete"] = event["at"]
        for name, stage in _STATIONS.items():
            if event["event"] == Event.FINISH and event["stage"] == stage:
                found[name] = event["at"]
    delivered = [
        delivery["updated"]
        for job in story["jobs"]
        for result in job["results"]
        for delivery in result["deliveries"]
        if delivery["state"] == "delivered"
    ]
    if delivered:
        found["delivered"] = max(delivered)
    return [Milestone(name, datetime.fromisoformat(at)) for name, at in found.items()]


def rows_of(milestones: Sequence[Milestone]) -> list[tuple[str, str, str, str]]:
    """Write milestones as rows: name, time of day, seconds since the first, since the last."""
    rows = []
    before = milestones[0].at
    for milestone in milestones:
        local = milestone.at.astimezone()
        rows.append(
            (
                milestone.name,
                f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}",
                f"{(milestone.at - milestones[0].at).total_seconds():.2f}",
                f"{(milestone.at - before).total_seconds():+.2f}",
            )
        )
        before = milestone.at
    return rows
