"""Processes that take data beside the receiver's own: where associations go, and what ends them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import pytest

from osteon.config.settings import Settings
from osteon.errors import OsteonError, UnavailableError
from osteon.pipeline.table.connection import open_table
from osteon.scp.role import WATCH_S, run_receive
from tests.anomaly.evidence import left_behind
from tests.anomaly.role import Role, RoleError
from tests.dicom_peer import (
    AbortedError,
    Node,
    RawPeer,
    ct_slice,
    loopback_settings,
    running_node,
)
from tests.tools import wait_until

LANES = 3


def lanes_settings(data_dir: Path, **scp: object) -> Settings:
    return loopback_settings(data_dir, processes=LANES, **scp)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(lanes_settings(tmp_path)) as node:
        yield node


def connections(pid: int) -> int:
    """How many connections of peers a lane holds."""
    return len(psutil.Process(pid).net_connections("tcp4"))


def outcomes(settings: Settings) -> list[str]:
    with closing(open_table(settings.data_dir)) as table:
        return [row["outcome"] for row in table.rows("SELECT outcome FROM association")]


def test_each_association_goes_where_there_are_fewest(node: Node) -> None:
    assert node.lanes is not None
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(node.port)) for _ in range(2 * LANES)]
        for number, peer in enumerate(peers, start=1):
            assert peer.send_ct(ct_slice(number))[0] == 0x0000

        assert [connections(pid) for pid in node.lanes.pids] == [2] * LANES
        for peer in peers[::2]:
            peer.release()
        wait_until(lambda: sum(map(connections, node.lanes.pids)) == LANES)
    wait_until(lambda: sum(map(connections, node.lanes.pids)) == 0)
    assert len(node.files()) == 2 * LANES


def test_one_series_over_several_associations_is_one_series(node: Node) -> None:
    """Their processes write the rows of one series at a time."""
    each = 20

    def send(first: int) -> None:
        with RawPeer(node.port) as peer:
            for number in range(first, first + each):
                assert peer.send_ct(ct_slice(number))[0] == 0x0000
            peer.release()

    senders = [threading.Thread(target=send, args=(1 + n * each,)) for n in range(2 * LANES)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)

    (series,) = node.table.rows("SELECT instances FROM series")
    assert series["instances"] == 2 * LANES * each
    rows = node.table.rows("SELECT path FROM instance")
    assert {node.settings.data_dir / row["path"] for row in rows} == set(node.files())


def test_of_a_dead_one_the_association_is_lost_and_the_others_go_on(node: Node) -> None:
    assert node.lanes is not None
    with RawPeer(node.port) as first, RawPeer(node.port) as second:
        assert first.send_ct(ct_slice(1))[0] == 0x0000
        assert second.send_ct(ct_slice(2))[0] == 0x0000
        victim = next(pid for pid in node.lanes.pids if connections(pid))
        assert node.lanes.are_alive

        os.kill(victim, signal.SIGKILL)

        wait_until(lambda: not node.lanes.are_alive)
        ended = 0
        for number, peer in enumerate((first, second), start=3):
            try:
                assert peer.send_ct(ct_slice(number))[0] == 0x0000
            except (OSError, AbortedError):
                ended += 1
        assert ended == 1
    wait_until(lambda: len(outcomes(node.settings)) == 2 and all(outcomes(node.settings)))
    # Nobody knows whether it was in the middle of one: the worse is said.
    assert "connection lost in the middle of an instance" in outcomes(node.settings)


def test_the_role_ends_where_one_has_died(tmp_path: Path) -> None:
    with Role(tmp_path / "data", settings={"OSTEON_SCP__PROCESSES": str(LANES)}) as role:
        role.start()
        lanes = lanes_of_role(role)
        assert len(lanes) == LANES

        lanes[1].kill()

        assert role.wait(10) != 0
        assert "a process that takes data has died" in role.log.read_text()
        gone, alive = psutil.wait_procs(lanes, 10)
        assert (len(gone), alive) == (LANES, [])


def test_all_of_them_end_with_the_receiver_however_it_ends(tmp_path: Path) -> None:
    with Role(tmp_path / "data", settings={"OSTEON_SCP__PROCESSES": str(LANES)}) as role:
        role.start()
        lanes = lanes_of_role(role)
        with RawPeer(role.port) as peer:
            assert peer.send_ct(ct_slice(1))[0] == 0x0000

            role.kill()

            assert psutil.wait_procs(lanes, 10)[1] == []
            with pytest.raises((OSError, AbortedError)):
                peer.send_ct(ct_slice(2))
        role.start()  # It gets the lock, which every one of them has held.
        assert left_behind(tmp_path / "data") == []
        with RawPeer(role.port) as peer:
            assert peer.send_ct(ct_slice(2))[0] == 0x0000


def test_no_receiver_starts_while_one_of_another_is_left(tmp_path: Path) -> None:
    """It would take the instances that are on their way for those of a crash."""
    settings = {"OSTEON_SCP__PROCESSES": str(LANES)}
    with Role(tmp_path / "data", settings=settings) as role:
        role.start()
        frozen = lanes_of_role(role)[0]
        frozen.suspend()
        try:
            os.kill(role.pid, signal.SIGKILL)
            role.wait(10)
            with pytest.raises(RoleError, match="another process works on"):
                role.start()
        finally:
            frozen.resume()
        frozen.wait(10)
        role.start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_of_all_processes_lets_associations_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As systemd and Ctrl-C do it."""
    with Role(tmp_path / "data", settings={"OSTEON_SCP__PROCESSES": str(LANES)}) as role:
        role.start()
        with RawPeer(role.port) as peer:
            assert peer.send_ct(ct_slice(1))[0] == 0x0000
            receiver, *others = role.pids
            for pid in others:
                os.kill(pid, number)
            time.sleep(1.5 * WATCH_S)  # However long before the others the receiver hears of it.
            os.kill(receiver, number)
            wait_until(lambda: not role.listens())
            assert peer.send_ct(ct_slice(2))[0] == 0x0000
            peer.release()
        status, log = role.wait(30), role.log.read_text()
    assert (status, "Traceback" in log, "receiving process" in log) == (0, False, False), log
    assert left_behind(tmp_path / "data") == []
    with closing(open_table(tmp_path / "data")) as table:
        (row,) = table.rows("SELECT outcome, stored FROM association")
    assert (row["outcome"], row["stored"]) == ("released", 2)


def test_a_stop_does_not_wait_for_one_that_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("osteon.scp.lanes.STOP_S", 0.3)
    with running_node(lanes_settings(tmp_path)) as node:
        assert node.lanes is not None
        processes = [psutil.Process(pid) for pid in node.lanes.pids]
        processes[0].suspend()
        node.lanes.close()
    assert not any(process.is_running() for process in processes)


def test_one_that_does_not_start_is_told_of(tmp_path: Path) -> None:
    settings = lanes_settings(tmp_path)
    with closing(open_table(tmp_path)), pytest.raises(UnavailableError, match="does not start"):
        run_receive(settings, threading.Event(), fail)


def fail() -> None:
    """What a lane does first."""
    raise OsteonError("as it shall")


def lanes_of_role(role: Role) -> list[psutil.Process]:
    """The processes of a role that take data: they were forked from one that takes none."""
    return [
        grandchild
        for child in psutil.Process(role.pid).children()
        for grandchild in child.children()
    ]
