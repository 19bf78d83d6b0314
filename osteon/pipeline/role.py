"""The role ``work``: the observer with its engine, once for a data directory.

Settings enter; it returns when told to stop. ``osteon serve`` and the systemd unit call it.
"""

import os
import threading

import structlog

from osteon.config.extras import load_extra
from osteon.config.settings import Settings
from osteon.pipeline.instances.leftovers import recover_all
from osteon.pipeline.intake import GIGABYTE
from osteon.pipeline.observer import Observer
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.workers.devices import visible_gpus
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
    engine = _engine(settings)
    log.info("work started", data_dir=str(settings.data_dir), recovered=recovered)
    try:
        Observer(settings, table, engine).run(stop)
    finally:
        engine.close()
        table.close()
        os.close(descriptor)
        log.info("work stopped")


def _engine(settings: Settings) -> Engine:
    """Return the workers of a cluster, where there is one, else those of this host."""
    if settings.cluster is not None:
        module = load_extra("osteon.pipeline.clusters.cluster", "cluster", "[cluster]")
        engine: Engine = module.ClusterEngine(settings.cluster, settings.data_dir)
        return engine
    limits = settings.pipeline
    gpus = visible_gpus()
    slots = auto_slots(gpus) if limits.slots == "auto" else limits.slots
    worker = WorkerSettings(
        settings.routes[0].model,
        limits.models_dir,
        threads=threads_of(slots),
        jobs_max=limits.recycle_jobs,
        growth_bytes_max=int(limits.recycle_growth_gb * GIGABYTE),
    )
    log.info("workers of this host", slots=slots, gpus=gpus, threads=worker.threads)
    return LocalEngine(slots, worker, gpus)
