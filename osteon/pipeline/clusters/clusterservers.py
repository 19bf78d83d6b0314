"""The cluster's other processes: the scheduler, and a worker on each GPU.

Settings enter; each runs until it is told to stop. ``osteon cluster`` calls them. A worker is a
nanny and the process that it watches: that process runs one stage at a time, and when it dies or is
ended, the nanny starts a new one. Nothing here listens without TLS.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import structlog
from distributed import Nanny, Scheduler, Worker
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from osteon.config.settings import ClusterSettings, Settings
from osteon.errors import ConfigError
from osteon.pipeline.clusters.clusterdask import configure_dask, why_of
from osteon.pipeline.clusters.clusterhost import PLUGIN, RELEASE, SLOT, StageHost
from osteon.pipeline.clusters.clustertls import security_of

RESTART_S = 20.0
REJOIN_S = 1.0
CLOSE_S = 5.0
EXIT_S = 0.2
KILL_S = 1.0
START_S = 300.0  # Models may be large.
log = structlog.get_logger(__name__)


class _ClosedToHttp:
    """A server without Dask's HTTP side, which has neither TLS nor a password."""

    def start_http_server(self, *_: Any, **__: Any) -> None:
        """Open no port."""


class ClusterScheduler(_ClosedToHttp, Scheduler):  # type: ignore[misc] # untyped base
    """Dask's scheduler, with the cluster's port as its only one."""


class ClusterWorker(_ClosedToHttp, Worker):  # type: ignore[misc] # untyped base
    """Dask's worker, with the cluster's port as its only one."""

    async def close(self, *arguments: Any, **keywords: Any) -> str | None:
        """Close without waiting for the stage: whoever wanted it has been told that it is lost."""
        done: str | None = await super().close(*arguments, **keywords | {"executor_wait": False})
        # Python would wait for the stage's thread, which nothing can end but the end of all.
        asyncio.get_running_loop().call_later(EXIT_S, os._exit, 0)
        return done


class ClusterNanny(Nanny):  # type: ignore[misc] # untyped base
    """Dask's nanny, without patience: a stage that hangs does not end for being waited for."""

    async def kill(self, timeout: float = KILL_S, reason: str = "nanny-kill") -> None:
        """End the worker process."""
        await super().kill(timeout=min(timeout, KILL_S), reason=reason)


class EndUnwanted(SchedulerPlugin):  # type: ignore[misc] # untyped base
    """Ends the worker of a stage that nobody waits for any more; Dask would let it run on."""

    name = PLUGIN

    def __init__(self) -> None:
        self._worker_of: dict[str, str] = {}
        self._restarts: set[asyncio.Task[Any]] = set()

    async def start(self, scheduler: Scheduler) -> None:
        """Remember whose plugin this is."""
        self._scheduler = scheduler

    def transition(
        self, key: str, start: str, finish: str, *_: Any, stimulus_id: str, **__: Any
    ) -> None:
        """Follow a stage: which worker has it, and whether it was let go."""
        if finish == "processing":
            self._worker_of[key] = self._scheduler.tasks[key].processing_on.address
        elif start == "processing":
            address = self._worker_of.pop(key)
            if finish in {"released", "forgotten"} and address in self._scheduler.workers:
                log.warning("stage is not wanted any more, its worker is ended", worker=address)
                task = asyncio.create_task(
                    self._scheduler.restart_workers(
                        [address],
                        timeout=RESTART_S,
                        wait_for_workers=False,
                        on_error="return",
                        stimulus_id=stimulus_id,
                    )
                )
                self._restarts.add(task)
                task.add_done_callback(self._restarts.discard)


async def run_scheduler(cluster: ClusterSettings, host: str, stop: asyncio.Event) -> None:
    """Run the scheduler until told to stop.

    Parameters
    ----------
    host : str
        Address to listen on; the port is that of ``cluster.scheduler``.

    Raises
    ------
    ConfigError
        The cluster would not be secure, or the port cannot be listened on.
    """
    security = security_of(cluster)
    configure_dask()
    port = cluster.scheduler.rsplit(":", 1)[1]
    try:
        scheduler = ClusterScheduler(
            host=f"tls://{host}:{port}", security=security, dashboard=False, plugins=[EndUnwanted()]
        )
        await scheduler
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"cluster.scheduler: no start on {host}:{port}: {why_of(error)}"
        ) from error
    log.info("cluster scheduler started", address=scheduler.address)
    try:
        await stop.wait()
    finally:
        await _within(CLOSE_S, scheduler.close(reason="stopped"))
        log.info("cluster scheduler stopped")


async def run_worker(
    settings: Settings, stop: asyncio.Event, *, name: str, host: str | None, port: int
) -> None:
    """Run one worker until told to stop; while the scheduler is gone, ask for it.

    Parameters
    ----------
    name : str
        What it is called in logs and reasons; no two workers share one.
    host : str, optional
        Address of this host that the others reach; the one that faces the scheduler if absent.
    port : int
        Port of the worker process and, one above it, of its nanny; 0 for any.

    Raises
    ------
    ConfigError
        The cluster would not be secure.
    """
    cluster = settings.cluster
    assert cluster is not None
    security = security_of(cluster)
    configure_dask()
    plugin = StageHost(
        settings.routes[0].model, settings.pipeline.models_dir, cluster.shared_data_dir
    )
    while not stop.is_set():
        nanny = ClusterNanny(
            cluster.scheduler,
            name=name,
            host=host,
            worker_port=port,
            port=port and port + 1,
            protocol="tls",
            security=security,
            nthreads=1,
            resources={SLOT: 1.0, RELEASE: 1.0},
            memory_limit=0,  # A volume is no Dask value that could be spilled.
            dashboard=False,
            worker_class=ClusterWorker,
            plugins=(plugin,),
        )
        await _until_gone(nanny, stop)
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), REJOIN_S)
    log.info("cluster worker stopped", worker=name)


async def _until_gone(nanny: Nanny, stop: asyncio.Event) -> None:
    """Start a worker and wait until it or its scheduler is gone, or it is to stop."""
    stopped = asyncio.create_task(stop.wait())
    life = asyncio.create_task(_live(nanny))
    try:
        await asyncio.wait({stopped, life}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        life.cancel()
        await _within(2 * CLOSE_S, nanny.close(timeout=CLOSE_S, reason="stopped"))
        for process in multiprocessing.active_children():  # What did not end by itself.
            process.kill()


async def _live(nanny: Nanny) -> None:
    try:
        async with asyncio.timeout(START_S):
            await nanny
    except (OSError, RuntimeError) as error:
        log.warning("cluster not joined", scheduler=nanny.scheduler_addr, why=why_of(error))
        return
    log.info("cluster joined", scheduler=nanny.scheduler_addr, worker=nanny.worker_address)
    finished = asyncio.ensure_future(nanny.finished())
    started = time.monotonic()
    # A nanny waits for ever for a new worker process that hangs before it has joined.
    while not finished.done() and time.monotonic() - started < START_S:
        await asyncio.wait({finished}, timeout=CLOSE_S)
        if nanny.process is None or nanny.process.status is not Status.starting:
            started = time.monotonic()
    finished.cancel()
    log.warning("cluster left", scheduler=nanny.scheduler_addr)


async def _within(seconds: float, closing: Awaitable[Any]) -> None:
    with suppress(TimeoutError, OSError):
        await asyncio.wait_for(closing, seconds)
