"""Reports of storage commitment on associations of their own (PS3.4 J.3.3).

Transactions whose requester left before it heard enter from the table; reports leave to the host
that asked and the port that its ``[[source]]`` names. Tried for as long as results are; one thread.
"""

import random
import threading
import time
from contextlib import suppress

import structlog

from osteon.config.settings import Settings
from osteon.errors import DeliveryError, OsteonError, StaleTransition
from osteon.pipeline.backoff import backoff_s
from osteon.pipeline.commitment import Commitments
from osteon.pipeline.table import commitments
from osteon.pipeline.table.connection import Row
from osteon.results.commitment import send_report
from osteon.results.peer import Destination

POLL_S = 5.0  # A net: what is due is known, and clocks are set.
TRY_S = 120.0  # Longer than one attempt can take.

log = structlog.get_logger(__name__)


class Reporter(threading.Thread):
    """Report what is due until told to stop.

    Parameters
    ----------
    settings : Settings
        Where requesters listen, and how often it is tried.
    transactions : Commitments
        What is to be reported.
    stop : threading.Event
        Set it, and `wake`, to end the thread.
    """

    def __init__(
        self, settings: Settings, transactions: Commitments, stop: threading.Event
    ) -> None:
        super().__init__(name="reporter", daemon=True)
        self._settings = settings
        self._transactions = transactions
        self._table = transactions.table
        self._stop_event = stop
        self._woken = threading.Event()
        self._jitter = random.Random()  # noqa: S311 - it spreads retries and keeps no secret

    def wake(self) -> None:
        """Look at the table now."""
        self._woken.set()

    def run(self) -> None:
        """Report; what cannot be reported now is put off."""
        ready = False
        while not self._stop_event.is_set():
            self._woken.clear()
            try:
                if not ready:
                    # No association of before this start is open any more.
                    commitments.hasten(self._table)
                    ready = True
                row = commitments.due(self._table)
                if row is not None:
                    with suppress(StaleTransition):  # It was heard where it was asked for.
                        self._attempt(row)
                    continue
                wait_s = self._wait_s()
            except OsteonError as error:
                log.warning("storage commitment waits", why=error.message)
                wait_s = POLL_S
            self._woken.wait(wait_s)

    def _wait_s(self) -> float:
        due = commitments.next_due(self._table)
        return POLL_S if due is None else min(POLL_S, max(0.0, due - self._table.clock()))

    def _attempt(self, row: Row) -> None:
        table, now = self._table, self._table.clock()
        commitments.claim(table, row, now + TRY_S)
        started = time.monotonic()
        try:
            requester = self._requester(row)
            report = self._transactions.judge(row)
            send_report(requester, report)
        except DeliveryError as error:
            self._put_off(row, error.message)
            return
        commitments.report(table, row, f"heard by {requester}")
        log.info(
            "storage commitment reported",
            ae_title=row["ae_title"],
            committed=len(report.committed),
            failed=len(report.failed),
            seconds=round(time.monotonic() - started, 3),
        )

    def _requester(self, row: Row) -> Destination:
        """Return where a requester hears reports.

        Raises
        ------
        DeliveryError
            No source says so; the configuration may be mended.
        """
        source = self._settings.source_of(row["ae_title"])
        if source is None or source.port is None:
            raise DeliveryError(
                f"no [[source]] with ae_title {row['ae_title']!r} has a port to report to"
            )
        return Destination(
            row["ae_title"], row["address"], source.port, row["called_ae_title"], source.tls
        )

    def _put_off(self, row: Row, why: str) -> None:
        limits, now = self._settings.delivery, self._table.clock()
        log.warning("storage commitment not reported", ae_title=row["ae_title"], why=why)
        if now - row["created"] > limits.give_up_s:
            commitments.give_up(self._table, row, f"given up: {why}")
            return
        wait_s = backoff_s(
            row["attempts"] + 1,
            first_s=limits.retry_first_s,
            max_s=limits.retry_max_s,
            jitter=self._jitter,
        )
        commitments.retry(self._table, row, now + wait_s, why)
