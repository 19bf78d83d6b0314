"""The engine over several machines: Dask distributed carries stages to the workers of a cluster.

Stage requests enter as in ``engine.py``, Futures of their reports leave, and the dispatcher notices
no difference. The job table on this host stays the only truth: nothing is tried again here, and
whatever is lost becomes a `WorkerLostError` at once. All of Dask lives in one thread of its own.
"""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from distributed import Client, KilledWorker

from osteon.config.settings import ClusterSettings
from osteon.errors import OsteonError, StageError, WorkerLostError
from osteon.pipeline.clusters.clusterdask import configure_dask, why_of
from osteon.pipeline.clusters.clusterhost import PROGRESS, RELEASE, SLOT, open_parcel
from osteon.pipeline.clusters.clustertls import security_of
from osteon.pipeline.clusters.parcel import (
    Parcel,
    Reply,
    read_wanted,
    relative_to,
    work_of,
    write_outputs,
)
from osteon.pipeline.workers.request import SliceRequest, StageReport, StageRequest
from osteon.pipeline.workers.slot import Chain

LINK_S = 5.0  # To reach the scheduler, and for its answer.
POLL_S = 0.5  # How often the workers are looked at, and a lost scheduler is called.
KILL_S = 20.0  # For a worker that hangs to be ended and its nanny to say so.
CLOSE_S = 3.0
log = structlog.get_logger(__name__)


@dataclass
class _Run:
    """The stages of a job, of which a worker has the present one."""

    chain: Chain
    worker: str
    name: str
    task: asyncio.Task[None] | None = None
    killed: bool = False


class ClusterEngine:
    """Workers on other hosts, one a slot; they come and go, and `slots` and `free` follow.

    Parameters
    ----------
    cluster : ClusterSettings
        Where the scheduler is, and this node's certificate.
    data_dir : Path
        The node's data directory.

    Raises
    ------
    ConfigError
        The cluster would not be secure.

    Attributes
    ----------
    reason : str
        Why there is no slot; empty while there is one.
    """

    def __init__(self, cluster: ClusterSettings, data_dir: Path) -> None:
        self._security = security_of(cluster)
        configure_dask()
        self._scheduler = cluster.scheduler
        self._data_dir = data_dir
        self._shared = data_dir.absolute() if cluster.input == "shared" else None
        self.reason = f"the scheduler {self._scheduler} was not reached yet"
        self._lock = threading.Lock()
        self._workers: dict[str, str] = {}  # address → name
        self._runs: dict[int, _Run] = {}  # by the chain's number
        self._names: WeakKeyDictionary[Future[StageReport], str] = WeakKeyDictionary()
        self._held: dict[str, tuple[str, str]] = {}  # address → whose files the worker holds
        self._client: Client | None = None
        self._restarting: set[asyncio.Task[None]] = set()  # An event loop holds none by itself.
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._live, name="cluster", daemon=True)
        self._thread.start()

    @property
    def slots(self) -> int:
        """How many workers the cluster has."""
        return len(self._workers)

    @property
    def free(self) -> int:
        """How many of them have nothing to do; 0 while the scheduler is gone."""
        with self._lock:
            return len(self._idle())

    @property
    def room(self) -> int:
        """How many chains can be handed over: what is to follow waits in the table."""
        return self.free

    def submit(self, request: StageRequest | SliceRequest) -> "Future[StageReport]":
        """Run a stage on a free worker; slices that came early are not carried to other hosts.

        Raises
        ------
        RuntimeError
            No worker is free: the dispatcher asks `free` first.
        """
        assert isinstance(request, StageRequest)
        return self.chain((request,))[0]

    def chain(
        self, requests: Sequence[StageRequest], *, alone: bool = False
    ) -> "tuple[Future[StageReport], ...]":
        """Run stages one after the other on a free worker, which runs nothing beside them.

        Raises
        ------
        RuntimeError
            No worker is free: the dispatcher asks `free` first.
        """
        chain = Chain(tuple(requests), alone=alone)
        with self._lock:
            idle = self._idle()
            if not idle:
                raise RuntimeError(f"no slot is free: {self.reason or 'all workers are busy'}")
            # The worker that ran the last stage of this input still holds its volume.
            work = work_of(requests[0])
            worker = next((w for w in idle if self._held.get(w) == work), idle[0])
            self._held[worker] = work
            chain.begin()
            run = self._runs[chain.number] = _Run(chain, worker, self._workers[worker])
            self._names.update(dict.fromkeys(chain.futures, run.name))
        self._loop.call_soon_threadsafe(self._begin, run)
        return chain.futures

    def withdraw(self, future: "Future[StageReport]") -> bool:
        """Take back what has not begun, which is nothing: whatever is handed over begins."""
        return future.cancel()

    def kill(self, future: "Future[StageReport]") -> None:
        """End a stage by restarting its worker; its future raises `WorkerLostError` in seconds."""
        with self._lock:
            run = next((r for r in self._runs.values() if r.chain.present is future), None)
            if run is None or run.killed:
                return
            run.killed = True
        self._from_outside(self._cut(run))

    def progress(self, future: "Future[StageReport]") -> float:
        """Return how far, 0 to 1, a stage has come by what its worker said last."""
        with self._lock:
            runs = self._runs.values()
            return next((r.chain.fraction for r in runs if r.chain.present is future), 0.0)

    def worker(self, future: "Future[StageReport]") -> str:
        """Return the name that the worker of a request has in the cluster, also when it is over."""
        with self._lock:
            return self._names.get(future, "")

    def close(self) -> None:
        """Leave the cluster; the scheduler ends the workers of what is still running."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(2 * CLOSE_S)

    def _idle(self) -> list[str]:
        if not self._thread.is_alive():
            raise RuntimeError("the cluster's thread has ended: restart the role work")
        if self._client is None or self._client.status != "running":
            return []
        busy = {run.worker for run in self._runs.values()}
        return [address for address in self._workers if address not in busy]

    def _from_outside(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop)

    # What follows runs in the cluster's thread.

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stay_linked())

    async def _stay_linked(self) -> None:
        while not self._closing.is_set():
            client = Client(
                self._scheduler,
                security=self._security,
                asynchronous=True,
                timeout=LINK_S,
                set_as_default=False,
                name="osteon",
            )
            try:
                async with asyncio.timeout(2 * LINK_S):
                    await client
                client.subscribe_topic(PROGRESS, self._hear)
                self._client = client
                await self._watch(client)
                reason = "the node leaves the cluster"
            except (OSError, RuntimeError, ImportError) as error:
                reason = f"the scheduler {self._scheduler} is not reached: {why_of(error)}"
            self._client = None
            self._take_stock({}, reason)
            with suppress(OSError):
                async with asyncio.timeout(CLOSE_S):
                    await client.close()
            await self._pause()

    async def _watch(self, client: Client) -> None:
        """Follow which workers there are, until the scheduler is gone or the engine closes."""
        while not self._closing.is_set():
            async with asyncio.timeout(LINK_S):
                cluster = await client.scheduler.identity(n_workers=-1)
            if client.status != "running":
                raise ConnectionError("the connection was lost")
            self._take_stock(*_eligible(cluster))
            await self._pause()

    def _hear(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """Note what a worker says of the stage that writes to a folder."""
        said = event[1]
        with self._lock:
            for run in self._runs.values():
                for request in run.chain.requests[run.chain.at :][:1]:
                    assert isinstance(request, StageRequest)
                    if str(request.out.relative_to(self._data_dir)) == said["out"]:
                        run.chain.fraction = float(said["fraction"])

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), POLL_S)

    def _take_stock(self, workers: Mapping[str, str], reason: str) -> None:
        """Note which workers there are; what a worker had that is gone is lost."""
        with self._lock:
            joined, left = workers.keys() - self._workers.keys(), self._workers.keys() - workers
            names = {**self._workers, **workers}
            self._workers = dict(workers)
            self._held = {w: work for w, work in self._held.items() if w in workers}
            gone = [run for run in self._runs.values() if run.worker not in workers]
        for event, addresses in (("worker joined", joined), ("worker left", left)):
            for address in sorted(addresses):
                log.info(event, worker=names[address], address=address)
        if reason and reason != self.reason:
            log.warning("cluster has no slot", why=reason)
        self.reason = reason
        for run in gone:
            alone = bool(workers) or self._client is not None
            self._lose(run, "it is gone" if alone else reason, counts=alone)

    def _begin(self, run: _Run) -> None:
        if run.chain.number not in self._runs:
            return
        run.task = self._loop.create_task(self._carry(run))
        run.task.add_done_callback(lambda task: self._conclude(run, task))

    async def _carry(self, run: _Run) -> None:
        """Have a worker run the stages of a chain, one after the other."""
        for request in run.chain.requests:
            assert isinstance(request, StageRequest)
            report = await self._carry_one(run, request)
            with self._lock:
                if run.chain.number in self._runs:
                    run.chain.settle(report)

    async def _carry_one(self, run: _Run, asked: StageRequest) -> StageReport:
        """Send a stage to its worker and bring back what it made."""
        # What is kept of slices stays where workers share it; by value they start with nothing.
        asked = asked if self._shared is not None else replace(asked, cache=None)
        request = relative_to(self._data_dir, asked)
        reply = await self._send(run, Parcel(request, self._shared))
        if reply.report is None:
            contents = await asyncio.to_thread(read_wanted, self._data_dir, request, reply.wanted)
            reply = await self._send(run, Parcel(request, self._shared, contents))
        if reply.report is None:
            raise StageError(f"the worker {run.name} does not keep the files it is sent")
        if self._shared is None:
            await asyncio.to_thread(write_outputs, asked.out, reply.contents)
        return reply.report

    async def _send(self, run: _Run, parcel: Parcel) -> Reply:
        if self._client is None:
            raise ConnectionError("the scheduler was lost")
        # What `Client.get_executor` does, whose futures an asynchronous client cannot cancel: when
        # this one is let go, so is the stage.
        reply: Reply = await self._client.submit(
            open_parcel, parcel, resources={SLOT: 1}, workers=[run.worker], pure=False, retries=0
        )
        return reply

    def _conclude(self, run: _Run, task: asyncio.Task[None]) -> None:
        error = CancelledError() if task.cancelled() else task.exception()
        if error is None:
            with self._lock:
                self._runs.pop(run.chain.number, None)
        elif isinstance(error, OsteonError):
            self._settle(run, error)
            if isinstance(error, WorkerLostError):  # It ran out of memory: a fresh one is sound.
                restart = self._loop.create_task(self._cut(run))
                self._restarting.add(restart)
                restart.add_done_callback(self._restarting.discard)
        elif isinstance(error, KilledWorker):
            self._lose(run, "it died")
        elif isinstance(error, CancelledError | OSError):  # Dask's own words name its keys.
            self._lose(run, "the connection to the scheduler broke", counts=False)
        else:
            name = type(error).__name__
            self._settle(run, StageError(f"the worker {run.name} could not begin: {name}: {error}"))

    async def _cut(self, run: _Run) -> None:
        why = "it was ended"
        try:
            if self._client is not None:
                async with asyncio.timeout(KILL_S):
                    await self._client.restart_workers(
                        [run.worker], timeout=KILL_S, raise_for_error=False
                    )
        except (OSError, KeyError) as error:  # KeyError: the worker was gone already.
            why = f"it could not be ended: {why_of(error)}"
        self._lose(run, why)

    def _lose(self, run: _Run, why: str, *, counts: bool = True) -> None:
        """End what a lost worker had; where the scheduler was lost, no job is to blame."""
        with self._lock:
            self._workers.pop(run.worker, None)  # Until it is seen again.
        self._settle(run, WorkerLostError(f"the worker {run.name} was lost: {why}", counts=counts))

    def _settle(self, run: _Run, error: OsteonError) -> None:
        """End a run, once; whatever comes of it later is not waited for."""
        with self._lock:
            if self._runs.pop(run.chain.number, None) is None:
                return
            self._held.pop(run.worker, None)
            run.chain.settle(error)
        if run.task is not None:
            run.task.cancel()


def _eligible(cluster: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Return the workers that may get stages, and the reason where there is none."""
    if "dashboard" in cluster["services"]:
        return {}, (
            f"the scheduler {cluster['address']} has Dask's dashboard on, which has no password:"
            " start it by `osteon cluster scheduler`"
        )
    workers: dict[str, str] = {}
    reason = "no worker has joined the cluster: start one by `osteon cluster worker`"
    for address, worker in cluster["workers"].items():
        fault = _fault_of(worker)
        if fault:
            reason = f"the worker {worker['name']} {fault}"
        elif worker["status"] == "running":
            workers[address] = str(worker["name"])
    return workers, "" if workers else reason


def _fault_of(worker: Mapping[str, Any]) -> str:
    if "dashboard" in worker["services"]:
        return "has Dask's dashboard on: start it by `osteon cluster worker`"
    if SLOT not in worker["resources"] or worker["nanny"] is None:
        return "was not started by `osteon cluster worker`"
    if RELEASE not in worker["resources"]:
        return f"is not of the release {RELEASE}: install the same on every host"
    return ""
