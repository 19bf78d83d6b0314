"""The role ``work``: the observer with its engine, once for a data directory.

Settings enter; it returns when told to stop. ``osteon serve`` and the systemd unit call it.
"""

import fcntl
import os
import threading
import time
from pathlib import Path

import structlog

from osteon.config.settings import Settings
from osteon.errors import ConfigError
from osteon.pipeline.dispatcher import WORK
from osteon.pipeline.engine import LocalEngine, auto_slots
from osteon.pipeline.observer import Observer
from osteon.pipeline.spool import Spool
from osteon.pipeline.table.connection import open_table

LOCK_WAIT_S = 5.0
log = structlog.get_logger(__name__)


def run_work(settings: Settings, stop: threading.Event) -> None:
    """Run throttler, observer, dispatcher, delivery and the workers until told to stop.

    Raises
    ------
    ConfigError
        Another process already works on this data directory.
    """
    table = open_table(settings.data_dir)
    folder = settings.data_dir / WORK
    folder.mkdir(exist_ok=True)
    descriptor = _hold(folder)
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


def work_is_running(data_dir: Path) -> bool:
    """Return whether a process works on a data directory: it holds the folder's lock."""
    try:
        descriptor = os.open(data_dir / WORK, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _hold(folder: Path) -> int:
    """Lock the folder; the kernel gives the lock back however this process ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise ConfigError(
                    f"data_dir: another process works on {folder.parent}: stop it first"
                ) from error
            time.sleep(0.1)  # A readiness probe holds the lock for microseconds.
        else:
            return descriptor
