"""The engine: worker processes, each warm and each killable, behind one small interface.

A stage request enters, a Future of its report leaves. The dispatcher owns one engine; a worker that
dies, hangs or leaks costs one attempt of one job, and its slot starts a new one.
"""

import multiprocessing
import os
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Protocol

from osteon.errors import WorkerLostError
from osteon.pipeline.request import SliceRequest, StageReport, StageRequest
from osteon.pipeline.worker import begin, run, worker_pid


class Engine(Protocol):
    """Where stages run."""

    @property
    def slots(self) -> int:
        """How many stages run at once."""

    @property
    def free(self) -> int:
        """How many slots have nothing to do."""

    def submit(self, request: StageRequest | SliceRequest) -> "Future[StageReport]":
        """Run a stage in a free slot; RuntimeError where none is free."""

    def kill(self, future: "Future[StageReport]") -> None:
        """End a stage at once; its future raises `WorkerLostError`."""

    def close(self) -> None:
        """End all workers within seconds."""


class _Slot:
    """One worker process, started again whenever it is gone."""

    def __init__(self, model: str, models_dir: Path | None) -> None:
        self._initial = (model, models_dir)
        self.busy: Future[StageReport] | None = None
        self.holds: Path | None = None  # the folder of the series whose slices it has in memory
        self._start()

    def _start(self) -> None:
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=begin,
            initargs=self._initial,
        )
        # The executor starts its process at the first call and keeps it to itself; it must be
        # possible to end it while it is still loading, so it is known by being new.
        others = set(multiprocessing.active_children())
        self._pool.submit(worker_pid)
        (self._process,) = set(multiprocessing.active_children()) - others

    def submit(self, request: StageRequest | SliceRequest) -> "Future[StageReport]":
        try:
            inner = self._pool.submit(run, request)
        except BrokenProcessPool:  # It died while it was idle.
            self._pool.shutdown(wait=False)
            self._start()
            inner = self._pool.submit(run, request)
        outer: Future[StageReport] = Future()
        outer.set_running_or_notify_cancel()
        self.busy, self.holds = outer, series_folder(request)
        inner.add_done_callback(lambda done: self._pass_on(done, outer))
        return outer

    def _pass_on(self, inner: "Future[StageReport]", outer: "Future[StageReport]") -> None:
        self.busy = None
        error = CancelledError() if inner.cancelled() else inner.exception()
        if isinstance(error, BrokenProcessPool | CancelledError):
            outer.set_exception(WorkerLostError("the worker process died"))
        elif error is not None:
            outer.set_exception(error)
        else:
            outer.set_result(inner.result())

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.kill()


class LocalEngine:
    """Worker processes on this host, one a slot.

    Parameters
    ----------
    slots : int
        How many.
    model : str
        The model that workers load before their first job.
    models_dir : Path, optional
        Folder of model folders.
    """

    def __init__(self, slots: int, model: str, models_dir: Path | None) -> None:
        self._slots = [_Slot(model, models_dir) for _ in range(slots)]

    @property
    def slots(self) -> int:
        """How many stages run at once."""
        return len(self._slots)

    @property
    def free(self) -> int:
        """How many slots have nothing to do."""
        return sum(slot.busy is None for slot in self._slots)

    def submit(self, request: StageRequest | SliceRequest) -> "Future[StageReport]":
        """Run a stage in a free slot.

        Raises
        ------
        RuntimeError
            No slot is free: the dispatcher asks `free` first.
        """
        free = [slot for slot in self._slots if slot.busy is None]
        if not free:
            raise RuntimeError("no slot is free")
        slot = next((s for s in free if s.holds == series_folder(request)), free[0])
        return slot.submit(request)

    def kill(self, future: "Future[StageReport]") -> None:
        """End a stage at once; its future raises `WorkerLostError`."""
        for slot in self._slots:
            if slot.busy is future:
                slot.kill()

    def close(self) -> None:
        """End all workers at once: what they were doing is rescued at the next start."""
        for slot in self._slots:
            slot.close()


def series_folder(request: StageRequest | SliceRequest) -> Path | None:
    """Return the folder of a request's input: a slot that holds its slices need not read them."""
    return request.inputs[0].parent if request.inputs else None


def auto_slots(devices: Path = Path("/dev"), cpus: int | None = None) -> int:
    """Return the number of slots for ``slots = "auto"``: one a GPU, else one for two cores."""
    gpus = len(list(devices.glob("nvidia[0-9]*")))
    return gpus or max(1, (cpus or os.cpu_count() or 1) // 2)
