"""What tests need of the machine: programs from apt or PyPI, free ports, waits with a deadline."""

import random
import shutil
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

PORTS = 15_000, 32_000  # Linux gives out 32,768 to 60,999.
T = TypeVar("T")


def require_tool(path: str) -> str:
    """Return the program's full path, or skip the test and say what is missing."""
    found = shutil.which(path)
    if found is None:
        pytest.skip(f"{path} is not installed (.ci/run lists the packages)")
    return found


def require_script(name: str) -> str:
    """Return the full path of a program of this virtual environment, or skip."""
    return require_tool(str(Path(sys.executable).parent / name))


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now.

    It is below those that the system gives to outgoing connections, or one of these could take it
    before whoever is to listen there has started.
    """
    while True:
        port = random.randrange(*PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(predicate: Callable[[], T], timeout_s: float = 30.0, every_s: float = 0.02) -> T:
    """Poll until the predicate is true and return its value; fail at the deadline."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"still {value!r} after {timeout_s} s: {predicate}")
        time.sleep(every_s)
