"""The role ``work``: the observer with its engine, once for a data directory.

Settings enter; it returns when told to stop. ``osteon serve`` and the systemd unit call it.
"""

import os
import threading
from collections.abc import Sequence

import structlog

from osteon.config.extras import load_extra
from osteon.config.settings import Settings
from osteon.errors import OsteonError
from osteon.pipeline.instances.leftovers import recover_all
from osteon.pipeline.intake import GIGABYTE
from osteon.pipeline.observer import Observer
from osteon.pipeline.table import workers
from osteon.pipeline.table.connection import Table, open_table
from osteon.pipeline.workers.devices import idle_words, visible_gpus
from osteon.pipeline.workers.engine import Engine, LocalEngine, auto_slots, threads_of
from osteon.pipeline.workers.request import WorkerSettings
from osteon.pipeline.worklock import hold

log = structlog.get_logger(__name__)


def run_work(settings: Settings, stop: threading.Event) -> None:
    """Run throttler, observer, dispatcher, delivery and the workers until told to stop.

    Raises
    ------
    ConfigError
        Another process already works on this data directory, or the cluster is not secure.
    """
    table = open_table(settings.data_dir)
    descriptor = hold(settings.data_dir, stop)
    recovered = recover_all(settings, table)
    workers.note_idle_gpus(table, idle_gpus(settings, visible_gpus()))
    engine = _engine(settings)
    log.info("work started", data_dir=str(settings.data_dir), recovered=recovered)
    try:
        Observer(settings, table, engine).run(stop)
    finally:
        engine.close()
        _note_stop(table)
        table.close()
        os.close(descriptor)
        log.info("work stopped")


def _note_stop(table: Table) -> None:
    """Write down that nothing moves from now on; whoever waits is told since when."""
    try:
        workers.note_engine(table, 0, workers.STOPPED)
    except OsteonError as error:  # The disk is full: the next start says more.
        log.warning("stop not noted", why=error.message)


def idle_gpus(settings: Settings, gpus: Sequence[str]) -> str:
    """Say which GPUs of this host no slot would use, and what to set; "" where there are none.

    Parameters
    ----------
    gpus : sequence of str
        What `visible_gpus` returned.
    """
    if settings.cluster is not None:
        return ""  # Its workers have one GPU each, and the node itself none.
    return idle_words(_slots(settings, gpus), gpus)


def _slots(settings: Settings, gpus: Sequence[str]) -> int:
    slots = settings.pipeline.slots
    return auto_slots(gpus) if slots == "auto" else slots


def _engine(settings: Settings) -> Engine:
    """Return the workers of a cluster, where there is one, else those of this host."""
    if settings.cluster is not None:
        module = load_extra("osteon.pipeline.clusters.cluster", "cluster", "[cluster]")
        engine: Engine = module.ClusterEngine(settings.cluster, settings.data_dir)
        return engine
    limits = settings.pipeline
    gpus = visible_gpus()
    slots = _slots(settings, gpus)
    worker = WorkerSettings(
        settings.routes[0].model,
        limits.models_dir,
        threads=threads_of(slots),
        jobs_max=limits.recycle_jobs,
        growth_bytes_max=int(limits.recycle_growth_gb * GIGABYTE),
    )
    log.info("workers of this host", slots=slots, gpus=gpus, threads=worker.threads)
    idle = idle_gpus(settings, gpus)
    if idle:
        log.warning("idle gpus", why=idle)
    return LocalEngine(slots, worker, gpus)
