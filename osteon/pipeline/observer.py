"""The observer: the reconcile loop that triggers the next step whenever one has finished.

It keeps nothing that the job table does not say, so that killing it anywhere loses nothing: at
start it takes back whatever was running. A commit of another process, a finished stage or a due
time wakes it.
"""

import threading

import structlog

from osteon.config.settings import Settings
from osteon.errors import TableError
from osteon.pipeline.admission import admit_waiting, complete_due_series
from osteon.pipeline.delivery import Delivery
from osteon.pipeline.dispatcher import Dispatcher
from osteon.pipeline.engine import Engine
from osteon.pipeline.table import deliveries, jobs, series
from osteon.pipeline.table.connection import Table

POLL_S = 0.03  # How often another process' commit is looked for.
SAFETY_NET_S = 5.0  # A tick at least this often, whatever was missed.
RECOVERY_WAIT_S = 1.0
log = structlog.get_logger(__name__)


class Observer:
    """Move every series, job and delivery one step on, whenever a step is possible.

    Parameters
    ----------
    table : Table
        A connection of its own; its clock decides what is due.
    engine : Engine
        Where stages run.
    """

    def __init__(self, settings: Settings, table: Table, engine: Engine) -> None:
        self._settings = settings
        self._table = table
        self._dispatcher = Dispatcher(settings, table, engine)
        self._delivery = Delivery(settings, table)

    def start(self) -> None:
        """Take back what was running when the last observer ended."""
        rescued = self._dispatcher.rescue_all()
        recovered = deliveries.recover(self._table)
        log.info("observer started", jobs_rescued=rescued, deliveries_recovered=recovered)

    def tick(self) -> None:
        """Do everything that can be done now; none of it waits."""
        complete_due_series(self._settings, self._table)
        self._dispatcher.accept_finished()
        self._dispatcher.watch_running()
        for job in jobs.resumable(self._table):
            jobs.resume(self._table, job)
        admit_waiting(self._settings, self._table)
        self._dispatcher.dispatch()
        self._delivery.tick()

    def next_due(self) -> float:
        """Return when something is due that nobody announces, in seconds since 1970."""
        times = (
            series.next_due(self._table),
            jobs.next_resume(self._table),
            self._dispatcher.next_due(),
            self._delivery.next_due(),
        )
        latest = self._table.clock() + SAFETY_NET_S
        return min([latest, *(at for at in times if at is not None)])

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop, sleeping while nothing has changed."""
        self.start()
        while not stop.is_set():
            seen = self._table.version
            try:
                self.tick()
                due = self.next_due()
            except Exception as error:  # The top of the observer's loop: the table is the truth.
                log.exception("tick failed", error=str(error))
                if isinstance(error, TableError) and not error.retryable:
                    raise
                stop.wait(RECOVERY_WAIT_S)
                continue
            while (
                self._table.clock() < due
                and self._table.version == seen
                and not self._dispatcher.finished
                and not self._delivery.finished
                and not stop.wait(POLL_S)
            ):
                pass
        self._delivery.close()
