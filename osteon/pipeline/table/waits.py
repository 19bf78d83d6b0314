"""What a series or a job waits for, since when, and until when: in words, derived from the rows.

The views ask it for every row that they show. Nothing is stored for this but the reasons that the
throttler and the observer write down with what they do.
"""

from dataclasses import dataclass
from functools import cached_property

from osteon.pipeline.job import Stage, State
from osteon.pipeline.table import lines, workers
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
        return Wait(f"waits for {series['waits_for']}", since, series["due"])

    def of_job(self, job: Row) -> Wait | None:
        """Return what a job waits for, or None where it runs or is over."""
        state, stage, since = State(job["state"]), Stage(job["stage"]), job["updated"]
        if state is State.BACKOFF:
            return Wait(job["reason"], since, job["not_before"])
        if state is not State.WAITING:
            return None
        if stage is Stage.ADMISSION:
            return Wait(self._before_the_throttler(job), since)
        if stage is Stage.DELIVER:
            return self._for_a_destination(job)
        worker = "waits for a worker"
        after = job["reason"]
        words = after if after.startswith(worker) else f"{worker}; before: {after}"
        return Wait(f"{words}{self._no_worker}", since)

    @cached_property
    def _no_worker(self) -> str:
        """Why there is no worker at all: a cluster without scheduler, for example."""
        engine = workers.engine_state(self._table)
        return f"; there is none: {engine.reason}" if engine is not None and engine.reason else ""

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
            return str(job["reason"])
        return f"waits behind others of {line[0] or 'its source'}; the first {head['reason']}"

    def _for_a_destination(self, job: Row) -> Wait:
        rows = self._table.rows(
            "SELECT destination, delivery.state, attempts, not_before, delivery.reason,"
            " delivery.updated FROM delivery JOIN result ON result.id = result_id"
            " WHERE job_id = ? AND delivery.state IN ('waiting', 'sending') ORDER BY delivery.id",
            (job["id"],),
        )
        if not rows:
            return Wait(f"waits for the observer; before: {job['reason']}", job["updated"])
        words = [
            f"is being sent to {row['destination']}"
            if row["state"] == "sending"
            else f"waits for {row['destination']}{_attempts_words(row)}"
            for row in rows
        ]
        due = [row["not_before"] for row in rows if row["state"] == "waiting" and row["reason"]]
        since = min(row["updated"] for row in rows)
        return Wait("; ".join(words), since, min(due, default=None))


def _attempts_words(delivery: Row) -> str:
    attempts, reason = delivery["attempts"], delivery["reason"]
    if not reason:
        return ": others are sent first"
    times = {0: "", 1: " after 1 attempt"}.get(attempts, f" after {attempts} attempts")
    return f"{times}: {reason}"
