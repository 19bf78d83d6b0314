"""Peers that are slow, silent, wrong or hostile: what they do, the others do not notice."""

import random
import resource
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from structlog.testing import capture_logs

from osteon.scp import direct, transport
from osteon.scp.listener import PENDING_MAX, REQUEST_BYTES_MAX
from tests.anomaly.evidence import left_behind
from tests.anomaly.mutations import ECHO
from tests.dicom_peer import (
    CT,
    EXPLICIT,
    VERIFICATION,
    Node,
    RawPeer,
    associate_request,
    ct_slice,
    encoded,
    every_way,  # noqa: F401 - runs the module three times
    item,
    loopback_settings,
    p_data,
    running_node,
)
from tests.tools import wait_until

ACSE_TIMEOUT_S = 0.6


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(loopback_settings(tmp_path, acse_timeout_s=ACSE_TIMEOUT_S)) as node:
        yield node


def connect(node: Node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port), timeout=5)


def assert_serves(node: Node, within_s: float = 1.0) -> None:
    """A well-behaved peer is served, and soon."""
    started = time.monotonic()
    with RawPeer(node.port) as peer:
        assert peer.send_ct(ct_slice()) == (0x0000, "")
        peer.release()
    assert time.monotonic() - started < within_s


def is_closed(sock: socket.socket, timeout_s: float) -> bool:
    sock.settimeout(timeout_s)
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


# --- before the association -----------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"\x01\x00\x00"], ids=["nothing", "three bytes"])
def test_hundreds_of_silent_connections_shut_nobody_out(tmp_path: Path, said: bytes) -> None:
    with running_node(loopback_settings(tmp_path, acse_timeout_s=60)) as node:
        threads = threading.active_count()
        silent = [connect(node) for _ in range(2 * PENDING_MAX)]
        for sock in silent:
            with suppress(ConnectionError):  # An older one has given way already.
                sock.sendall(said)

        assert_serves(node)
        assert all(is_closed(sock, 5) for sock in silent[: PENDING_MAX - 2])
        assert not is_closed(silent[-1], 0.01)
        wait_until(lambda: threading.active_count() - threads <= PENDING_MAX + 1, timeout_s=5)
        for sock in silent:
            sock.close()
        wait_until(lambda: threading.active_count() <= threads, timeout_s=5)


def test_a_silent_connection_is_given_up(node: Node) -> None:
    with connect(node) as sock:
        started = time.monotonic()
        assert is_closed(sock, 5)
    assert ACSE_TIMEOUT_S / 2 < time.monotonic() - started < 3 * ACSE_TIMEOUT_S


def test_a_trickling_request_is_given_up(node: Node) -> None:
    request = associate_request([(CT, EXPLICIT)], "RAW", "OSTEON")
    started = time.monotonic()
    with connect(node) as sock:
        with suppress(ConnectionError):
            for byte in request * 10:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)
        assert is_closed(sock, 1)
    assert time.monotonic() - started < 3 * ACSE_TIMEOUT_S


@pytest.mark.parametrize(
    "first",
    [
        struct.pack(">BxI", 1, 8 << 20) + bytes(1000),
        struct.pack(">BxI", 1, 0xFFFFFFFF),
        struct.pack(">BxI", 1, REQUEST_BYTES_MAX + 1),
        struct.pack(">BxI", 4, 100) + bytes(100),
        b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    ],
    ids=["8 MiB", "4 GiB", "just over", "P-DATA", "HTTP", "TLS"],
)
def test_what_is_no_association_request_is_hung_up_on(node: Node, first: bytes) -> None:
    started = time.monotonic()
    with connect(node) as sock:
        sock.sendall(first)
        assert is_closed(sock, 5)
    assert time.monotonic() - started < ACSE_TIMEOUT_S
    assert_serves(node)


def _context(context_id: int, *items: bytes) -> bytes:
    return item(0x20, struct.pack(">BBBB", context_id, 0, 0, 0) + b"".join(items))


def _request(*contexts: bytes, calling: bytes = b"RAW", called: bytes = b"OSTEON") -> bytes:
    body = struct.pack(">HH", 1, 0) + called.ljust(16) + calling.ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + b"".join(contexts)
    body += item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
    return struct.pack(">BxI", 1, len(body)) + body


_ABSTRACT, _TRANSFER = item(0x30, CT.encode()), item(0x40, EXPLICIT.encode())


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    "request_pdu",
    [
        struct.pack(">BxI", 1, 0),
        _request(_context(1, _ABSTRACT)),
        _request(_context(2, _ABSTRACT, _TRANSFER)),
        _request(_context(1, item(0x30, b"\xff\xfe"), _TRANSFER)),
        _request(_context(1, item(0x30, b"1." + b"2" * 300), _TRANSFER)),
        _request(_context(1, item(0x30, b"../../tmp/x"), item(0x40, b"../x"))),
        _request(struct.pack(">BBH", 0x20, 0, 60000) + b"abc"),
        _request(calling=b"A\\B"),
        _request(calling=b"\xff\xff"),
        _request(called=b" "),
        _request(*[_context(1, _ABSTRACT, _TRANSFER)] * 2000),
        _request(_context(1, _ABSTRACT, *[item(0x40, b"1.2")] * 9000)),
    ],
)
def test_a_malformed_request_ends_its_own_connection(node: Node, request_pdu: bytes) -> None:
    with connect(node) as sock:
        sock.sendall(request_pdu)
        assert sock.recv(10)[:1] in {b"", b"\x02", b"\x03", b"\x07"}  # Closed, AC, RJ or ABORT.
        sock.shutdown(socket.SHUT_WR)
        assert is_closed(sock, 3 * ACSE_TIMEOUT_S)
    assert_serves(node)
    wait_until(lambda: not _open(node), timeout_s=3 * ACSE_TIMEOUT_S)


def _open(node: Node) -> int:
    return len(node.table.rows("SELECT 1 FROM association WHERE closed IS NULL"))


# --- in the association ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pdu",
    [
        struct.pack(">BxI", 4, 0xFFFFFFF0),
        struct.pack(">BxI", 4, (1 << 20) + 1),
        struct.pack(">BxI", 2, 4) + b"abcd",
        struct.pack(">BxI", 9, 4) + b"abcd",
        struct.pack(">BxI", 4, 10) + struct.pack(">IBB", 100, 1, 3) + b"abcd",
        p_data(1, 3, b"no command set at all"),
        p_data(1, 3, bytes(200)),
        p_data(77, 3, b""),
    ],
    ids=["4 GiB", "1 MiB", "A-ASSOCIATE-AC", "type 9", "PDV", "command", "zeros", "empty"],
)
def test_a_malformed_pdu_ends_its_own_association(node: Node, pdu: bytes) -> None:
    with RawPeer(node.port) as good, RawPeer(node.port) as bad:
        bad.sock.sendall(pdu)

        assert bad.is_closed_by_peer(3)
        assert good.send_ct(ct_slice()) == (0x0000, "")
    assert_serves(node)


def test_a_peer_that_vanishes_in_mid_instance_leaves_nothing(node: Node) -> None:
    with RawPeer(node.port) as peer:
        for pdu in peer.store_pdus(bytes(200_000), "1.2.3")[:-1]:
            peer.sock.sendall(pdu)
    wait_until(lambda: not _open(node))

    assert node.files() == []
    assert left_behind(node.settings.data_dir) == []
    assert_serves(node)


def test_a_peer_that_stalls_in_mid_instance_holds_up_nobody(node: Node) -> None:
    with RawPeer(node.port) as stalled:
        stalled.sock.sendall(stalled.store_pdus(bytes(200_000), "1.2.3")[1][:5000])
        for _ in range(3):
            assert_serves(node)


def test_a_peer_that_reads_no_answers_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bound_waits(sock: socket.socket, receive_s: float, send_s: float) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport.bound_waits(sock, receive_s, 0.3)

    monkeypatch.setattr(direct, "bound_waits", bound_waits)
    # Answers to C-ECHO wait for no disk, so a busy machine changes nothing; all of the requests fit
    # into the buffers of the connection, and their answers do not.
    echoes = p_data(1, 3, ECHO) * 3000
    with (
        running_node(loopback_settings(tmp_path)) as node,
        RawPeer(node.port, [(VERIFICATION, EXPLICIT)], receive_bytes=2048) as peer,
    ):
        with suppress(ConnectionError):
            peer.sock.sendall(echoes)
        wait_until(lambda: not _open(node))
        assert peer.is_closed_by_peer(30)
        assert_serves(node)


def test_a_data_set_that_inflates_without_end_is_not_inflated(node: Node) -> None:
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(512)) + deflate.flush()
    memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()

    with RawPeer(node.port, [(CT, DeflatedExplicitVRLittleEndian)]) as peer:
        status, _ = peer.store(bomb, "1.2.3")

    assert len(bomb) < 600_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib < 512 * 1024
    assert status == 0xC000
    assert time.monotonic() - started < 10
    assert_serves(node)


@pytest.mark.parametrize("syntaxes", [("", EXPLICIT), (CT, "")], ids=["abstract", "transfer"])
def test_a_context_without_a_syntax_is_rejected(
    node: Node, syntaxes: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", node.port), 10) as sock:
        sock.sendall(associate_request([syntaxes], "RAW", "OSTEON"))
        assert sock.recv(100)[:1] in {b"\x03", b"\x07"}
    assert_serves(node)
    assert "Error" not in caplog.text  # As an exception that nobody foresaw is told.


def test_an_unforeseen_fault_lets_nobody_in(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("osteon.scp.acceptor.check_titles", fault)
    with RawPeer(node.port, [(VERIFICATION, EXPLICIT), (CT, EXPLICIT)]) as peer:
        assert b"\x21\0\0\x1b\x03\0\x03\0" in peer.accepted  # Context 3: result 3, not supported.
        peer.sock.sendall(b"".join(peer.store_pdus(encoded(ct_slice()), "1.2.3", context_id=3)))
        assert peer.is_closed_by_peer(5)

    assert node.files() == []
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("seed", range(4))
def test_mutations_of_real_streams_stop_nobody(node: Node, shared_data: Path, seed: int) -> None:
    """Client streams of C-ECHO, C-FIND, C-GET and C-STORE, with bytes changed and ends cut off."""
    streams = sorted((shared_data / "profuzzbench").glob("*.raw"))
    chance = random.Random(seed)
    with capture_logs():
        for _ in range(15):
            stream = bytearray(chance.choice(streams).read_bytes()[:20_000])
            stream[10:26] = b"OSTEON".ljust(16)
            for _ in range(chance.randrange(6)):
                stream[chance.randrange(74, len(stream))] = chance.randrange(256)
            with connect(node) as sock:
                with suppress(OSError):
                    sock.sendall(stream[: chance.randrange(80, len(stream))])
                    sock.shutdown(socket.SHUT_WR)
                assert is_closed(sock, 5)
    assert_serves(node)


@pytest.mark.parametrize("left", [1, 5])
def test_bytes_behind_the_last_fragment_of_a_pdu_are_malformed(node: Node, left: int) -> None:
    whole = p_data(1, 1, b"abc")
    longer = struct.pack(">BxI", 4, len(whole) - 6 + left)
    with RawPeer(node.port) as peer:
        peer.sock.sendall(longer + whole[6:] + bytes(left))
        assert peer.sock.recv(1) == b"\x07"  # A-ABORT
    (row,) = wait_until(lambda: node.table.rows("SELECT outcome FROM association WHERE closed > 0"))
    assert "invalid PDU" in row["outcome"]
