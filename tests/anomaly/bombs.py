"""Bombs: little to send and much to take, if the receiver were careless.

A port enters, and the peer is answered or cut off; `cost` says what a role paid for it.
"""

import socket
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from tests.anomaly.mutations import DEFLATED, IMPLICIT
from tests.anomaly.pressure import REQUEST
from tests.anomaly.role import Role
from tests.dicom_peer import CT, EXPLICIT, RawPeer, ct_slice, encoded, item, p_data

BOMB_S_MAX, BOMB_KIB_MAX = 1.0, 64 * 1024


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


BOMBS = (
    pdu_of_4_gib,
    associate_request_of_8_mb,
    inflates_a_thousandfold,
    nested_sequences,
    nested_sequences_of_implicit_vr,
    elements_without_number,
    command_without_end,
)


def cost(role: Role, throw: Callable[[int], None]) -> tuple[float, int]:
    """Throw a bomb; how long it took, in s, and by how much memory the role grew, in KiB."""
    half_a_gib_deflated()  # To make it takes a second.
    before_kib = role.memory_kib()
    role.forget_peak()
    started = time.monotonic()
    throw(role.port)
    return time.monotonic() - started, role.peak_kib() - before_kib
