"""Peers that mean harm, slow ones and bombs; and honest ones that come all at once.

The receive role is a process of its own, so that its threads and its memory are nobody else's.
"""

import os
import select
import socket
import ssl
import statistics
import struct
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from tests.anomaly.evidence import broken_promises
from tests.anomaly.mutations import DEFLATED, ECHO, IMPLICIT
from tests.anomaly.role import Role
from tests.anomaly.sender import Factory, Ledger, send_all
from tests.dicom_peer import (
    CT,
    EXPLICIT,
    VERIFICATION,
    RawPeer,
    associate_request,
    ct_slice,
    encoded,
    item,
    p_data,
)
from tests.tools import require_tool, wait_until

SOCKETS = 500
AGAIN_S = 2.0  # A slow peer says one byte more, or comes back where it was turned away.
SLOW_S = float(os.environ.get("HOSTILE_S", "5"))  # Longer at night.
ECHO_S_MAX, THREADS_MAX, BACK_S = 1.0, 200, 15.0
HONEST, HONEST_S_MAX = 50, 5.0
BOMB_S_MAX, BOMB_KIB_MAX = 1.0, 64 * 1024


@pytest.fixture
def role(tmp_path: Path) -> Iterator[Role]:
    with Role(tmp_path / "data").start() as role:
        yield role


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that is its own CA, for both sides."""
    folder = tmp_path_factory.mktemp("pem")
    openssl = require_tool("/usr/bin/openssl")
    how = "req -x509 -newkey rsa:2048 -nodes -subj /CN=node -days 2 -keyout key.pem -out cert.pem"
    subprocess.run([openssl, *how.split(" ")], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def tls_role(tmp_path: Path, pem: Path) -> Iterator[Role]:
    files = {"CERTIFICATE": "cert.pem", "KEY": "key.pem", "CA": "cert.pem"}
    settings = {f"OSTEON_SCP__TLS__{key}": str(pem / file) for key, file in files.items()}
    with Role(tmp_path / "data", settings=settings).start() as role:
        yield role


def echo(port: int, tls: ssl.SSLContext | None = None) -> float:
    """Connect, C-ECHO, release; how long it took, in s."""
    started = time.monotonic()
    with RawPeer(port, [(VERIFICATION, IMPLICIT)], tls=tls) as peer:
        peer.sock.sendall(p_data(1, 3, ECHO))
        assert peer.status()[0] == 0x0000
        peer.release()
    return time.monotonic() - started


# --- slow peers -----------------------------------------------------------------------------------


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


class Stalls(threading.Thread):
    """How late this machine wakes who sleeps or syncs: what is not the receiver's fault."""

    SWITCHES = 4  # Of processes, in the course of one echo and of its row in the log.

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._worst_s = 0.0

    def run(self) -> None:
        with tempfile.TemporaryFile() as file:
            while not self._over.is_set():
                began = time.monotonic()
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
                time.sleep(0.01)
                self._worst_s = max(self._worst_s, time.monotonic() - began - 0.01)

    def allowance_s(self) -> float:
        """Stop, and return how long an echo may have been held up."""
        self._over.set()
        self.join()
        return self.SWITCHES * self._worst_s


REQUEST = associate_request([(VERIFICATION, IMPLICIT)], "SLOW", "OSTEON")


@pytest.mark.parametrize(
    ("kind", "first", "rest"),
    [
        ("role", b"", b""),
        ("role", b"\x01\x00\x00", b""),
        ("role", b"", REQUEST),
        ("tls_role", b"", b""),
    ],
    ids=["silent", "three bytes", "one byte in 2 s", "silent where TLS is spoken"],
)
def test_slow_peers_slow_nobody_down(
    kind: str, first: bytes, rest: bytes, request: pytest.FixtureRequest
) -> None:
    tls = None
    if kind == "tls_role":
        folder = request.getfixturevalue("pem")
        tls = ssl.create_default_context(cafile=folder / "cert.pem")
        tls.check_hostname = False
        tls.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    role: Role = request.getfixturevalue(kind)
    echo(role.port, tls)
    wait_until(lambda: role.threads() <= 4, BACK_S)
    threads, descriptors = role.threads(), role.descriptors()
    slow, stalls = SlowPeers(role.port, first, rest), Stalls()
    slow.start()
    stalls.start()
    try:
        took_s, most = [], 0
        until = time.monotonic() + SLOW_S
        while time.monotonic() < until or not slow.are_there.is_set():
            took_s.append(echo(role.port, tls))
            most = max(most, role.threads())
            time.sleep(0.01)
        slow.stop()

        assert len(took_s) > 20
        allowed_s = ECHO_S_MAX + stalls.allowance_s()
        assert statistics.quantiles(took_s, n=100)[98] < allowed_s
        assert most < THREADS_MAX
        wait_until(lambda: role.threads() <= threads, BACK_S)
        wait_until(lambda: role.descriptors() <= descriptors, BACK_S)
    finally:
        slow.close()


# --- honest peers ---------------------------------------------------------------------------------


def test_honest_peers_are_served_all_at_once(role: Role) -> None:
    factory = Factory("1.2.826.0.6")
    senders = send_all(role.port, [factory.series(4, rows=128) for _ in range(HONEST)])
    ledger = Ledger()
    ledger.add(senders)

    assert ledger.statuses == {0x0000: 4 * HONEST}
    assert not ledger.rejections
    took_s = [took for sender in senders for took in sender.took_s]
    assert statistics.quantiles(took_s, n=100)[98] < HONEST_S_MAX
    assert broken_promises(role.data_dir, ledger.acknowledged) == []


# --- bombs ----------------------------------------------------------------------------------------


def _until_answered(sock: socket.socket) -> None:
    """Wait for an A-ABORT, an A-ASSOCIATE-RJ or the end of the connection."""
    with suppress(ConnectionError):
        assert sock.recv(10)[:1] in {b"", b"\x03", b"\x07"}


def pdu_of_4_gib(port: int) -> None:
    with RawPeer(port) as peer, suppress(ConnectionError):
        peer.sock.sendall(struct.pack(">BxI", 4, 0xFFFFFFF0) + bytes(4 << 20))
        _until_answered(peer.sock)


def associate_request_of_8_mb(port: int) -> None:
    contexts = b"".join(
        item(0x20, struct.pack(">BBBB", 2 * n % 256 + 1, 0, 0, 0)
             + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode()) * 46)
        for n in range(7400))  # fmt: skip
    body = REQUEST[6:74] + item(0x10, b"1.2.840.10008.3.1.1.1") + contexts
    assert len(body) > 8_000_000
    with socket.create_connection(("127.0.0.1", port), 10) as sock, suppress(ConnectionError):
        sock.sendall(struct.pack(">BxI", 1, len(body)) + body)
        _until_answered(sock)


@cache
def half_a_gib_deflated() -> bytes:
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return b"".join(deflate.compress(bytes(1 << 20)) for _ in range(512)) + deflate.flush()


def inflates_a_thousandfold(port: int) -> None:
    bomb = half_a_gib_deflated()
    with RawPeer(port, [(CT, DEFLATED)]) as peer:
        started = time.monotonic()
        assert peer.store(bomb, "1.2.3")[0] == 0xC000
        assert time.monotonic() - started < BOMB_S_MAX


def nested_sequences(port: int, syntax: str = EXPLICIT) -> None:
    """Language Code Sequence (0008,0006) stands before everything that is looked for."""
    vr = b"SQ\0\0" if syntax == EXPLICIT else b""
    begin = b"\x08\0\x06\0" + vr + b"\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    with RawPeer(port, [(CT, syntax)]) as peer:
        status, _ = peer.store(begin * 5000 + end * 5000 + encoded(ct_slice()), "1.2.3")
        assert status in {0xA900, 0xC000}


def nested_sequences_of_implicit_vr(port: int) -> None:
    nested_sequences(port, IMPLICIT)


def elements_without_number(port: int) -> None:
    with RawPeer(port) as peer:
        status, _ = peer.store(b"\x08\0\x05\0CS\0\0" * 500_000 + encoded(ct_slice()), "1.2.3")
        assert status in {0xA900, 0xC000}


def command_without_end(port: int) -> None:
    with RawPeer(port) as peer, suppress(ConnectionError):
        for _ in range(200):
            peer.sock.sendall(p_data(1, 1, bytes(16_000)))
        _until_answered(peer.sock)


@pytest.fixture(scope="module")
def bombed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    with Role(tmp_path_factory.mktemp("bombed") / "data").start() as role:
        send_all(role.port, [Factory("1.2.826.0.8").series(20)])
        yield role


@pytest.mark.parametrize(
    "throw",
    [
        pdu_of_4_gib,
        associate_request_of_8_mb,
        inflates_a_thousandfold,
        nested_sequences,
        nested_sequences_of_implicit_vr,
        elements_without_number,
        command_without_end,
    ],
)
def test_a_bomb_costs_little(bombed: Role, throw: Callable[[int], None]) -> None:
    half_a_gib_deflated()  # To make it takes a second.
    before_kib = bombed.memory_kib()
    bombed.forget_peak()
    started = time.monotonic()
    throw(bombed.port)
    took_s = time.monotonic() - started

    assert bombed.peak_kib() - before_kib < BOMB_KIB_MAX
    assert took_s < BOMB_S_MAX
    assert echo(bombed.port) < ECHO_S_MAX
