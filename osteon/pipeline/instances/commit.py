"""Group commit: what several threads have ready at the same time becomes durable in one go.

An item of each thread enters, its result leaves when the item is durable. There is no thread that
collects: the first to come commits for everybody who waits when it begins, the first who came
meanwhile commits next. So one thread alone is never delayed, and many share each flush of the disk.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from osteon.errors import TableError

BATCH_MAX = 256
WAIT_S = 60.0  # Twice what SQLite waits for another process that writes.
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Ticket(Generic[Item, Result]):
    """An item that waits, and what became of it."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.outcome: Result | BaseException | None = None
        self.leads = False
        self.woken = threading.Lock()
        self.woken.acquire()


class GroupCommit(Generic[Item, Result]):
    """Collect what waits and commit it together.

    Parameters
    ----------
    commit : callable
        Called with all items of a batch, by one thread at a time; returns the result of each of
        them. What it raises is raised in every thread that waits for the batch.
    """

    def __init__(self, commit: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[Item, Result]] = []
        self._is_led = False

    def run(self, item: Item) -> Result:
        """Commit an item and return its result.

        Raises
        ------
        TableError
            Those before it take longer than `WAIT_S`.
        """
        ticket: _Ticket[Item, Result] = _Ticket(item)
        with self._lock:
            self._waiting.append(ticket)
            ticket.leads = not self._is_led
            self._is_led = True
        if not ticket.leads:
            self._wait(ticket)
        if ticket.leads:
            self._lead()
        if isinstance(ticket.outcome, BaseException):
            raise ticket.outcome
        return ticket.outcome  # type: ignore[return-value] # the leader has set it

    def _wait(self, ticket: _Ticket[Item, Result]) -> None:
        if ticket.woken.acquire(timeout=WAIT_S):
            return
        with self._lock:
            if ticket.leads:  # It was told so at this very moment.
                return
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        raise TableError(f"nothing could be committed for {WAIT_S:g} s")

    def _lead(self) -> None:
        with self._lock:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
        outcomes: Sequence[Result | BaseException]
        try:
            outcomes = self._commit([ticket.item for ticket in batch])
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads that wait
            outcomes = [error] * len(batch)
        with self._lock:
            following = self._waiting[0] if self._waiting else None
            self._is_led = following is not None
            if following is not None:
                following.leads = True
                following.woken.release()
        for ticket, outcome in zip(batch, outcomes, strict=True):
            ticket.outcome = outcome
            if not ticket.leads:
                ticket.woken.release()
