"""What tests need of the machine: programs from apt or PyPI, free ports, waits with a deadline."""

import shutil
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

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
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


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
