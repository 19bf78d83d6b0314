"""Shadow models: compare what a second model found with the first's result, beside everything else.

Comparisons that are due in the table enter, their figures go back into it. The observer ticks it.
One child process at a time compares two files, at the lowest priority and with a deadline, so that
the observer's other steps neither wait for it nor fail with it.
"""

import multiprocessing
import os
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import structlog

from osteon.errors import OsteonError
from osteon.pipeline.table import shadow
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.shadow import Compared
from osteon.results.overlap import compare_segmentations

DEADLINE_S = 300.0
NICE = 19  # A job's stages and the receiver go first.
END_S = 5.0
log = structlog.get_logger(__name__)


@dataclass
class _Comparing:
    """A child process that compares two results; ``kill_at`` in seconds since 1970."""

    comparison: Row
    process: SpawnProcess
    answer: Connection
    kill_at: float


class Shadow:
    """Compare the results of shadows with those that they run beside.

    Parameters
    ----------
    table : Table
        The observer's; its clock decides the deadline.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._comparing: _Comparing | None = None

    def tick(self) -> None:
        """Record what was compared, and begin the next comparison."""
        if self._comparing is not None:
            self._look_at(self._comparing)
        if self._comparing is None:
            due = shadow.next_due(self._table)
            if due is not None:
                self._comparing = self._begin(due)

    @property
    def finished(self) -> bool:
        """Whether a comparison is over that is not yet on record."""
        return self._comparing is not None and self._comparing.answer.poll()

    def next_due(self) -> float | None:
        """Return when a comparison has run for too long, in seconds since 1970."""
        return None if self._comparing is None else self._comparing.kill_at

    def close(self) -> None:
        """Stop; what is being compared now is compared after the next start."""
        if self._comparing is not None:
            self._end(self._comparing)

    def _begin(self, due: Row) -> _Comparing:
        context = multiprocessing.get_context("spawn")
        answer, theirs = context.Pipe(duplex=False)
        paths = [str(self._table.data_dir / due[key]) for key in ("first_path", "own_path")]
        process = context.Process(target=_compare, args=(*paths, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Comparing(due, process, answer, self._table.clock() + DEADLINE_S)

    def _look_at(self, comparing: _Comparing) -> None:
        if comparing.answer.poll():
            try:
                found: Compared | str = comparing.answer.recv()
            except EOFError:
                found = "the process that compared it died"
        elif self._table.clock() >= comparing.kill_at:
            found = f"it could not be compared within {DEADLINE_S:g} s"
        else:
            return
        self._end(comparing)
        if isinstance(found, Compared):
            shadow.record(self._table, comparing.comparison, found)
        else:
            log.warning("shadow not compared", job=comparing.comparison["job_id"], why=found)
            shadow.record_failure(self._table, comparing.comparison, found)

    def _end(self, comparing: _Comparing) -> None:
        self._comparing = None
        comparing.process.kill()
        comparing.process.join(END_S)
        comparing.answer.close()
        with suppress(ValueError):  # It is still being killed; it ends by itself.
            comparing.process.close()


def _compare(first: str, own: str, answer: Connection) -> None:
    """Compare two files in a process of its own, and answer with figures or a reason."""
    os.nice(NICE)
    try:
        overlap = compare_segmentations(Path(first), Path(own))
        found: Compared | str = Compared(overlap.dice, dict(overlap.segments))
    except OsteonError as error:
        found = error.message
    except MemoryError:
        found = "there was not memory enough to compare it"
    with suppress(BrokenPipeError), answer:  # The node is gone; it is compared at its next start.
        answer.send(found)
