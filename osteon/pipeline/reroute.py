"""Ask the present routes about series that are held: those no route took, and those of old routes.

A series of the table enters, what became of it leaves. People call it, by ``osteon jobs retry`` and
``reroute`` and by HTTP; routes decide by the same rules as for a series that has just come.

Of one series generation no two results of one model stand: a job of the same model is moved to its
new route, and one that the present routes do not give any more is replaced. What it had made stands
until what replaces it has made its own.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from osteon.config.settings import Generations, Settings
from osteon.errors import NotFoundError, NotRunnableError, StaleTransition
from osteon.pipeline.admission import NO_ROUTE, jobs_of, supersede_earlier
from osteon.pipeline.job import State
from osteon.pipeline.table import jobs, rerouting, series
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.series import NewJob


class Became(StrEnum):
    """What became of a job."""

    NEW = "new"  # it was not there before
    REROUTED = "rerouted"  # it runs, as the present route says
    AGAIN = "again"  # it runs as before
    KEPT = "kept"  # it is or was just this: it is left alone
    REPLACED = "replaced"  # no present route gives it, and another one takes its place


@dataclass(frozen=True)
class Rerouted:
    """One job of a series, and what became of it in words.

    Attributes
    ----------
    id : int
        Of the job.
    """

    id: int
    series_instance_uid: str
    became: Became
    words: str


def retry(settings: Settings, table: Table, job: Row, who: str) -> list[Rerouted]:
    """Run a job that is over again; of one that no route took, ask the present routes.

    Raises
    ------
    NotRunnableError
        Still no route takes it, its route or the route's model is another one by now, or something
        newer has taken its place.
    StaleTransition
        It is not over.
    """
    jobs.refuse_replaced(table, job)
    of = series.get(table, job["series_id"])
    if not job["model"]:
        return reroute(settings, table, of, who)
    require_route(settings, job)
    jobs.rerun(table, job, who)
    uid = of["series_instance_uid"]
    return [Rerouted(job["id"], uid, Became.AGAIN, "waits to run again")]


def require_route(settings: Settings, job: Row) -> None:
    """Refuse to run a job as it was whose route, or the route's model, is another one by now.

    Raises
    ------
    NotRunnableError
        It is; a shadow goes by the job that it runs beside.
    """
    fault = route_fault(settings, job)
    if fault:
        raise NotRunnableError(
            f"{fault}: ask the present routes by `osteon jobs reroute {job['id']}`"
        )


def route_fault(settings: Settings, job: Row) -> str:
    """Say why a job cannot run by the route that it had, or "" where it can."""
    if job["shadow_of"] is not None:
        return ""
    route = next((r for r in settings.routes if r.name == job["route"]), None)
    if route is not None and route.model == job["model"]:
        return ""
    now = "is not configured any more" if route is None else f"has the model {route.model} now"
    return f"job {job['id']} is of the model {job['model']} by route {job['route']!r}, which {now}"


def never_taken(settings: Settings, table: Table, since: float) -> list[Row]:
    """Return the series that no route took when they came, and that a present one takes.

    Parameters
    ----------
    since : float
        Only those whose last instance came then or later, in seconds since 1970.
    """
    found = rerouting.never_taken(table, since)
    return [row for row in found if any(job.rejected is None for job in _ask(settings, table, row))]


def reroute(
    settings: Settings, table: Table, of: Row, who: str, *, only: str | None = None
) -> list[Rerouted]:
    """Let the present routes decide what becomes of a series.

    Parameters
    ----------
    of : Row
        Of the series; its newest generation is decided.
    only : str, optional
        A route that a person has chosen: what others give is left as it is.

    Raises
    ------
    NotFoundError
        There is no route of this name.
    NotRunnableError
        No route takes it, or the chosen one does not; nothing is changed.
    StaleTransition
        It is still receiving, or its job has moved meanwhile.
    """
    uid = of["series_instance_uid"]
    with table.write():
        row = rerouting.series_named(table, uid)[0]
        if row["state"] != "complete":
            raise StaleTransition(f"series {uid} is still receiving: routes are asked at its end")
        asked = _ask(settings, table, row)
        wanted = [job for job in asked if job.rejected is None]
        if only is not None:
            _require_taken(settings, uid, only, wanted)
            wanted.sort(key=lambda job: job.route != only)  # It is the first to find its job.
        if not wanted:
            raise NotRunnableError(f"series {uid}: {'; '.join(j.rejected or '' for j in asked)}")
        passed_over = {job.route for job in asked if job.rejected is not None}
        standing = [
            job
            for job in rerouting.standing(table, row["id"])
            if job["state"] != State.REJECTED or job["route"] not in passed_over
        ]
        pairs, rest = match_jobs(wanted, standing)
        if only is not None:  # And whatever job has the name of its route now.
            pairs = [p for p in pairs if only in (p[0].route, p[1] and p[1]["route"])]
            wanted = [new for new, _ in pairs]
        moved = [job for new, job in pairs if job is not None and job["route"] != new.route]
        for job in [*rest, *moved]:
            rerouting.vacate(table, job)  # Two routes may have changed their names.
        made = [_settle(table, row, new, job, who) for new, job in pairs]
        if settings.pipeline.generations is Generations.REPLACE:
            for new in wanted:
                supersede_earlier(table, row, new)
        return made + [_replace(table, row, job, pairs, made, who) for job in rest]


def _ask(settings: Settings, table: Table, row: Row) -> list[NewJob]:
    return jobs_of(settings, row, series.input_of(table, row), siblings_of(table, row))


def siblings_of(table: Table, row: Row) -> list[Row]:
    """Return the newest generation of every series of a study, the given one first."""
    study = series.of_study(table, row["study_instance_uid"])
    return [row, *(s for s in study if s["series_instance_uid"] != row["series_instance_uid"])]


def _require_taken(settings: Settings, uid: str, only: str, wanted: Sequence[NewJob]) -> None:
    if only not in {route.name for route in settings.routes}:
        raise NotFoundError(f"no route {only!r}: see `osteon routes list`")
    if only not in {job.route for job in wanted}:
        raise NotRunnableError(f"route {only} does not take series {uid}: see `osteon routes test`")


def match_jobs(
    wanted: Sequence[NewJob], standing: Sequence[Row]
) -> tuple[list[tuple[NewJob, Row | None]], list[Row]]:
    """Find, for every job that the routes want, the one that is there and becomes it.

    That is the same one; else one of the same model, whose result is this very result; else one
    that is over without a result. So whoever asks for it by its number goes on doing so.

    Parameters
    ----------
    standing : sequence of Row
        What `rerouting.standing` gives.

    Returns
    -------
    pairs : list of tuple
        Each wanted job with the row that becomes it; None where it is to be created.
    rest : list of Row
        Those that become none of them.
    """
    left = [job for job in standing if job["state"] != State.SUPERSEDED]
    found: dict[str, Row] = {}
    for fits in (_is_same, _has_model, _has_name, _has_nothing):
        for new in wanted:
            if new.route not in found:
                job = next((job for job in left if fits(new, job)), None)
                if job is not None:
                    found[new.route] = job
                    left.remove(job)
    taken = {job["id"] for job in found.values()}
    rest = [job for job in standing if job["id"] not in taken]
    return [(new, found.get(new.route)) for new in wanted], rest


def _is_same(new: NewJob, job: Row) -> bool:
    return (job["route"], job["model"]) == (new.route, new.model)


def _has_model(new: NewJob, job: Row) -> bool:
    return bool(job["model"] == new.model)


def _has_name(new: NewJob, job: Row) -> bool:
    return _has_nothing(new, job) and job["route"] == new.route


def _has_nothing(_: NewJob, job: Row) -> bool:
    return State(job["state"]).final and not job["has_result"]


def _moves(new: NewJob, job: Row) -> bool:
    """Whether a job is to run by what is wanted now; what does it, or has done it, does not."""
    state = State(job["state"])
    if not state.final:
        return False
    same = all(
        json.loads(job[k]) == json.loads(getattr(new, k)) for k in ("destinations", "shadow")
    )
    return state is not State.DONE or not same


def _settle(table: Table, row: Row, new: NewJob, job: Row | None, who: str) -> Rerouted:
    """Create or move the job that a route wants, or leave alone what is just that."""
    uid = row["series_instance_uid"]
    place = f"route {new.route}, model {new.model}"
    if job is None:
        job_id = series.create_job(table, row, new, who)
        return Rerouted(job_id, uid, Became.NEW, f"is new: {place}")
    if _moves(new, job):
        rerouting.reroute(table, job, new, who)
        return Rerouted(job["id"], uid, Became.REROUTED, f"waits to run: {place}")
    if job["route"] != new.route:
        rerouting.rename(table, job, new.route, who)
    state = "is done already" if job["state"] == State.DONE else "is under way and goes on"
    return Rerouted(job["id"], uid, Became.KEPT, f"{state}: {place}")


def _replace(
    table: Table,
    row: Row,
    job: Row,
    pairs: Sequence[tuple[NewJob, Row | None]],
    made: Sequence[Rerouted],
    who: str,
) -> Rerouted:
    """Let the job of the same route take the place of one that is not wanted, else the first."""
    of_route = (m.id for (new, _), m in zip(pairs, made, strict=True) if new.route == job["route"])
    by = next(of_route, made[0].id)
    rerouting.replace(table, job, by, who)
    was = job["reason"] if job["route"] == NO_ROUTE else f"route {job['route']}"
    words = f"is replaced by job {by}: {was}, model {job['model'] or 'none'}"
    return Rerouted(job["id"], row["series_instance_uid"], Became.REPLACED, words)
