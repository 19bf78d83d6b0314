"""The receive role as a process."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from osteon.errors import OsteonError, UnavailableError
from osteon.pipeline import worklock
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.table.listening import listening_since
from osteon.pipeline.table.reception import close_association, open_association
from osteon.pipeline.worklock import receiver_listens
from osteon.scp import role
from tests.dicom_peer import RawPeer, ct_slice, loopback_settings
from tests.tools import wait_until


def test_it_loads_neither_torch_nor_what_decodes_pixels() -> None:
    heavy = ("torch", "SimpleITK", "highdicom", "cc3d", "fill_voids", "fastapi")
    code = f"import sys, osteon.scp.role; print([m for m in {heavy!r} if m in sys.modules])"

    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert found.stdout.strip() == "[]"


def test_it_receives_until_it_is_told_to_stop(tmp_path: Path) -> None:
    settings = loopback_settings(tmp_path)
    stop = threading.Event()
    running = threading.Thread(target=role.run_receive, args=(settings, stop))
    running.start()
    try:
        with wait_until(lambda: _try(settings.scp.port)) as peer:
            assert peer.send_ct(ct_slice()) == (0x0000, "")
            peer.release()
    finally:
        stop.set()
        running.join(10)

    assert not running.is_alive()
    assert len(list((tmp_path / "spool").rglob("*.dcm"))) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_listener_ends_the_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loopback_settings(tmp_path)
    monkeypatch.setattr(role, "WATCH_S", 0.01)
    monkeypatch.setattr("osteon.scp.listener.Listener.service_actions", _die)

    with pytest.raises(OsteonError, match="listener has died"):
        role.run_receive(settings, threading.Event())
    table = open_table(tmp_path)
    assert listening_since(table) is not None
    table.close()


def test_a_second_receiver_of_a_data_directory_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, stop = loopback_settings(tmp_path), threading.Event()
    monkeypatch.setattr(worklock, "LOCK_WAIT_S", 0.1)
    first = threading.Thread(target=role.run_receive, args=(settings, stop))
    first.start()
    try:
        wait_until(lambda: _try(settings.scp.port)).release()
        with pytest.raises(UnavailableError, match=r"another process works on .*spool") as caught:
            role.run_receive(loopback_settings(tmp_path), threading.Event())
        assert caught.value.exit_code == 11
        wait_until(lambda: _try(settings.scp.port)).release()  # The first one is none the worse.
    finally:
        stop.set()
        first.join(10)


def test_associations_of_a_killed_receiver_are_closed(tmp_path: Path) -> None:
    settings, stop = loopback_settings(tmp_path), threading.Event()
    table = open_table(tmp_path)
    left = open_association(table, "CT1", "OSTEON", "10.0.0.5")
    over = open_association(table, "CT2", "OSTEON", "10.0.0.6")
    close_association(table, over, "released", cut=False)
    assert not receiver_listens(tmp_path)
    running = threading.Thread(target=role.run_receive, args=(settings, stop))
    running.start()
    try:
        wait_until(lambda: receiver_listens(tmp_path))
        ended = {row["id"]: row for row in table.rows("SELECT * FROM association")}
        since = listening_since(table)
        wait_until(lambda: _try(settings.scp.port)).release()
    finally:
        stop.set()
        running.join(10)
    assert not receiver_listens(tmp_path)
    assert listening_since(table) is None  # It was stopped in good order.
    table.close()
    assert (ended[left]["outcome"], ended[left]["cut"]) == ("lost: the receiver was killed", 1)
    assert ended[left]["closed"] == since
    assert (ended[over]["outcome"], ended[over]["cut"]) == ("released", 0)


def _die(_: object) -> None:
    raise RuntimeError("as a bug would")


def _try(port: int) -> RawPeer | None:
    try:
        return RawPeer(port)
    except ConnectionRefusedError:
        return None
