"""However a message is cut into PDUs and fragments, it is one message; what is none ends it all."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom.uid import ImplicitVRLittleEndian

from osteon.scp.command import COMMAND_BYTES_MAX
from osteon.scp.messages import SOP_CLASS_NOT_SUPPORTED, UNRECOGNIZED_OPERATION
from tests.anomaly.evidence import left_behind
from tests.dicom_peer import (
    CT,
    EXPLICIT,
    VERIFICATION,
    Node,
    RawPeer,
    ct_slice,
    encoded,
    loopback_settings,
    p_data,
    running_node,
    store_request,
)
from tests.tools import wait_until

CONTEXTS = [(CT, EXPLICIT), (VERIFICATION, str(ImplicitVRLittleEndian)), (CT, EXPLICIT)]
STORE, ECHO = 1, 3
C_ECHO_RQ, C_FIND_RQ, C_CANCEL_RQ, C_STORE_RSP = 0x0030, 0x0020, 0x0FFF, 0x8001


@pytest.fixture
def peer(node: Node) -> Iterator[RawPeer]:
    with RawPeer(node.port, CONTEXTS) as peer:
        yield peer


def pdu(*fragments: tuple[int, int, bytes]) -> bytes:
    """A P-DATA-TF PDU of several fragments: context, control header, bytes."""
    pdvs = b"".join(
        struct.pack(">IBB", len(f) + 2, cx, control) + f for cx, control, f in fragments
    )
    return struct.pack(">BxI", 4, len(pdvs)) + pdvs


def command(field: int, *, has_data: bool = False, sop_class: str = CT, number: int = 1) -> bytes:
    """A command set other than a C-STORE-RQ."""
    name = 0x0120 if field & 0x8000 or field == C_CANCEL_RQ else 0x0110
    values = {
        0x0002: sop_class.encode() + b"\0" * (len(sop_class) % 2),
        0x0100: struct.pack("<H", field),
        name: struct.pack("<H", number),
        0x0800: struct.pack("<H", 1 if has_data else 0x0101),
    }
    return b"".join(struct.pack("<HHI", 0, t, len(v)) + v for t, v in values.items())


def instance() -> tuple[bytes, bytes]:
    """Command set and data set of one instance."""
    ds = ct_slice(rows=64)
    return store_request(CT, str(ds.SOPInstanceUID)), encoded(ds)


def test_a_whole_message_in_one_pdu(node: Node, peer: RawPeer) -> None:
    rq, data = instance()
    peer.sock.sendall(pdu((STORE, 3, rq), (STORE, 2, data)))

    assert peer.status() == (0x0000, "")
    assert node.datasets() == [data]


def test_two_messages_in_one_pdu(node: Node, peer: RawPeer) -> None:
    (one, first), (two, second) = instance(), instance()
    fragments = ((STORE, 3, one), (STORE, 2, first), (5, 3, two), (5, 2, second))
    peer.sock.sendall(pdu(*fragments))

    assert [peer.status()[0] for _ in range(2)] == [0, 0]
    assert set(node.datasets()) == {first, second}


@pytest.mark.parametrize("step", [1, 3, 1021])
def test_fragments_of_any_size(node: Node, peer: RawPeer, step: int) -> None:
    rq, data = instance()
    stream = b"".join(p_data(STORE, 1, rq[at : at + step]) for at in range(0, len(rq), step))
    stream += p_data(STORE, 3, b"")
    stream += b"".join(p_data(STORE, 0, data[at : at + step]) for at in range(0, len(data), step))
    peer.sock.sendall(stream + p_data(STORE, 2, b""))

    assert peer.status() == (0x0000, "")
    assert node.datasets() == [data]


def test_fragments_of_no_size(node: Node, peer: RawPeer) -> None:
    rq, data = instance()
    fragments = [(STORE, 1, b"")] * 5 + [(STORE, 3, rq)] + [(STORE, 0, b"")] * 5
    peer.sock.sendall(pdu(*fragments) + pdu((STORE, 0, data), (STORE, 2, b"")))

    assert peer.status() == (0x0000, "")
    assert node.datasets() == [data]


def test_a_stream_that_is_cut_anywhere_by_the_network(node: Node, peer: RawPeer) -> None:
    chance = random.Random(1)
    sent = []
    for _ in range(5):
        rq, data = instance()
        sent.append(data)
        stream = pdu((STORE, 3, rq), (STORE, 0, data[:501])) + pdu((STORE, 2, data[501:]))
        while stream:
            length = chance.choice([1, 2, 5, 7, 100, 3000])
            peer.sock.sendall(stream[:length])
            stream = stream[length:]
        assert peer.status()[0] == 0
    assert set(node.datasets()) == set(sent)


def test_a_pdu_that_is_longer_than_negotiated_is_taken(node: Node, peer: RawPeer) -> None:
    """Some senders never read what was negotiated."""
    ds = ct_slice(rows=640)
    data = encoded(ds)
    assert len(data) > 800_000
    peer.sock.sendall(p_data(STORE, 3, store_request(CT, str(ds.SOPInstanceUID))))
    peer.sock.sendall(p_data(STORE, 2, data))

    assert peer.status() == (0x0000, "")
    assert node.datasets() == [data]


def test_message_ids_may_come_again(node: Node, peer: RawPeer) -> None:
    for _ in range(3):
        rq, data = instance()
        peer.sock.sendall(pdu((STORE, 3, rq), (STORE, 2, data)))
        assert peer.status()[0] == 0
    assert len(node.files()) == 3


def test_echoes_and_cancels_between_stores(node: Node, peer: RawPeer) -> None:
    for number in range(3):
        peer.sock.sendall(pdu((ECHO, 3, command(C_ECHO_RQ, sop_class=VERIFICATION))))
        assert peer.status()[0] == 0
        peer.sock.sendall(pdu((STORE, 3, command(C_CANCEL_RQ, number=number))))
        rq, data = instance()
        peer.sock.sendall(pdu((STORE, 3, rq), (STORE, 2, data)))
        assert peer.status()[0] == 0
    assert len(node.files()) == 3


def test_a_c_echo_is_answered_at_once(node: Node, peer: RawPeer) -> None:
    took = []
    for _ in range(50):
        started = time.perf_counter()
        peer.sock.sendall(pdu((ECHO, 3, command(C_ECHO_RQ, sop_class=VERIFICATION))))
        peer.status()
        took.append(time.perf_counter() - started)

    assert sorted(took)[5] < 0.0005


@pytest.mark.parametrize("has_data", [False, True])
@pytest.mark.parametrize(
    ("context", "field", "status"),
    [
        (STORE, C_FIND_RQ, UNRECOGNIZED_OPERATION),
        (STORE, 0x0130, UNRECOGNIZED_OPERATION),
        (STORE, 0x0100, UNRECOGNIZED_OPERATION),
        (ECHO, 1, SOP_CLASS_NOT_SUPPORTED),
        (STORE, C_ECHO_RQ, SOP_CLASS_NOT_SUPPORTED),
    ],
)
def test_what_the_context_is_not_for_is_answered_and_the_next_is_taken(
    node: Node, peer: RawPeer, context: int, field: int, status: int, has_data: bool
) -> None:
    peer.sock.sendall(pdu((context, 3, command(field, has_data=has_data))))
    if has_data:
        peer.sock.sendall(pdu((context, 0, b"x" * 1000), (context, 2, b"y")))

    assert peer.status()[0] == status
    assert peer.send_ct(ct_slice())[0] == 0


def test_a_response_that_nobody_asked_for_is_ignored(node: Node, peer: RawPeer) -> None:
    peer.sock.sendall(pdu((STORE, 3, command(C_STORE_RSP))))

    assert peer.send_ct(ct_slice())[0] == 0


def test_a_store_without_a_data_set_is_not_understood(node: Node, peer: RawPeer) -> None:
    peer.sock.sendall(pdu((STORE, 3, command(1))))

    assert peer.status()[0] == 0x0117  # Its command names no instance either.
    assert node.files() == []
    assert peer.send_ct(ct_slice())[0] == 0


RQ, DATA = instance()


@pytest.mark.parametrize(
    "stream",
    [
        pdu((STORE, 3, RQ), (5, 0, DATA)),
        pdu((STORE, 1, RQ[:20]), (5, 3, RQ[20:])),
        pdu((STORE, 3, RQ), (STORE, 3, RQ)),
        pdu((STORE, 3, RQ), (STORE, 0, DATA), (ECHO, 3, command(C_ECHO_RQ))),
        pdu((STORE, 0, DATA)),
        pdu((STORE, 1, RQ[:20]), (STORE, 0, DATA)),
        pdu((2, 3, RQ)),
        pdu((7, 3, RQ)),
        pdu((0, 3, RQ)),
        pdu(),
        pdu((STORE, 3, b"")),
        struct.pack(">BxIIBB", 4, 5, 1, 1, 3),
        struct.pack(">BxIIBB", 4, 6, 0, 1, 3),
        struct.pack(">BxIIBB", 4, 6, 0xFFFFFFFF, 1, 3),
        struct.pack(">BxIIBB", 4, 8, 2, 1, 3) + b"ab",
        pdu(*[(STORE, 1, b"x" * 1000)] * (COMMAND_BYTES_MAX // 1000 + 1)),
        struct.pack(">BxI", 5, 2**20),
        struct.pack(">BxI", 7, 0xFFFFFFFF),
        struct.pack(">BxI", 0, 0),
        struct.pack(">BxI", 255, 4) + b"abcd",
    ],
    ids=range(20),
)
def test_what_belongs_to_no_message_ends_the_association(node: Node, stream: bytes) -> None:
    with RawPeer(node.port, CONTEXTS) as good, RawPeer(node.port, CONTEXTS) as bad:
        bad.sock.sendall(stream)

        assert bad.receive() == (7, b"\0\0\2\0")  # A-ABORT by the service provider.
        assert bad.sock.recv(1) == b""
        assert good.send_ct(ct_slice())[0] == 0
    assert len(node.files()) == 1
    assert left_behind(node.settings.data_dir) == []


def test_an_endless_data_set_ends_the_association(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osteon.scp.messages.DROPPED_BYTES_MAX", 100_000)
    settings = loopback_settings(tmp_path, instance_bytes_max=2**20)
    with running_node(settings) as node, RawPeer(node.port, CONTEXTS) as peer:
        peer.sock.sendall(pdu((STORE, 3, RQ)))
        with suppress(ConnectionError):
            for _ in range(2000):  # 100 MB
                peer.sock.sendall(p_data(STORE, 0, bytes(50_000)))
        assert peer.is_closed_by_peer(5)
        wait_until(lambda: node.table.rows("SELECT 1 FROM association WHERE closed IS NOT NULL"))
        assert node.files() == []


def test_one_thread_serves_an_association_and_sleeps(node: Node) -> None:
    before = _threads()
    peers = [RawPeer(node.port) for _ in range(20)]
    assert _threads() - before == 20

    cpu_s, started = time.process_time(), time.monotonic()
    threading.Event().wait(1.0)
    assert (time.process_time() - cpu_s) / (time.monotonic() - started) < 0.02  # For all of them.

    for peer in peers:
        peer.release()
    wait_until(lambda: _threads() == before)


def _threads() -> int:
    """How many there are; those that tidy up after earlier tests end when they like."""
    return sum(thread.name != "drafts" for thread in threading.enumerate())


def test_an_abort_of_the_peer_in_mid_instance(node: Node, peer: RawPeer) -> None:
    peer.sock.sendall(pdu((STORE, 3, RQ), (STORE, 0, DATA[:5000])))
    peer.sock.sendall(bytes.fromhex("07000000000400000000"))

    wait_until(lambda: node.table.rows("SELECT 1 FROM association WHERE closed IS NOT NULL"))
    (row,) = node.table.rows("SELECT outcome, cut FROM association")
    assert dict(row) == {"outcome": "aborted by the peer in the middle of an instance", "cut": 1}
    assert left_behind(node.settings.data_dir) == []


def test_a_connection_that_is_lost_in_mid_instance(node: Node, peer: RawPeer) -> None:
    peer.sock.sendall(pdu((STORE, 3, RQ), (STORE, 0, DATA[:5000])))
    peer.sock.close()

    wait_until(lambda: node.table.rows("SELECT 1 FROM association WHERE closed IS NOT NULL"))
    (row,) = node.table.rows("SELECT outcome, cut FROM association")
    assert dict(row) == {"outcome": "connection lost in the middle of an instance", "cut": 1}


def test_a_release_with_a_message_unfinished_is_a_release(node: Node, peer: RawPeer) -> None:
    peer.sock.sendall(pdu((STORE, 3, RQ), (STORE, 0, DATA[:5000])))
    peer.release()

    wait_until(lambda: node.table.rows("SELECT 1 FROM association WHERE closed IS NOT NULL"))
    (row,) = node.table.rows("SELECT outcome, cut FROM association")
    assert dict(row) == {"outcome": "released", "cut": 0}
    assert left_behind(node.settings.data_dir) == []


def test_a_pdu_that_does_not_come_to_its_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osteon.scp.transfer.PDU_DEADLINE_S", 0.3)
    monkeypatch.setattr("osteon.scp.direct.WAIT_S", 0.1)
    with running_node(loopback_settings(tmp_path)) as node, RawPeer(node.port) as peer:
        peer.sock.sendall(pdu((STORE, 3, RQ), (STORE, 0, DATA))[:1000])
        started = time.monotonic()

        assert peer.receive()[0] == 7
        assert time.monotonic() - started < 2


def test_what_was_sent_before_the_end_is_stored(node: Node) -> None:
    """A sender that goes away without waiting for its answers loses none of what it sent whole."""
    with RawPeer(node.port) as peer:
        for _ in range(5):
            rq, data = instance()
            peer.sock.sendall(pdu((STORE, 3, rq), (STORE, 2, data)))
        peer.sock.shutdown(socket.SHUT_WR)
        for _ in range(5):
            assert peer.status()[0] == 0
    assert len(node.files()) == 5
