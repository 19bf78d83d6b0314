"""Peers that say as little as they can, and honest ones that come all at once, with what they cost.

A role enters, figures leave; the tests compare them and the benchmark prints them.
"""

import select
import socket
import ssl
import statistics
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.anomaly.evidence import broken_promises
from tests.anomaly.mutations import ECHO, IMPLICIT
from tests.anomaly.role import Role
from tests.anomaly.sender import Factory, Ledger, send_all
from tests.dicom_peer import VERIFICATION, RawPeer, associate_request, p_data
from tests.tools import require_tool, wait_until

SOCKETS = 500
AGAIN_S = 2.0  # A slow peer says one byte more, or comes back where it was turned away.
ECHO_S_MAX, THREADS_MAX, BACK_S = 1.0, 200, 15.0
HONEST, HONEST_S_MAX = 50, 5.0
HONEST_INSTANCES = 4
IDLE_THREADS = 3  # Besides the first of each process.


def echo(port: int, tls: ssl.SSLContext | None = None) -> float:
    """Connect, C-ECHO, release; how long it took, in s."""
    started = time.monotonic()
    with RawPeer(port, [(VERIFICATION, IMPLICIT)], tls=tls) as peer:
        peer.sock.sendall(p_data(1, 3, ECHO))
        assert peer.status()[0] == 0x0000
        peer.release()
    return time.monotonic() - started


class SlowPeers(threading.Thread):
    """Holds connections open, and says as little as it can."""

    def __init__(self, port: int, first: bytes, rest: bytes) -> None:
        super().__init__(daemon=True)
        self._address, self._first, self._rest = ("127.0.0.1", port), first, rest
        self._open: dict[socket.socket, int] = {}
        self._stopping = threading.Event()
        self.are_there = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            for sock, said in list(self._open.items()):
                self._go_on(sock, said)
            while len(self._open) < SOCKETS and not self._stopping.is_set():
                with suppress(OSError):
                    sock = socket.create_connection(self._address, 5)
                    self._open[sock] = 0
                    sock.sendall(self._first)
            self.are_there.set()
            self._stopping.wait(AGAIN_S)

    def _go_on(self, sock: socket.socket, said: int) -> None:
        """Say the next byte, unless the other side has ended it."""
        try:
            if select.select([sock], [], [], 0)[0] and not sock.recv(4096):
                raise ConnectionError("closed")
            sock.sendall(self._rest[said : said + 1])
            self._open[sock] = said + 1
        except OSError:
            del self._open[sock]
            sock.close()

    def stop(self) -> None:
        """Say no more; the connections stay open on this side."""
        self._stopping.set()
        self.join(30)

    def close(self) -> None:
        for sock in self._open:
            sock.close()


REQUEST = associate_request([(VERIFICATION, IMPLICIT)], "SLOW", "OSTEON")
SLOW = {  # What each of them says at first, and then byte by byte.
    "silent": (b"", b""),
    "three bytes": (b"\x01\x00\x00", b""),
    "one byte in 2 s": (b"", REQUEST),
}
SILENT_TLS = "silent where TLS is spoken"


@dataclass(frozen=True)
class Slowed:
    """What slow peers did to the others.

    Attributes
    ----------
    echo_s : list of float
        How long each connection with a C-ECHO took meanwhile.
    threads : int
        The most that the role had.
    back_s : float
        How long after they said no more it had no more threads and descriptors than before.
    """

    echo_s: list[float]
    threads: int
    back_s: float

    @property
    def echo_p99_s(self) -> float:
        """The 99th percentile of `echo_s`."""
        return statistics.quantiles(self.echo_s, n=100)[98]


def slowed(
    role: Role, first: bytes, rest: bytes, *, seconds: float, tls: ssl.SSLContext | None = None
) -> Slowed:
    """Hold `SOCKETS` connections for so long and echo meanwhile.

    Raises
    ------
    pytest.fail.Exception
        The role was not back where it was after `BACK_S`.
    """
    echo(role.port, tls)
    wait_until(lambda: role.threads() - len(role.pids) <= IDLE_THREADS, BACK_S)
    threads, descriptors = role.threads(), role.descriptors()
    slow = SlowPeers(role.port, first, rest)
    slow.start()
    try:
        echo_s, most = [], 0
        until = time.monotonic() + seconds
        while time.monotonic() < until or not slow.are_there.is_set():
            echo_s.append(echo(role.port, tls))
            most = max(most, role.threads())
            time.sleep(0.01)
        slow.stop()
        stopped = time.monotonic()
        wait_until(lambda: role.threads() <= threads, BACK_S)
        wait_until(lambda: role.descriptors() <= descriptors, BACK_S)
        return Slowed(echo_s, most, time.monotonic() - stopped)
    finally:
        slow.close()


def tls_of(folder: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    """Make a certificate that is its own CA; the settings of a role and a sender's context."""
    openssl = require_tool("/usr/bin/openssl")
    how = "req -x509 -newkey rsa:2048 -nodes -subj /CN=node -days 2 -keyout key.pem -out cert.pem"
    subprocess.run([openssl, *how.split(" ")], cwd=folder, check=True, capture_output=True)
    files = {"CERTIFICATE": "cert.pem", "KEY": "key.pem", "CA": "cert.pem"}
    tls = ssl.create_default_context(cafile=folder / "cert.pem")
    tls.check_hostname = False
    tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return {f"OSTEON_SCP__TLS__{key}": str(folder / file) for key, file in files.items()}, tls


@dataclass(frozen=True)
class Served:
    """What honest peers that came all at once were told."""

    ledger: Ledger
    answer_s: list[float]
    broken: list[str]

    @property
    def p99_s(self) -> float:
        """The 99th percentile of `answer_s`."""
        return statistics.quantiles(self.answer_s, n=100)[98]


def served(role: Role) -> Served:
    """Open `HONEST` associations at once, each with `HONEST_INSTANCES` instances."""
    factory, ledger = Factory("1.2.826.0.6"), Ledger()
    senders = send_all(
        role.port, [factory.series(HONEST_INSTANCES, rows=128) for _ in range(HONEST)]
    )
    ledger.add(senders)
    answer_s = [took for sender in senders for took in sender.took_s]
    return Served(ledger, answer_s, broken_promises(role.data_dir, ledger.acknowledged))
