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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

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
        if entry != PRODUCT:  # What is taken out is taken out of this one process.
            own["OSTEON_SCP__PROCESSES"] = "1"
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

    @property
    def pids(self) -> list[int]:
        """All its processes, the receiver's own first."""
        found = [self.pid]
        for pid in found:  # It grows on the way.
            for task in _listed(Path(f"/proc/{pid}/task")):
                with suppress(OSError):
                    found += map(int, (task / "children").read_text().split())
        return found

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
        family: list[psutil.Process] = []
        if self._process.poll() is None:
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                family = [psutil.Process(pid) for pid in self.pids]
                os.kill(self.pid, signal.SIGKILL)
        try:
            self._process.wait(20)  # strace ends when what it traces has ended.
            for member in family[1:]:  # One may have been made at this moment.
                with suppress(psutil.NoSuchProcess):
                    family += member.children()
            left = psutil.wait_procs(family, 20)[1]
            if left:
                raise RoleError(f"these outlive the receiver: {left}")
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
        """How many threads all its processes have."""
        return sum(map(int, self._status("Threads")))

    def descriptors(self) -> int:
        """How many files and sockets they hold open, but for drafts that stand ready."""
        return sum(
            "/incoming/receive/" not in _target(link)
            for pid in self.pids
            for link in _listed(Path(f"/proc/{pid}/fd"))
        )

    def memory_kib(self) -> int:
        """Resident memory of them all; what they share is counted for each."""
        return sum(int(value.split()[0]) for value in self._status("VmRSS"))

    def peak_kib(self) -> int:
        """Greatest resident memory of each since `forget_peak`, in all."""
        return sum(int(value.split()[0]) for value in self._status("VmHWM"))

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _status(self, key: str) -> Iterator[str]:
        for pid in self.pids:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            yield next(line.split(":", 1)[1].strip() for line in lines if line.startswith(key))


def _listed(folder: Path) -> list[Path]:
    """What is in a folder of /proc, nothing where the process has ended."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # It was closed meanwhile.
        return ""
