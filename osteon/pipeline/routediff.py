"""What another configuration would make of the series on record: the difference, series by series.

Two `Settings` and the job table enter, `Difference` rows leave; nothing is changed. Both sides are
decided anew by the rules of ``routes.py``, so that the difference is that of the configurations and
of nothing else. Called by ``osteon routes diff``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from osteon.config.settings import Priority, Settings
from osteon.pipeline.admission import candidate_of
from osteon.pipeline.routes import Candidate, decide_in_study
from osteon.pipeline.table import series
from osteon.pipeline.table.connection import Row, Table

Refusal = Callable[[Settings, Row, str], str | None]


class Change(StrEnum):
    """What becomes of a series by the other configuration."""

    GAINED = "gained"  # no route took it, and one would
    LOST = "lost"  # a route took it, and none would
    OTHER = "other"  # it is taken, but by another route, model, priority or for other destinations


@dataclass(frozen=True)
class PlannedJob:
    """One job that a series becomes."""

    route: str
    model: str
    priority: Priority
    destinations: tuple[str, ...]
    shadow: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a configuration makes of a series.

    Attributes
    ----------
    jobs : tuple of PlannedJob
        In the order of the routes; none where no route takes it.
    why : str
        Why there is none: of each route the condition that failed; "" where there is one.
    """

    jobs: tuple[PlannedJob, ...]
    why: str


@dataclass(frozen=True)
class Difference:
    """A series that the two configurations decide otherwise."""

    series: Row
    was: Plan
    would_be: Plan

    @property
    def change(self) -> Change:
        """In which way it is decided otherwise."""
        if not self.was.jobs:
            return Change.GAINED
        return Change.OTHER if self.would_be.jobs else Change.LOST


@dataclass(frozen=True)
class Comparison:
    """How many series were looked at, and those that would be decided otherwise."""

    looked_at: int
    differences: tuple[Difference, ...]


def compare(
    table: Table, was: Settings, would_be: Settings, since: float, refusal: Refusal
) -> Comparison:
    """Decide every complete series of a period by two configurations.

    Of a series with several generations it is the newest; a series is decided within all of its
    study that is held, also what came before the period.

    Parameters
    ----------
    since : float
        Series whose last instance came then or later, in seconds since 1970.
    refusal : callable
        Returns why a configuration would not even let the sender of a series in, at the address
        that it had, or None.
    """
    looked_at = 0
    differences = []
    for study_instance_uid in series.studies_since(table, since):
        rows = series.of_study(table, study_instance_uid)
        study = [candidate_of(row) for row in rows]
        for row, candidate in zip(rows, study, strict=True):
            if row["last"] < since or row["state"] != "complete":
                continue
            looked_at += 1
            address = series.sender_address(table, row)
            plans = []
            for settings in (was, would_be):
                refused = None if address is None else refusal(settings, row, address)
                plans.append(_plan(settings, row, candidate, study, refused))
            if plans[0].jobs != plans[1].jobs:
                differences.append(Difference(row, *plans))
    return Comparison(looked_at, tuple(differences))


def _plan(
    settings: Settings,
    row: Row,
    candidate: Candidate,
    study: Iterable[Candidate],
    refused: str | None,
) -> Plan:
    if refused is not None:
        return Plan((), refused)
    decisions = decide_in_study(settings.routes, candidate, list(study))
    jobs = tuple(
        PlannedJob(
            route=decision.route.name,
            model=decision.route.model,
            priority=settings.priority_of(decision.route, row["calling_ae_title"]),
            destinations=tuple(d.name for d in settings.destinations_of(decision.route)),
            shadow=tuple(decision.route.shadow),
        )
        for decision in decisions
        if decision.taken
    )
    return Plan(jobs, "" if jobs else "; ".join(f"{d.route.name}: {d.why}" for d in decisions))
