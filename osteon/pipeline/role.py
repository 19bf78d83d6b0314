"""The role ``work``: the observer with its engine, once for a data directory.

Settings enter; it returns when told to stop. ``osteon serve`` and the systemd unit call it.
"""

import os
import threading

import structlog

from osteon.config.settings import Settings
from osteon.pipeline.engine import LocalEngine, auto_slots
from osteon.pipeline.observer import Observer
from osteon.pipeline.spool import Spool
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.worklock import hold

log = structlog.get_logger(__name__)


def run_work(settings: Settings, stop: threading.Event) -> None:
    """Run throttler, observer, dispatcher, delivery and the workers until told to stop.

    Raises
    ------
    ConfigError
        Another process already works on this data directory.
    """
    table = open_table(settings.data_dir)
    descriptor = hold(settings.data_dir, stop)
    limits = settings.pipeline
    slots = auto_slots() if limits.slots == "auto" else limits.slots
    cleared = Spool(settings.data_dir).clear_incoming()
    engine = LocalEngine(slots, settings.routes[0].model, limits.models_dir)
    log.info("work started", slots=slots, data_dir=str(settings.data_dir), cleared=cleared)
    try:
        Observer(settings, table, engine).run(stop)
    finally:
        engine.close()
        table.close()
        os.close(descriptor)
        log.info("work stopped")
