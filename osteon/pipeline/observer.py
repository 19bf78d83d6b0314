"""The observer: the reconcile loop that triggers the next step whenever one has finished.

It keeps nothing that the job table does not say, so that killing it anywhere loses nothing: at
start it takes back whatever was running. A commit of another process, a finished stage or a due
time wakes it.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from osteon.config.settings import Settings
from osteon.pipeline.admission import judge_series
from osteon.pipeline.delivery import Delivery
from osteon.pipeline.dispatcher import Dispatcher
from osteon.pipeline.door import Door
from osteon.pipeline.sender import Sender
from osteon.pipeline.shadow import Shadow
from osteon.pipeline.table import deliveries, jobs, lines, listening, purging, series
from osteon.pipeline.table.connection import Table
from osteon.pipeline.workers.engine import Engine
from osteon.pipeline.worklock import receiver_listens

POLL_S = 0.03  # How often another process' commit is looked for.
SAFETY_NET_S = 5.0  # A tick at least this often, whatever was missed.
RECOVERY_WAIT_S = 1.0
SWEEP_S = 60.0  # How often leftovers on the disk and in the log are looked for.
CLOCK_STEP_S = 1.0  # A clock that is set back by more than this is minded.
Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class Observer:
    """Move every series, job and delivery one step on, whenever a step is possible.

    Parameters
    ----------
    table : Table
        A connection of its own; its clock decides what is due.
    engine : Engine
        Where stages run.
    sender : Sender, optional
        Where results are sent from; threads where absent.
    """

    def __init__(
        self, settings: Settings, table: Table, engine: Engine, sender: Sender | None = None
    ) -> None:
        self._settings = settings
        self._table = table
        self._engine = engine
        self._door = Door(settings, table)
        self._dispatcher = Dispatcher(settings, table, engine)
        self._delivery = Delivery(settings, table, sender)
        self._shadow = Shadow(table)
        self._ticked_at = float("inf")  # Before the first tick it may have been set back, too.
        self._swept_at = 0.0
        self._receiver_gone: float | None = None  # since when none listens
        self._well = True

    def start(self) -> None:
        """Take back what was running when the last observer ended."""
        rescued = self._dispatcher.rescue_all()
        recovered = deliveries.recover(self._table)
        log.info("observer started", jobs_rescued=rescued, deliveries_recovered=recovered)

    def tick(self) -> bool:
        """Do everything that can be done now; none of it waits.

        Returns
        -------
        bool
            Whether all went well; what failed is logged and holds up nothing else.
        """
        self._well = True
        self._attempt(self._mind_the_clock)
        self._attempt(self._mind_the_receiver)
        for row in self._attempt(series.due, self._table) or ():
            self._attempt(judge_series, self._settings, self._table, row, self._receiver_gone)
        self._attempt(self._dispatcher.accept_finished)
        self._attempt(self._dispatcher.watch_running)
        self._attempt(jobs.resume_due, self._table)
        self._attempt(self._door.admit, self._engine.slots)
        self._attempt(self._dispatcher.dispatch)
        self._attempt(self._dispatcher.work_ahead)
        self._attempt(self._dispatcher.dispatch_shadows)
        self._attempt(self._delivery.tick)
        self._attempt(self._shadow.tick)
        if abs(self._table.clock() - self._swept_at) >= SWEEP_S:
            self._swept_at = self._table.clock()
            self._attempt(self._dispatcher.sweep)
            self._attempt(purging.bound_empty, self._table)
        return self._well

    def next_due(self) -> float:
        """Return when something is due that nobody announces, in seconds since 1970."""
        times = (
            series.next_due(self._table),
            lines.next_resume(self._table),
            self._dispatcher.next_due(),
            self._delivery.next_due(),
            self._shadow.next_due(),
        )
        latest = self._table.clock() + SAFETY_NET_S
        return min([latest, *(at for at in times if at is not None)])

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop, sleeping while nothing has changed."""
        self.start()
        while not stop.is_set():
            # Read before the tick: what another process commits meanwhile wakes the next one.
            seen = self._attempt(lambda: self._table.version)
            if self.tick():
                self._attempt(self._sleep, seen, stop)
            if not self._well:
                stop.wait(RECOVERY_WAIT_S)
        self._dispatcher.release_all()
        self._delivery.close()
        self._shadow.close()

    def _mind_the_clock(self) -> None:
        """Where the clock was set back, let nothing wait for it to get there again."""
        now = self._table.clock()
        set_back = now < self._ticked_at - CLOCK_STEP_S
        self._ticked_at = now
        if set_back:
            if self._receiver_gone is not None:
                self._receiver_gone = min(self._receiver_gone, now)
            moved = (
                series.bring_forward(self._table)
                + listening.bring_forward(self._table)
                + self._dispatcher.bring_forward()
                + self._delivery.bring_forward()
            )
            if moved:
                log.warning("the clock was set back", brought_forward=moved)

    def _mind_the_receiver(self) -> None:
        """Note since when no receiver listens; where it is back, look anew at what waits for it."""
        if not receiver_listens(self._table.data_dir):
            if self._receiver_gone is None:
                self._receiver_gone = self._table.clock()
        elif self._receiver_gone is not None:
            series.look_anew(self._table)
            self._receiver_gone = None

    def _sleep(self, seen: int | None, stop: threading.Event) -> None:
        """Wait for a due time, a commit of another process, or the end of a stage or delivery."""
        due = self.next_due()
        while (
            self._table.clock() < due
            and self._table.version == seen
            and not self._dispatcher.finished
            and not self._delivery.finished
            and not self._shadow.finished
            and not stop.wait(POLL_S)
        ):
            pass

    def _attempt(self, step: Callable[..., Result], *arguments: Any) -> Result | None:
        """Take one step; when it fails, say so and go on: the table is the truth."""
        try:
            return step(*arguments)
        except Exception as error:  # The top of the observer's loop.
            self._well = False
            log.exception("step failed", step=getattr(step, "__qualname__", ""), error=str(error))
            return None
