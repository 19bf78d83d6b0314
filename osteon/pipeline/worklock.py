"""One ``work`` and one ``receive`` role a data directory: their locks, and who holds them.

The kernel gives a lock back however its holder ends, so it can be no stale mark. The roles take
them; HTTP, the command line and the observer ask.
"""

import fcntl
import os
import threading
import time
from pathlib import Path

from osteon.errors import UnavailableError
from osteon.pipeline.instances.spool import INCOMING

WORK = "work"
LISTENING = INCOMING  # Held by a receiver that listens and has put its predecessor's log in order.
LOCK_WAIT_S = 5.0
_ASK_AGAIN_S = 0.1  # A readiness probe holds the lock for microseconds.


def hold(data_dir: Path, stop: threading.Event, name: str = WORK) -> int:
    """Lock a folder of a data directory and return the descriptor that holds it.

    Parameters
    ----------
    name : str
        The folder that the role alone uses, or alone writes to.

    Raises
    ------
    UnavailableError
        Another process has held it for 5 s, or this one was told to stop meanwhile.
    """
    folder = data_dir / name
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline or stop.wait(_ASK_AGAIN_S):
                os.close(descriptor)
                raise UnavailableError(
                    f"data_dir: another process works on {folder}: stop it first"
                ) from error
        else:
            return descriptor


def work_is_running(data_dir: Path) -> bool:
    """Return whether a process works on a data directory."""
    return _is_held(data_dir / WORK)


def receiver_listens(data_dir: Path) -> bool:
    """Return whether a receiver of a data directory listens, so that silence tells something."""
    return _is_held(data_dir / LISTENING)


def _is_held(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
