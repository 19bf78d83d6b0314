"""How many associations may be open: of all peers, and of each address."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from osteon.scp.listener import PENDING_MAX
from tests.dicom_peer import (
    CT,
    EXPLICIT,
    Node,
    RawPeer,
    RejectedError,
    associate_request,
    ct_slice,
    every_way,  # noqa: F401 - runs the module three times
    loopback_settings,
    running_node,
)
from tests.tools import wait_until

BROKEN, OTHER = "127.0.0.2", "127.0.0.3"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    settings = loopback_settings(tmp_path, associations_max=6, associations_per_address_max=4)
    with running_node(settings) as node:
        yield node


def test_a_broken_sender_shuts_nobody_out_but_itself(node: Node) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(RawPeer(node.port, address=BROKEN)) for _ in range(4)]
        with capture_logs() as logs, pytest.raises(RejectedError) as rejected:
            RawPeer(node.port, address=BROKEN)
        assert rejected.value.triple == (2, 3, 2)  # Transient, local limit exceeded: PS3.8 9.3.4
        (line,) = [line for line in logs if line["event"] == "association rejected"]
        assert line["address"] == BROKEN
        assert line["why"] == (
            f"4 associations from {BROKEN} are open (scp.associations_per_address_max)"
        )

        with RawPeer(node.port) as peer:
            assert peer.send_ct(ct_slice()) == (0x0000, "")
            peer.release()
        idle[0].release()
        wait_until(lambda: _comes_in(node, BROKEN))


def test_the_limit_of_all_holds_beside_it(node: Node) -> None:
    with ExitStack() as stack:
        for address in [BROKEN] * 4 + [OTHER] * 2:
            stack.enter_context(RawPeer(node.port, address=address))
        with capture_logs() as logs, pytest.raises(RejectedError) as rejected:
            RawPeer(node.port, address=OTHER)

    assert rejected.value.triple == (2, 3, 2)
    assert "6 associations are open (scp.associations_max)" in [line.get("why") for line in logs]


def test_fifty_honest_associations_from_one_address_are_served_at_once(tmp_path: Path) -> None:
    with running_node(loopback_settings(tmp_path)) as node, ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(node.port, timeout_s=60)) for _ in range(50)]
        answers = [peer.send_ct(ct_slice(n)) for n, peer in enumerate(peers, 1)]

    assert answers == [(0x0000, "")] * 50


def test_silent_connections_of_one_address_cut_off_no_other_that_is_slow(tmp_path: Path) -> None:
    with (
        running_node(loopback_settings(tmp_path, acse_timeout_s=60)) as node,
        ExitStack() as stack,
        socket.create_connection(("127.0.0.1", node.port), timeout=10) as slow,
    ):
        request = associate_request([(CT, EXPLICIT)], "SLOW", "OSTEON")
        slow.sendall(request[:20])
        silent = []
        for _ in range(PENDING_MAX + 20):
            sock = stack.enter_context(socket.socket())
            sock.bind((BROKEN, 0))
            sock.connect(("127.0.0.1", node.port))
            silent.append(sock)
        assert all(_is_closed(sock) for sock in silent[:20])  # The oldest of who holds most.

        slow.sendall(request[20:])
        assert slow.recv(1) == b"\x02"  # A-ASSOCIATE-AC, PS3.8 Table 9-17


def _comes_in(node: Node, address: str) -> bool:
    try:
        RawPeer(node.port, address=address).release()
    except RejectedError:
        return False
    return True


def _is_closed(sock: socket.socket) -> bool:
    sock.settimeout(5)
    with suppress(ConnectionError):
        return sock.recv(1) == b""
    return True
