"""What a person may do with a job that is over: run it as it was, or by a present route.

A job of the table enters; what is possible leaves, and of all else why not, in words. HTTP asks for
the status page; `osteon.pipeline.reroute` then does what was chosen.
"""

from dataclasses import dataclass

from osteon.config.settings import Settings
from osteon.errors import NotRunnableError
from osteon.pipeline.admission import decisions_on, late_words
from osteon.pipeline.job import State
from osteon.pipeline.reroute import route_fault, siblings_of
from osteon.pipeline.table import jobs, rerouting, series
from osteon.pipeline.table.connection import Row, Table


@dataclass(frozen=True)
class RouteChoice:
    """A present route, and whether it takes the series of a job.

    Attributes
    ----------
    why : str
        The condition that decided.
    """

    route: str
    model: str
    takes: bool
    why: str


@dataclass(frozen=True)
class Choices:
    """What may be done.

    Attributes
    ----------
    why_not_again : str
        Why the job cannot run as it was; "" where it can.
    routes : tuple of RouteChoice
        All present routes; none where they have no say: the job is a shadow, not over yet, or
        something newer has taken its place.
    """

    why_not_again: str
    routes: tuple[RouteChoice, ...]


def choices_of(settings: Settings, table: Table, job: Row) -> Choices:
    """Return what may be done with a job; nothing is changed."""
    if not State(job["state"]).final:
        return Choices(f"job {job['id']} is {job['state']} at {job['stage']}: it is not over", ())
    if job["state"] == State.SUPERSEDED:
        return Choices(f"job {job['id']} was superseded: {job['reason']}", ())
    try:
        jobs.refuse_replaced(table, job)
    except NotRunnableError as refused:
        return Choices(refused.message, ())
    if job["shadow_of"] is not None:
        return Choices("", ())
    why_not = route_fault(settings, job) if job["model"] else "no route took it"
    return Choices(why_not, _routes(settings, table, job))


def _routes(settings: Settings, table: Table, job: Row) -> tuple[RouteChoice, ...]:
    uid = series.get(table, job["series_id"])["series_instance_uid"]
    row = rerouting.series_named(table, uid)[0]
    if row["id"] != job["series_id"]:
        return ()  # Of the newer generation they decide, not of this one.
    late = late_words(settings, row)
    return tuple(
        RouteChoice(
            decision.route.name,
            decision.route.model,
            decision.taken and not late,
            late or decision.why,
        )
        for decision in decisions_on(settings, row, siblings_of(table, row))
    )
