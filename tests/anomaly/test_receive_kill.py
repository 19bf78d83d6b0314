"""A receiver process that is killed or runs into a full disk in the middle of everything."""

import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.pipeline.instances.digest import digest_of
from osteon.pipeline.table.connection import open_table
from tests.anomaly.evidence import left_behind
from tests.dicom_peer import (
    AbortedError,
    RawPeer,
    RejectedError,
    ct_slice,
    dataset_of,
    encoded,
    every_way,  # noqa: F401 - runs the module three times
    loopback_settings,
)
from tests.tools import wait_until

ROLE = """
import sys, threading
from osteon.config.settings import Settings
from osteon.scp.role import run_receive
run_receive(Settings.model_validate_json(sys.argv[1]), threading.Event())
"""
SENDERS = 3


@contextmanager
def receiving(
    settings: Settings, file_bytes_max: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The receive role as a process of its own."""
    arguments = [sys.executable, "-c", ROLE, settings.model_dump_json()]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    if file_bytes_max is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    try:
        wait_until(lambda: _is_up(settings.scp.port))
        yield process
    finally:
        process.kill()
        process.wait(10)


def _is_up(port: int) -> bool:
    with suppress(ConnectionError), RawPeer(port) as peer:
        peer.release()
        return True
    return False


class Sender(threading.Thread):
    """Sends until the receiver is gone; knows what was acknowledged."""

    def __init__(self, port: int, series: str) -> None:
        super().__init__()
        self.port, self.series = port, series
        self.acknowledged: dict[str, bytes] = {}
        self.sent: dict[str, bytes] = {}

    def run(self) -> None:
        with suppress(OSError, AbortedError, RejectedError), RawPeer(self.port) as peer:
            for number in range(1, 10_000):
                ds = ct_slice(number, self.series, rows=256)
                uid, data = str(ds.SOPInstanceUID), encoded(ds)
                self.sent[uid] = data
                if peer.store(data, uid)[0] == 0x0000:
                    self.acknowledged[uid] = data


@pytest.mark.parametrize("acknowledged", [1, 25, 60])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    settings = loopback_settings(tmp_path)
    senders = [Sender(settings.scp.port, f"1.2.3.{n}") for n in range(SENDERS)]
    with receiving(settings) as process:
        for sender in senders:
            sender.start()
        wait_until(lambda: sum(len(s.acknowledged) for s in senders) >= acknowledged, every_s=0.001)
        process.send_signal(signal.SIGKILL)
        for sender in senders:
            sender.join(10)

    _assert_nothing_is_lost(settings, senders)

    again = Sender(settings.scp.port, "1.2.3.9")
    with receiving(settings), RawPeer(settings.scp.port) as peer:
        for uid, data in {uid: data for s in senders for uid, data in s.sent.items()}.items():
            assert peer.store(data, uid)[0] == 0x0000
            again.acknowledged[uid] = data
    _assert_nothing_is_lost(settings, [again])
    assert len(_files(settings)) == len(again.acknowledged)


def _files(settings: Settings) -> list[Path]:
    return [path for path in (settings.data_dir / "spool").rglob("*") if path.is_file()]


def _assert_nothing_is_lost(settings: Settings, senders: list[Sender]) -> None:
    table = open_table(settings.data_dir)
    rows = {row["sop_instance_uid"]: row for row in table.rows("SELECT * FROM instance")}
    series = table.rows("SELECT sum(instances) AS n FROM series")
    table.close()
    for uid, data in {u: d for s in senders for u, d in s.acknowledged.items()}.items():
        assert rows[uid]["digest"] == digest_of(data)
        assert dataset_of(settings.data_dir / rows[uid]["path"]) == data
    for path in _files(settings):  # No half file is visible, on record or not.
        assert digest_of(dataset_of(path)) == path.stem
    assert series[0]["n"] == len(rows)


def test_a_full_disk_is_answered_so_that_the_sender_tries_again(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk: the write fails in the middle of the file."""
    settings = loopback_settings(tmp_path)
    with receiving(settings, file_bytes_max=1_200_000), RawPeer(settings.scp.port) as peer:
        assert peer.send_ct(ct_slice(1))[0] == 0x0000
        assert peer.send_ct(ct_slice(2, rows=1024))[0] == 0xA700
        assert peer.send_ct(ct_slice(3))[0] == 0x0000

    assert len(_files(settings)) == 2
    assert left_behind(tmp_path) == []
