"""One slot of the engine: a worker process, the work that it has, and what becomes of both.

Chains of requests enter from the engine, their futures get what the worker answers. A thread a slot
listens; a worker that is gone costs what it had begun, and a new one takes its place.
"""

import itertools
import multiprocessing.connection
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

import structlog

from osteon.errors import OsteonError, WorkerLostError
from osteon.pipeline.workers.request import (
    Answer,
    Done,
    Free,
    Join,
    Progressed,
    Ready,
    Request,
    Soon,
    StageReport,
    StageRequest,
    Work,
)
from osteon.pipeline.workers.spare import Spares

_numbers = itertools.count(1)
log = structlog.get_logger(__name__)


class Chain:
    """Requests that run one after the other in one worker, each with a future of its own.

    Attributes
    ----------
    alone : bool
        Whether nothing may run beside it: it has failed before, and what fails again shall not
        take others along.
    at : int
        Which of them is next or runs.
    fraction : float
        How far that one has come, 0 to 1.
    """

    def __init__(self, requests: tuple[Request, ...], *, alone: bool = False) -> None:
        self.number = next(_numbers)
        self.requests = requests
        self.futures: tuple[Future[StageReport], ...] = tuple(Future() for _ in requests)
        self.alone = alone
        self.at = 0
        self.fraction = 0.0

    @property
    def present(self) -> "Future[StageReport] | None":
        """The future of the request that is next or runs; None when all are over."""
        return self.futures[self.at] if self.at < len(self.futures) else None

    @property
    def folder(self) -> Path | None:
        """The folder of its input: a worker that holds its slices need not read them."""
        inputs = self.requests[0].inputs
        return inputs[0].parent if inputs else None

    def begin(self) -> None:
        """Say that the worker has it."""
        self.futures[0].set_running_or_notify_cancel()

    def settle(self, outcome: StageReport | OsteonError) -> None:
        """Give the present future its end; after an error the rest is cancelled."""
        present = self.present
        assert present is not None
        if not present.running():  # The worker was lost before it had begun.
            present.set_running_or_notify_cancel()
        self.at, self.fraction = self.at + 1, 0.0
        if isinstance(outcome, OsteonError):
            present.set_exception(outcome)
            self.cancel()
            return
        if self.present is not None:
            self.present.set_running_or_notify_cancel()
        present.set_result(outcome)

    def cancel(self) -> None:
        """Give up what has not begun."""
        for future in self.futures[self.at :]:
            future.cancel()
        self.at = len(self.futures)


class Slot:
    """One worker process, started again whenever it is gone.

    Every method is called with the engine's lock held.

    Parameters
    ----------
    spares : Spares
        Where worker processes come from; the engine's, as is the lock.
    lock : RLock
    on_free : callable
        Called with the slot, and the lock held, whenever it may take more.
    gpu : str, optional
        Where its workers compute, one after the other.

    Attributes
    ----------
    current : Chain, optional
        What it computes now.
    begun : dict
        All that it has and that is not over; what is still being encoded stands here alone.
    hinted : Chain, optional
        What it was told to be likely to come next.
    holds : Path, optional
        The folder of the series whose slices it has in memory.
    """

    def __init__(
        self,
        spares: Spares,
        lock: threading.RLock,
        on_free: "Callable[[Slot], None]",
        gpu: str | None = None,
    ) -> None:
        self._gpu = gpu
        self._spares = spares
        self._lock = lock
        self._on_free = on_free
        self.current: Chain | None = None
        self.begun: dict[int, Chain] = {}
        self.hinted: Chain | None = None
        self.holds: Path | None = None
        self._killed_for: Chain | None = None
        self._is_ready = self._is_leaving = self._is_closed = False
        self._start()

    @property
    def free(self) -> bool:
        """Whether it can take a chain now; what it still encodes is no hindrance."""
        return self.current is None and not self._is_leaving

    @property
    def pid(self) -> int | None:
        """Process id of its worker."""
        return self._process.pid

    def give(self, chain: Chain) -> None:
        """Let the worker run a chain."""
        if not self._process.is_alive():  # It died while it was idle.
            self._lose()
            if not self._process.is_alive():
                self._start()
        self.current, self.begun[chain.number] = chain, chain
        self.hinted, self.holds = None, chain.folder
        if self._is_ready:
            chain.begin()
        self._send(Work(chain.number, chain.requests, chain.alone))

    def hint(self, chain: Chain) -> None:
        """Let the worker read what is likely to come next while it computes."""
        self.hinted = chain
        if isinstance(chain.requests[0], StageRequest):
            self._send(Soon(chain.requests[0]))

    def kill(self, chain: Chain) -> None:
        """End the worker because of a chain."""
        self._killed_for = chain
        self._process.kill()

    def close(self) -> None:
        """End the worker for good."""
        self._is_closed = True
        self._process.kill()

    def _start(self) -> None:
        self._is_ready = self._is_leaving = False
        self._link, self._process = self._spares.take()
        self._send(Join(self._gpu))
        threading.Thread(
            target=self._listen, args=(self._link, self._process), name="slot", daemon=True
        ).start()

    def _send(self, message: Join | Work | Soon) -> None:
        try:
            self._link.send(message)
        except OSError as error:  # It has just died; who listens takes note of it.
            log.debug("worker does not hear", error=str(error))

    def _listen(self, link: Connection, process: SpawnProcess) -> None:
        """Hear what a worker says, until it is gone; nothing else ends a slot's listening."""
        try:
            while link in multiprocessing.connection.wait([link, process.sentinel]):
                answer = link.recv()
                with self._lock:
                    if process is self._process:
                        self._hear(answer)
        except (EOFError, OSError):
            pass  # It is gone.
        finally:
            process.kill()
            with self._lock:
                process.join()
                link.close()
                if process is self._process and not self._is_closed:
                    self._replace()

    def _replace(self) -> None:
        """Start a new worker; one that failed at its start is started when it is needed."""
        again = self._is_ready
        self._spares.keep()
        self._lose()
        if again and not self._process.is_alive():
            self._start()
        self._on_free(self)

    def _hear(self, answer: Answer) -> None:
        if isinstance(answer, Ready):
            self._is_ready = True
            self._spares.prepare()
            if self.current is not None:  # It was given while the worker was still loading.
                self.current.begin()
        elif isinstance(answer, Progressed):
            if answer.number in self.begun:
                self.begun[answer.number].fraction = answer.fraction
        elif isinstance(answer, Free):
            self.current = None
            self._is_leaving = bool(answer.leaving)
            if self._is_leaving:
                log.info("worker recycled", why=answer.leaving)
            else:
                self._on_free(self)
        else:
            self._settle(answer)

    def _settle(self, answer: Done) -> None:
        chain = self.begun[answer.number]
        chain.settle(answer.outcome)
        if chain.present is None:
            del self.begun[answer.number]
            if self.free:
                self._on_free(self)  # What must run alone may have waited for this.

    def _lose(self) -> None:
        """Let go of what a worker had that is gone."""
        lost, culprit = list(self.begun.values()), self._killed_for
        self.begun.clear()
        self.current = self.hinted = self.holds = self._killed_for = None
        self._is_leaving = False
        code = self._process.exitcode or 0
        signals = {number.value: number.name for number in signal.Signals}
        why = f"by {signals.get(-code, -code)}" if code < 0 else f"with exit code {code}"
        for chain in lost:
            guilty = culprit is None or chain is culprit
            chain.settle(WorkerLostError(f"the worker process died {why}", counts=guilty))
