"""The receivers that are measured, each started with an empty store and surely ended.

A name and a folder enter, a running receiver with its port leaves. ``receive.py`` starts them.
"""

import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import raw_scu

from osteon.config.settings import ScpSettings

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
FREE_BYTES_MIN = 20 * 10**9
START_S, STOP_S, POLL_S = 30.0, 10.0, 0.02
STORESCP, ORTHANC = "/usr/bin/storescp", "/usr/sbin/Orthanc"
OPENSSL = "/usr/bin/openssl"
HAS_FAST = "fast" in ScpSettings.model_fields
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Receiver(ABC):
    """One receiver: its processes, its store and where it listens.

    Attributes
    ----------
    words : str
        What it is called in tables.
    synced : str
        What is on the disk, and not only in memory, when it answers.
    program : str
        The program that must be installed.
    is_plain : bool
        Whether all is measured; else it speaks TLS, and only the rates of CT slices are.
    tls : ssl.SSLContext or None
        What a sender must use.
    """

    words: ClassVar[str]
    program: ClassVar[str] = sys.executable
    synced: ClassVar[str]
    ae_title: ClassVar[str] = "ANY"
    environment: ClassVar[Mapping[str, str]] = {}
    is_plain: ClassVar[bool] = True
    tls: ssl.SSLContext | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True)

    @abstractmethod
    def start(self) -> None:
        """Start its processes."""

    @abstractmethod
    def held(self) -> int:
        """How many instances its store holds."""

    def port(self, associations: int) -> int:  # noqa: ARG002 - one port for all, but for DCMTK
        """Where it listens for so many associations."""
        return self._port

    def cpu_s(self) -> float:
        """CPU time that its processes and their children have spent, in s."""
        return sum(_tree_cpu_s(process.pid) for process in self.processes)

    def run_s(self) -> float:
        """The same in ns resolution, of threads that live; for receivers that do little."""
        return sum(_threads_run_s(process.pid) for process in self.processes)

    def wait(self) -> None:
        """Wait until it answers a C-ECHO."""
        deadline = time.monotonic() + START_S
        for associations in (1, 4):
            while not self._answers(associations):
                if time.monotonic() > deadline or any(p.poll() is not None for p in self.processes):
                    raise OSError(f"{self.words} does not start: {self._last_words()}")
                time.sleep(POLL_S)

    def stop(self) -> None:
        """Kill its processes and their children: nothing that they hold is needed any more."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)

    def _run(self, *command: object) -> None:
        # Where this process dies, so do they; `setpriv` belongs to util-linux.
        setpriv = shutil.which("setpriv")
        guard = (setpriv, "--pdeathsig", "KILL") if setpriv else ()
        environment = {k: v for k, v in os.environ.items() if k != "TCP_NODELAY"}
        with (self.folder / "log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [*guard, *map(str, command)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    env=environment | self.environment,
                    start_new_session=True,
                )
            )

    def _answers(self, associations: int) -> bool:
        try:
            address = (HOST, self.port(associations))
            with raw_scu.associated(address, self.ae_title, raw_scu.ECHO, tls=self.tls) as opened:
                return bool(raw_scu.echo(opened[0], 1, 1.0))
        except OSError:
            return False

    def _last_words(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-500:]


class Osteon(Receiver):
    words = "Osteon"
    synced = "file, name"
    ae_title = "OSTEON"
    settings: ClassVar[str] = "fast = true\n" if HAS_FAST else ""

    def start(self) -> None:
        self._port = free_port()
        config = self.folder / "osteon.toml"
        config.write_text(
            f'data_dir = "{self.folder / "data"}"\n[scp]\nhost = "{HOST}"\nport = {self._port}\n'
            f"{self.settings}[pipeline]\ndisk_reserve_gb = 0.1\n"
        )
        command = (sys.executable, "-m", "osteon.cli.main", "serve", "--role", "receive")
        self._run(*command, "--config", config)

    def held(self) -> int:
        with closing(sqlite3.connect(self.folder / "data" / "osteon.sqlite")) as table:
            (rows,) = table.execute("SELECT count(*) FROM instance").fetchone()
        return int(rows)


class OsteonStock(Osteon):
    words = "Osteon, pynetdicom's path"
    settings = "fast = false\n" if HAS_FAST else ""


class OsteonTls(Osteon):
    """With mutual TLS, of one version alone."""

    is_plain = False
    program = OPENSSL
    version: ClassVar[ssl.TLSVersion]

    def start(self) -> None:
        folder = self.folder / "pem"
        _make_certificates(folder)
        self.settings = f"{Osteon.settings}[scp.tls]\n" + "".join(
            f'{key} = "{folder / file}"\n'
            for key, file in (("certificate", "node.pem"), ("key", "node.key"), ("ca", "ca.pem"))
        )
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.check_hostname = False
        self.tls.minimum_version = self.tls.maximum_version = self.version
        self.tls.load_verify_locations(folder / "ca.pem")
        self.tls.load_cert_chain(folder / "peer.pem", folder / "peer.key")
        super().start()


class OsteonTls12(OsteonTls):
    words = "Osteon, TLS 1.2"
    version = ssl.TLSVersion.TLSv1_2


class OsteonTls13(OsteonTls):
    words = "Osteon, TLS 1.3"
    version = ssl.TLSVersion.TLSv1_3


class Nothing(Receiver):
    words = "keeps nothing"
    synced = "nothing is kept"
    ae_title = "OSTEON"

    def start(self) -> None:
        self._port = free_port()
        self._counts = self.folder / "counts"
        self._counts.touch()
        self._run(sys.executable, HERE / "null_scp.py", self._port, self._counts)

    def held(self) -> int:
        return sum(map(int, self._counts.read_text().split()))


class Pynetdicom(Receiver):
    words = "pynetdicom"
    synced = "nothing"
    options: ClassVar[Sequence[str]] = ()

    def start(self) -> None:
        self._port = free_port()
        self._store = self.folder / "store"
        self._store.mkdir()
        script = HERE / "pynetdicom_scp.py"
        self._run(sys.executable, script, self._port, self._store, *self.options)

    def held(self) -> int:
        return _files(self._store)


class PynetdicomSync(Pynetdicom):
    words = "pynetdicom + fdatasync"
    synced = "file"
    options = ("--sync",)


class Dcmtk(Receiver):
    """DCMTK's storescp: one process for one association, a process for each of several."""

    words = "DCMTK storescp"
    synced = "nothing"
    program = STORESCP

    def start(self) -> None:
        self._store = self.folder / "store"
        self._store.mkdir()
        self._ports = (free_port(), free_port())
        self._run(STORESCP, "-od", self._store, self._ports[0])
        self._run(STORESCP, "--fork", "-od", self._store, self._ports[1])

    def port(self, associations: int) -> int:
        return self._ports[associations > 1]

    def held(self) -> int:
        return _files(self._store)


class DcmtkNodelay(Dcmtk):
    words = "DCMTK storescp, TCP_NODELAY=1"
    environment: ClassVar[Mapping[str, str]] = {"TCP_NODELAY": "1"}


class Orthanc(Receiver):
    words = "Orthanc"
    synced = "file"
    program = ORTHANC

    def start(self) -> None:
        self._port, self._http_port = free_port(), free_port()
        config = self.folder / "orthanc.json"
        values = {
            "StorageDirectory": str(self.folder / "store"),
            "IndexDirectory": str(self.folder / "store"),
            "HttpPort": self._http_port,
            "DicomPort": self._port,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
        }
        config.write_text(json.dumps(values))
        self._run(ORTHANC, config)

    def held(self) -> int:
        url = f"http://{HOST}:{self._http_port}/statistics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(json.load(answer)["CountInstances"])


class OrthancNodelay(Orthanc):
    words = "Orthanc, TCP_NODELAY=1"
    environment: ClassVar[Mapping[str, str]] = {"TCP_NODELAY": "1"}


RECEIVERS: dict[str, type[Receiver]] = {
    "osteon": Osteon,
    **({"osteon-stock": OsteonStock} if HAS_FAST else {}),
    "osteon-tls12": OsteonTls12,
    "osteon-tls13": OsteonTls13,
    "nothing": Nothing,
    "pynetdicom-sync": PynetdicomSync,
    "pynetdicom": Pynetdicom,
    "dcmtk-nodelay": DcmtkNodelay,
    "dcmtk": Dcmtk,
    "orthanc-nodelay": OrthancNodelay,
    "orthanc": Orthanc,
}


@contextmanager
def running(name: str, folder: Path) -> Iterator[Receiver]:
    """Run a receiver with an empty store, which stands aside afterwards.

    It is not removed, as long as there is space: ext4 without a journal looks at every inode that
    was deleted in the last minutes when it makes a file, and so whoever comes next would pay.
    """
    receiver = RECEIVERS[name](folder)
    try:
        receiver.start()
        receiver.wait()
        yield receiver
    finally:
        receiver.stop()
        if shutil.disk_usage(folder).free > FREE_BYTES_MIN:
            folder.rename(f"{folder}-{time.monotonic_ns()}")
        else:
            shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def _make_certificates(folder: Path) -> None:
    """Make a CA, and certificates of a node and a peer that it has signed."""
    folder.mkdir()

    def openssl(words: str) -> None:
        subprocess.run([OPENSSL, *words.split()], cwd=folder, check=True, capture_output=True)

    openssl("req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -days 2 -keyout ca.key -out ca.pem")
    for name in ("node", "peer"):
        openssl(f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        openssl(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 2 -out {name}.pem")


def _files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def _tree_cpu_s(root: int) -> float:
    """CPU time of a process, its living children and those that it has waited for, in s."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _read(path).rpartition(")")[2].split()
        if fields:
            stats[int(path.parent.name)] = [int(fields[1]), *map(int, fields[11:15])]

    def is_below(pid: int) -> bool:
        while pid != root and pid in stats:
            pid = stats[pid][0]
        return pid == root

    total = 0.0
    for pid in filter(is_below, stats):
        _, utime, stime, cutime, cstime = stats[pid]  # In ticks, proc(5).
        # Ticks are rounded down, which would favour receivers with many short processes.
        own = max((utime + stime) / TICKS_PER_S, _threads_run_s(pid))
        total += own + (cutime + cstime) / TICKS_PER_S
    return total


def _threads_run_s(pid: int) -> float:
    """CPU time of the threads of a process that live, in s."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int((_read(path).split() or ["0"])[0]) for path in stats) / 1e9


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
