"""The ``receive`` role as a process of its own, started as a user or systemd starts it.

A data directory enters, a listening process leaves: to be killed, traced, starved and measured.
The anomaly tests and the benchmarks beside them use it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.tools import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
PRODUCT = ("-m", "osteon.cli.main")
START_S = 60.0
_LOG_TAIL = 3000


class RoleError(Exception):
    """The role did not start, or ended by itself; its log is the message."""


class Role:
    """A receive role that can be started again and again on the same data directory.

    Parameters
    ----------
    data_dir : Path
        Its data directory; the log stands beside it.
    entry : sequence of str
        What Python runs; the weakened builds have an entry of their own.
    settings : mapping of str to str
        Environment variables of further settings.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        entry: Sequence[str] = PRODUCT,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        self._entry = entry
        self._process: subprocess.Popen[bytes] | None = None
        own = {
            "OSTEON_DATA_DIR": str(data_dir),
            "OSTEON_SCP__HOST": "127.0.0.1",
            "OSTEON_SCP__PORT": str(self.port),
            "OSTEON_PIPELINE__DISK_RESERVE_GB": "0",
            "PYTHONPATH": str(REPOSITORY),
        }
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("OSTEON_")}
        self._environment = inherited | own | dict(settings or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def launch(self, prefix: Sequence[str] = ()) -> None:
        """Start it, perhaps under another program, and do not wait until it listens."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, *self._entry, "serve", "--role", "receive"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir.parent,
                env=self._environment,
            )

    @property
    def pid(self) -> int:
        """The process that is the role, which strace may have started."""
        assert self._process is not None
        started = self._process.pid
        if Path(f"/proc/{started}/comm").read_text() != "strace\n":
            return started
        traced = Path(f"/proc/{started}/task/{started}/children").read_text().split()
        return int(traced[0]) if traced else started

    def start(self, prefix: Sequence[str] = ()) -> Self:
        """Start it and wait until it listens.

        Raises
        ------
        RoleError
            It ended, or does not listen within `START_S`.
        """
        self.launch(prefix)
        deadline = time.monotonic() + START_S
        while not self.listens():
            if not self.runs() or time.monotonic() > deadline:
                self.kill()
                raise RoleError(self.log.read_text(errors="replace")[-_LOG_TAIL:])
            time.sleep(0.02)
        return self

    def listens(self) -> bool:
        """Whether it takes connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float) -> int:
        """Wait for its end and return its exit status."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """End it by force, as a crash does; a second call does nothing."""
        if self._process is None:
            return
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        try:
            self._process.wait(20)  # strace ends when what it traces has ended.
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._process = None

    def terminate(self) -> None:
        """Stop it as systemd does and wait for its end."""
        assert self._process is not None
        os.kill(self.pid, signal.SIGTERM)
        self._process.wait(30)
        self._process = None

    def threads(self) -> int:
        """How many threads it has."""
        return int(self._status("Threads"))

    def descriptors(self) -> int:
        """How many files and sockets it holds open, but for drafts that stand ready."""
        return sum(
            1
            for link in Path(f"/proc/{self.pid}/fd").iterdir()
            if "/incoming/receive/" not in _target(link)
        )

    def memory_kib(self) -> int:
        """Resident memory."""
        return int(self._status("VmRSS").split()[0])

    def peak_kib(self) -> int:
        """Greatest resident memory since `forget_peak`."""
        return int(self._status("VmHWM").split()[0])

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(key))


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # It was closed meanwhile.
        return ""
