"""Admission: a quiet series is judged, routed and closed; what it becomes waits at the door.

Due series of the table enter and jobs leave, with what each of them costs. The observer calls it
for every due series; ``door.py`` then lets jobs in.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from osteon.config.settings import Generations, Priority, Settings
from osteon.errors import StaleTransition
from osteon.pipeline.budget import cost_of
from osteon.pipeline.completeness import Link, Slice, Verdict, judge
from osteon.pipeline.routes import Candidate, Decision, decide_in_study
from osteon.pipeline.table import jobs, lines, listening, series
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.series import NewJob

NO_ROUTE = "none"
CLASSES = tuple(Priority)
log = structlog.get_logger(__name__)


def judge_series(settings: Settings, table: Table, row: Row, gone: float | None) -> None:
    """Judge a series whose quiet time is over, and create its jobs if it is complete.

    Parameters
    ----------
    gone : float or None
        Since when no receiver listens, in seconds since 1970; None while one does.
    """
    # An instance that arrives in between makes the row stale: it is judged again later.
    with suppress(StaleTransition):
        _judge(settings, table, row, gone)


def _judge(settings: Settings, table: Table, row: Row, gone: float | None) -> None:
    now = table.clock()
    instances = series.input_of(table, row)
    verdict = _verdict_on(settings, table, row, instances, now, gone)
    if not verdict.complete:
        series.postpone(table, row, verdict.due, verdict.why)
        return
    study = series.of_study(table, row["study_instance_uid"])
    siblings = [row, *(s for s in study if s["series_instance_uid"] != row["series_instance_uid"])]
    new_jobs = jobs_of(settings, row, instances, siblings)
    if any(_is_chosen(settings, job) for job in new_jobs):
        # Of series that wait for each other none is open at the latest of their due times.
        dues = [_open_until(settings, table, s, now, gone) for s in siblings if s is not row]
        open_until = [due for due in dues if due is not None]
        if open_until:
            why = f"{len(open_until)} other series of its study to be complete"
            series.postpone(table, row, max(open_until), why)
            return
    with table.write():
        ids = series.complete(table, row, verdict.why, new_jobs)
        if settings.pipeline.generations is Generations.REPLACE:
            for job in new_jobs:
                supersede_earlier(table, row, job)
    log.info("series complete", series=row["series_instance_uid"], jobs=ids, why=verdict.why)


def _verdict_on(
    settings: Settings,
    table: Table,
    row: Row,
    instances: Sequence[Row],
    now: float,
    gone: float | None,
) -> Verdict:
    return judge(
        [slice_of(instance) for instance in instances],
        last=row["last"],
        now=now,
        quiet_s=settings.quiet_s_of(row["calling_ae_title"]),
        gap_wait_s=settings.scp.gap_wait_s,
        link=link_of(table, row, gone),
    )


def link_of(table: Table, row: Row, gone: float | None) -> Link | None:
    """Return how the sender of a series could be heard; None where all of it came by HTTP."""
    association = listening.decisive_association(table, row)
    if association is None:
        return None
    if gone is not None:  # One that comes and goes may have been back between two looks.
        gone = max(gone, row["last"])
    # One that is open while no receiver listens was cut off when the receiver stopped.
    cut = gone if association["closed"] is None else association["closed"]
    return Link(
        sender=association["calling_ae_title"],
        listening=listening.listening_since(table),
        gone=gone,
        cut=cut if association["unfinished"] else None,
        how=association["outcome"] or "",
        is_back=bool(association["is_back"]),
    )


def _open_until(
    settings: Settings, table: Table, sibling: Row, now: float, gone: float | None
) -> float | None:
    """Return when a series that is still open is looked at next; None where it is not open."""
    if sibling["state"] != "receiving":
        return None
    if sibling["due"] > now:
        return float(sibling["due"])
    instances = series.input_of(table, sibling)
    verdict = _verdict_on(settings, table, sibling, instances, now, gone)
    return None if verdict.complete else verdict.due


def supersede_earlier(table: Table, row: Row, job: NewJob) -> None:
    """End what the route of a new job has not finished of the series' earlier generations."""
    if job.rejected is not None:
        return  # Nothing takes the place of what the earlier generation became.
    for earlier in lines.earlier_unfinished(table, row, job.route):
        jobs.supersede(table, earlier, f"superseded by generation {row['generation']}")


def jobs_of(
    settings: Settings, row: Row, instances: Sequence[Row], siblings: Sequence[Row]
) -> list[NewJob]:
    """Ask the routes what a series becomes.

    Parameters
    ----------
    instances, siblings : sequence of Row
        Its input, and the newest generation of every series of its study, itself among them.

    Returns
    -------
    list of NewJob
        One for each route that takes it or passes it over for another series of its study; a
        rejected one of the route `NO_ROUTE` where there is none.
    """
    cost, input_bytes = cost_of(row["header"], instances)
    routed = _route(settings, row, instances, siblings)
    return [replace(job, cost=cost, input_bytes=input_bytes) for job in routed]


def _route(
    settings: Settings, row: Row, instances: Sequence[Row], siblings: Sequence[Row]
) -> list[NewJob]:
    input_sha256 = input_digest(instances)
    late = late_words(settings, row)
    if late:
        return [_rejected(late, input_sha256)]
    decisions = decisions_on(settings, row, siblings)
    new_jobs = [
        _new_job(settings, row, decision, input_sha256)
        for decision in decisions
        if decision.taken or decision.passed_over_for
    ]
    if new_jobs:
        return new_jobs
    faults = "; ".join(f"{d.route.name}: {d.why}" for d in decisions)
    return [_rejected(f"no route takes it: {faults}", input_sha256)]


def late_words(settings: Settings, row: Row) -> str:
    """Say why no route is asked about slices that came late, or "" where they are."""
    if settings.pipeline.generations is not Generations.NEVER or row["generation"] == 1:
        return ""
    return (
        f"{row['instances']} instances are held, but the series was complete before the last"
        " ones came, and pipeline.generations is 'never'"
    )


def decisions_on(settings: Settings, row: Row, siblings: Sequence[Row]) -> list[Decision]:
    """Return what every route says of a series; parameters as of `jobs_of`."""
    compared = any(route.series != "all" for route in settings.routes)
    study = [candidate_of(sibling) for sibling in siblings] if compared else []
    return decide_in_study(settings.routes, candidate_of(row), study)


def _new_job(settings: Settings, row: Row, decision: Decision, input_sha256: str) -> NewJob:
    route = decision.route
    names = [destination.name for destination in settings.destinations_of(route)]
    return NewJob(
        route=route.name,
        model=route.model,
        priority=CLASSES.index(settings.priority_of(route, row["calling_ae_title"])),
        destinations=json.dumps(names),
        input_sha256=input_sha256,
        rejected=None if decision.taken else f"{route.name}: {decision.why}",
        shadow=json.dumps(route.shadow),
    )


def _rejected(why: str, input_sha256: str) -> NewJob:
    priority = CLASSES.index(Priority.ROUTINE)
    return NewJob(NO_ROUTE, "", priority, "[]", input_sha256, rejected=why)


def _is_chosen(settings: Settings, job: NewJob) -> bool:
    return any(route.name == job.route and route.series != "all" for route in settings.routes)


def candidate_of(row: Row) -> Candidate:
    """Return a series row as routes see it."""
    return Candidate(
        series_instance_uid=row["series_instance_uid"],
        called_ae_title=row["called_ae_title"],
        values=json.loads(row["header"]),
        instances=row["instances"],
    )


def slice_of(instance: Row) -> Slice:
    """Return an instance row as evidence of completeness."""
    position, orientation = instance["position"], instance["orientation"]
    return Slice(
        instance["instance_number"],
        json.loads(position) if position else None,
        json.loads(orientation) if orientation else None,
    )


def input_digest(instances: Sequence[Row]) -> str:
    """Return the identity of an input set: of its sorted (SOP Instance UID, digest)."""
    identity = sorted((i["sop_instance_uid"], i["digest"]) for i in instances)
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()
