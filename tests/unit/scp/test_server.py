"""Starting and stopping the receiver."""

import socket
import threading
import time
from pathlib import Path

import pytest

from osteon.errors import ConfigError
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table
from osteon.scp.server import Receiver
from tests.dicom_peer import (
    Node,
    RawPeer,
    RejectedError,
    ct_slice,
    every_way,  # noqa: F401 - runs the module three times
    loopback_settings,
    running_node,
)
from tests.tools import wait_until


@pytest.fixture
def node(tmp_path: Path) -> Node:
    with running_node(loopback_settings(tmp_path)) as node:
        yield node


def outcomes(node: Node) -> list[str]:
    rows = node.table.rows("SELECT outcome FROM association WHERE closed IS NOT NULL ORDER BY id")
    return [row["outcome"] for row in rows]


def test_a_port_that_is_taken_is_named(node: Node) -> None:
    table = open_table(node.settings.data_dir)
    second = Receiver(node.settings, Intake(node.settings, table))

    with pytest.raises(
        ConfigError,
        match=rf"scp\.port: cannot listen on 127\.0\.0\.1 port {node.port}: .*; stop what listens",
    ):
        second.start()
    second.stop(0)
    table.close()


def test_a_host_that_is_not_ours_is_named(tmp_path: Path) -> None:
    settings = loopback_settings(tmp_path, host="203.0.113.1")
    table = open_table(tmp_path)

    with pytest.raises(ConfigError, match=r"scp\.host.*203\.0\.113\.1.*no interface of this host"):
        Receiver(settings, Intake(settings, table)).start()
    table.close()


def test_stopping_an_idle_node_is_instant_and_frees_the_port(node: Node) -> None:
    assert node.receiver.is_listening
    started = time.monotonic()

    node.receiver.stop(30)

    assert time.monotonic() - started < 2
    assert not node.receiver.is_listening
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.port), timeout=5)


def test_an_open_association_may_finish(node: Node) -> None:
    stopping = threading.Thread(target=node.receiver.stop, args=(20.0,))
    with RawPeer(node.port) as peer:
        stopping.start()
        wait_until(lambda: not node.receiver.is_listening)

        assert peer.send_ct(ct_slice(1)) == (0x0000, "")
        assert peer.send_ct(ct_slice(2)) == (0x0000, "")
        peer.release()
        stopping.join(5)

    assert not stopping.is_alive()
    assert outcomes(node) == ["released"]
    assert len(node.files()) == 2


def test_what_does_not_finish_is_aborted(node: Node) -> None:
    with RawPeer(node.port) as peer:
        started = time.monotonic()

        node.receiver.stop(0.2)

        assert peer.receive()[0] == 7  # A-ABORT
    assert time.monotonic() - started < 3
    assert outcomes(node) == ["aborted: the node stops"]
    assert node.table.rows("SELECT cut FROM association")[0]["cut"] == 1


def test_a_peer_in_the_middle_of_a_pdu_does_not_hold_up_the_stop(node: Node) -> None:
    with RawPeer(node.port) as peer:
        command, data = peer.store_pdus(bytes(10_000), "1.2.3")
        peer.sock.sendall(command + data[: len(data) // 2])
        started = time.monotonic()

        node.receiver.stop(0.2)

    assert time.monotonic() - started < 6
    assert outcomes(node) == ["aborted: the node stops in the middle of an instance"]
    assert node.files() == []


def test_a_full_node_says_so_until_a_place_is_free(tmp_path: Path) -> None:
    settings = loopback_settings(tmp_path, associations_max=2)
    with running_node(settings) as node, RawPeer(node.port) as first, RawPeer(node.port) as second:
        with pytest.raises(RejectedError) as rejected:
            RawPeer(node.port)
        assert rejected.value.triple == (2, 3, 2)

        first.release()
        with wait_until(lambda: _try(node)) as third:
            assert third.send_ct(ct_slice()) == (0x0000, "")
            third.release()
        second.release()


def _try(node: Node) -> RawPeer | None:
    try:
        return RawPeer(node.port)
    except RejectedError:
        return None
