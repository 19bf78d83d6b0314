"""The engine: worker processes, each warm and each killable, behind one small interface.

Chains of stage requests enter, Futures of their reports leave. The dispatcher owns one engine; a
worker that dies, hangs or leaks costs one attempt of what it ran, and its slot starts a new one.
"""

import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol
from weakref import WeakKeyDictionary

from osteon.pipeline.workers.devices import gpu_of
from osteon.pipeline.workers.request import (
    SliceRequest,
    StageReport,
    StageRequest,
    WorkerSettings,
)
from osteon.pipeline.workers.slot import Chain, Slot
from osteon.pipeline.workers.spare import Spares


class Engine(Protocol):
    """Where stages run."""

    @property
    def slots(self) -> int:
        """How many stages run at once."""

    @property
    def free(self) -> int:
        """How many slots compute nothing."""

    @property
    def room(self) -> int:
        """How many chains can be handed over: to free slots, and to follow what is running."""

    @property
    def reason(self) -> str:
        """Why there is no slot; "" while there is one."""

    def submit(self, request: StageRequest | SliceRequest) -> "Future[StageReport]":
        """Run one request in a free slot; RuntimeError where none is free."""

    def chain(
        self, requests: Sequence[StageRequest], *, alone: bool = False
    ) -> "tuple[Future[StageReport], ...]":
        """Run the stages of one job one after the other; RuntimeError where there is no room.

        A future is pending until its request begins. Where one fails, those behind it are
        cancelled.

        Parameters
        ----------
        alone : bool
            Whether nothing else may share the worker process meanwhile.
        """

    def withdraw(self, future: "Future[StageReport]") -> bool:
        """Take back a chain, known by its first future; False where it has begun."""

    def kill(self, future: "Future[StageReport]") -> None:
        """End a request that runs at once; its future raises `WorkerLostError`."""

    def progress(self, future: "Future[StageReport]") -> float:
        """Return how far, 0 to 1, a request that runs has come."""

    def worker(self, future: "Future[StageReport]") -> str:
        """Return the name of the worker that has or had a request; "" where none has it yet."""

    def close(self) -> None:
        """End all workers within seconds."""


class LocalEngine:
    """Worker processes on this host, one a slot.

    While a slot computes, one more chain a slot may wait here: the worker reads its volume
    meanwhile, and begins it as soon as it has done with the device.

    Parameters
    ----------
    slots : int
        How many.
    settings : WorkerSettings
        What each worker goes by.
    gpus : sequence of str
        What `visible_gpus` returned: slots take one each, in turn. Without any a worker sees what
        this process does.
    """

    reason = ""

    def __init__(
        self,
        slots: int,
        settings: WorkerSettings,
        gpus: Sequence[str] = (),
    ) -> None:
        self._lock = threading.RLock()
        self._queue: deque[Chain] = deque()
        self._names: WeakKeyDictionary[Future[StageReport], str] = WeakKeyDictionary()
        with self._lock:
            self._spares = Spares(settings)
            self._slots = [
                Slot(self._spares, self._lock, self._feed, gpu_of(number, gpus))
                for number in range(slots)
            ]

    @property
    def slots(self) -> int:
        """How many stages run at once."""
        return len(self._slots)

    @property
    def free(self) -> int:
        """How many slots compute nothing."""
        with self._lock:
            return sum(slot.free for slot in self._slots) if not self._queue else 0

    @property
    def room(self) -> int:
        """How many chains can be handed over."""
        with self._lock:
            return self.free + len(self._slots) - len(self._queue)

    def submit(self, request: StageRequest | SliceRequest) -> "Future[StageReport]":
        """Run one request in a free slot.

        Raises
        ------
        RuntimeError
            No slot is free: the dispatcher asks `free` first.
        """
        with self._lock:
            if not self.free:
                raise RuntimeError("no slot is free")
            return self._take(Chain((request,)))[0]

    def chain(
        self, requests: Sequence[StageRequest], *, alone: bool = False
    ) -> "tuple[Future[StageReport], ...]":
        """Run stages one after the other, now or as soon as a slot has done with its own.

        Raises
        ------
        RuntimeError
            There is no room: the dispatcher asks `room` first.
        """
        with self._lock:
            if not self.room:
                raise RuntimeError("no slot is free, and each has what follows")
            return self._take(Chain(tuple(requests), alone=alone))

    def withdraw(self, future: "Future[StageReport]") -> bool:
        """Take back a chain that waits here."""
        with self._lock:
            chain = next((c for c in self._queue if c.futures[0] is future), None)
            if chain is None:
                return False
            self._queue.remove(chain)
            for slot in self._slots:
                if slot.hinted is chain:
                    slot.hinted = None
            chain.cancel()
            return True

    def kill(self, future: "Future[StageReport]") -> None:
        """End a request that runs at once; its future raises `WorkerLostError`."""
        with self._lock:
            for slot in self._slots:
                for chain in slot.begun.values():
                    if chain.present is future:
                        slot.kill(chain)

    def progress(self, future: "Future[StageReport]") -> float:
        """Return how far, 0 to 1, a request that runs has come."""
        with self._lock:
            begun = (chain for slot in self._slots for chain in slot.begun.values())
            return next((c.fraction for c in begun if c.present is future), 0.0)

    def worker(self, future: "Future[StageReport]") -> str:
        """Return the slot that has or had a request; "" where none has it yet."""
        with self._lock:
            return self._names.get(future, "")

    def close(self) -> None:
        """End all workers at once: what they were doing is rescued at the next start."""
        with self._lock:
            for slot in self._slots:
                slot.close()
            self._spares.close()

    def _take(self, chain: Chain) -> "tuple[Future[StageReport], ...]":
        self._queue.append(chain)
        free = [slot for slot in self._slots if slot.free]
        for slot in sorted(free, key=lambda slot: slot.holds != chain.folder):
            self._feed(slot)
        self._hint()
        return chain.futures

    def _feed(self, slot: Slot) -> None:
        """Give a slot what it was told of, or else what has waited longest."""
        if not self._queue or not slot.free:
            return
        chain = self._queue[0]
        if not chain.alone and slot.hinted in self._queue:
            chain = slot.hinted or chain
        if slot.begun and (chain.alone or any(other.alone for other in slot.begun.values())):
            return  # It is fed again when what it encodes is over.
        self._queue.remove(chain)
        for other in self._slots:
            if other.hinted is chain:
                other.hinted = None
        name = f"slot {self._slots.index(slot) + 1}"
        self._names.update(dict.fromkeys(chain.futures, name))
        slot.give(chain)
        self._hint()

    def _hint(self) -> None:
        """Tell of each chain that waits to a slot that is computing."""
        hinted = [slot.hinted for slot in self._slots]
        for chain in self._queue:
            if chain in hinted or chain.alone:
                continue
            for slot in self._slots:
                current = slot.current
                if slot.hinted is None and current is not None and not current.alone:
                    slot.hint(chain)
                    break


def threads_of(slots: int, cpus: int | None = None) -> int:
    """Return the threads of each worker: all slots together have as many as there are cores."""
    return max(1, (cpus or os.cpu_count() or 1) // slots)


def auto_slots(gpus: Sequence[str], cpus: int | None = None) -> int:
    """Return the number of slots for ``slots = "auto"``: one a GPU, else one for two cores."""
    return len(gpus) or max(1, (cpus or os.cpu_count() or 1) // 2)
