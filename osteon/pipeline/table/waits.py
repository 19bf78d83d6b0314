"""What a series or a job waits for, since when, and until when: in words, derived from the rows.

The views ask it for every row that they show. Nothing is stored for this but the reasons that the
throttler and the observer write down with what they do.
"""

from dataclasses import dataclass
from functools import cached_property

from osteon.pipeline.job import Stage, State
from osteon.pipeline.table import lines, proofs, workers
from osteon.pipeline.table.connection import Row, Table

AHEAD_COUNTED_MAX = 10_000


@dataclass(frozen=True)
class Wait:
    """What is waited for.

    Attributes
    ----------
    words : str
        A sentence without a stop.
    since : float
        When the wait began, in seconds since 1970.
    until : float or None
        When it ends at the latest or is looked at again, where that is known.
    """

    words: str
    since: float
    until: float | None = None


class Waits:
    """Tell of many rows at one moment; the head of each line is looked up once.

    Parameters
    ----------
    table : Table
        Where the rows are from.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._heads: dict[tuple[str, str], Row | None] = {}

    def of_series(self, series: Row) -> Wait:
        """Return what a series waits for that is still receiving."""
        began = self._table.row(
            "SELECT max(at) AS at FROM transition WHERE series_id = ? AND event = 'wait'",
            (series["id"],),
        )
        told = None if began is None else began["at"]
        since = series["last"] if told is None else max(told, series["last"])
        words = f"waits for {series['waits_for']}{self._stopped}"
        return Wait(words, since, series["due"])

    def of_job(self, job: Row) -> Wait | None:
        """Return what a job waits for, or None where it runs or is over."""
        state, stage, since = State(job["state"]), Stage(job["stage"]), job["updated"]
        if state is State.BACKOFF:
            return Wait(job["reason"], since, job["not_before"])
        if state is not State.WAITING:
            return None
        if stage is Stage.ADMISSION:
            return Wait(f"{self._before_the_throttler(job)}{self._no_stage}", since)
        if stage is Stage.DELIVER:
            return self._for_a_destination(job)
        worker = "waits for a worker"
        after = job["reason"]
        words = after if after.startswith(worker) else f"{worker}; before: {after}"
        none = f"; there is none: {self._no_slot}" if self._no_slot else ""
        return Wait(f"{words}{failures_words(job)}{none}", since)

    @cached_property
    def _no_slot(self) -> str:
        """Why there is no worker at all: a cluster without scheduler, for example; else ""."""
        engine = workers.engine_state(self._table)
        return "" if engine is None else engine.reason

    @property
    def _no_stage(self) -> str:
        """The same behind what a job waits for that would not run if it had that."""
        return f"; no stage can run: {self._no_slot}" if self._no_slot else ""

    @property
    def _stopped(self) -> str:
        """The same where nothing moves at all, deliveries and quiet times included."""
        return f"; {self._no_slot}" if self._no_slot == workers.STOPPED else ""

    def ahead_of(self, job: Row) -> int | None:
        """Return how many jobs of its line enter before one that waits for the throttler."""
        if (job["stage"], job["state"]) != (Stage.ADMISSION, State.WAITING):
            return None
        return lines.ahead_of(self._table, job, AHEAD_COUNTED_MAX)

    def _before_the_throttler(self, job: Row) -> str:
        """Say the same of all in one line, so that a list of thousands can be summed up."""
        line = job["calling_ae_title"], job["model"]
        if line not in self._heads:
            self._heads[line] = lines.head(self._table, *line)
        head = self._heads[line]
        if head is None or head["id"] == job["id"]:
            return _throttler_words(job)
        return (
            f"waits behind others of {line[0] or 'its source'}; the first {_throttler_words(head)}"
        )

    def _for_a_destination(self, job: Row) -> Wait:
        rows = self._table.rows(
            "SELECT destination, delivery.state, attempts, not_before, delivery.reason,"
            " delivery.updated, sop_instance_uid FROM delivery JOIN result ON result.id = result_id"
            " WHERE job_id = ? AND delivery.state IN ('waiting', 'sending') ORDER BY delivery.id",
            (job["id"],),
        )
        if not rows:
            words = f"waits for the observer; before: {job['reason']}"
            return Wait(f"{words}{self._stopped}", job["updated"])
        waits = [self._of_delivery(row) for row in rows]
        return Wait(
            "; ".join(wait.words for wait in waits) + self._stopped,
            min(wait.since for wait in waits),
            min((wait.until for wait in waits if wait.until is not None), default=None),
        )

    def _of_delivery(self, row: Row) -> Wait:
        name, since = row["destination"], row["updated"]
        if row["state"] == "waiting":
            due = row["not_before"] if row["reason"] else None
            return Wait(f"waits for {name}{_attempts_words(row)}", since, due)
        asked = proofs.asked(self._table, name, row["sop_instance_uid"], since)
        if asked is None:
            return Wait(f"is being sent to {name}", since)
        return Wait(f"was sent to {name} and waits for its storage commitment, or C-FIND", asked)


def _throttler_words(job: Row) -> str:
    """Say what the first of a line waits for; the throttler may not have looked at it yet."""
    reason = str(job["reason"])
    if reason.startswith("waits for") or reason.endswith("waits for the throttler"):
        return reason
    return f"waits for the throttler; before: {reason}"


def failures_words(job: Row) -> str:
    """Say how many attempts of its present stage have failed, behind other words; or ""."""
    if not job["failures"]:
        return ""
    failed = "1 attempt" if job["failures"] == 1 else f"{job['failures']} attempts"
    return f"; {failed} of this stage failed"


def _attempts_words(delivery: Row) -> str:
    attempts, reason = delivery["attempts"], delivery["reason"]
    if not reason:
        return ": others are sent first"
    times = {0: "", 1: " after 1 attempt"}.get(attempts, f" after {attempts} attempts")
    return f"{times}: {reason}"
