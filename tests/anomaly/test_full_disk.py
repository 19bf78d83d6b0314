"""A disk that is full: every instance is kept or refused, and service comes back with the space.

The role has a tmpfs of 12 MB to itself, in a mount namespace of its own that nobody else sees.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from osteon.pipeline.table.connection import open_table
from tests.anomaly.evidence import broken_promises, left_behind
from tests.anomaly.role import Role
from tests.anomaly.sender import (
    CONGESTED,
    OUT_OF_RESOURCES,
    SUCCESS,
    Factory,
    Instance,
    Ledger,
    send_all,
    wait_until_served,
)
from tests.tools import require_tool, wait_until

DISK_BYTES = 12 * 2**20
ROOM_BYTES = 4 * 2**20
RESUMES_S = 10.0
SENDERS = 3


@dataclass
class SmallDisk:
    """A tmpfs in a namespace of its own."""

    mount: Path
    holder: int

    @property
    def seen(self) -> Path:
        """The same disk as it is seen from outside."""
        return Path(f"/proc/{self.holder}/root{self.mount}")

    def copied(self) -> Path:
        """A copy of the data directory: SQLite would not find its way through /proc."""
        # A copy knows nothing of second names, so the role shall have taken away the first ones.
        wait_until(lambda: not any(map(_size, self.seen.glob("data/incoming/*/*"))))
        folder = self.mount.with_name("copy")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.seen / "data", folder)
        return folder

    @property
    def enter(self) -> tuple[str, ...]:
        """The command that runs another one with this disk."""
        user = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
        return ("nsenter", f"--target={self.holder}", "--mount", *user)

    def fill(self, but_bytes: int) -> None:
        """Take all space but so much."""
        free = os.statvfs(self.seen).f_bavail * os.statvfs(self.seen).f_frsize
        (self.seen / "ballast").write_bytes(bytes(max(0, free - but_bytes)))

    def free(self) -> None:
        """Give the space back."""
        (self.seen / "ballast").unlink()


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    require_tool("unshare")
    require_tool("nsenter")
    folder.mkdir()
    mount = f"mount -t tmpfs -o size={DISK_BYTES} none '{folder}' && echo ready && exec sleep 600"
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    with subprocess.Popen(
        ["unshare", "--mount", *user, "sh", "-c", mount], stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            if holder.stdout.readline() != b"ready\n":
                pytest.skip("nothing can be mounted here, not even in a namespace of one's own")
            yield SmallDisk(folder.resolve(), holder.pid)
        finally:
            holder.kill()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def send_until_full(role: Role, disk: SmallDisk, rows: int) -> tuple[Ledger, list[Instance]]:
    """Send more than there is room for; what was acknowledged, and what was refused."""
    disk.fill(ROOM_BYTES)
    factory = Factory("1.2.826.0.3")
    # Each takes its own size, and its row some pages of the log, ten of which are 40 KB.
    count = 2 * ROOM_BYTES // (2 * rows * rows + 20_000) // SENDERS
    senders = send_all(role.port, [factory.series(count, rows=rows) for _ in range(SENDERS)])
    ledger = Ledger()
    ledger.add(senders)
    refused = [i for s in senders for i, status in s.answered if status == OUT_OF_RESOURCES]
    assert all(len(s.answered) == count for s in senders), "an association was ended"
    return ledger, refused


def orphans(data_dir: Path) -> set[str]:
    """Files of the spool that are not on record."""
    table = open_table(data_dir)
    on_record = {row["path"] for row in table.rows("SELECT path FROM instance")}
    table.close()
    files = (path for path in (data_dir / "spool").rglob("*") if path.is_file())
    return {str(path.relative_to(data_dir)) for path in files} - on_record


@pytest.mark.parametrize("rows", [32, 256], ids=["the table is full first", "the spool is"])
def test_service_comes_back_with_the_space(disk: SmallDisk, rows: int) -> None:
    with Role(disk.mount / "data").start(disk.enter) as role:
        ledger, refused = send_until_full(role, disk, rows)
        assert refused
        assert ledger.acknowledged
        assert set(ledger.statuses) == {SUCCESS, OUT_OF_RESOURCES}
        assert left_behind(disk.copied()) == []
        assert orphans(disk.copied()) == set()  # Nor files whose rows did not fit.

        disk.free()
        ledger.add([wait_until_served(role.port, refused[0], RESUMES_S)])
        ledger.add(send_all(role.port, [refused]))
        assert {i.key for i in refused} <= ledger.acknowledged
        copy = disk.copied()
        assert broken_promises(copy, ledger.acknowledged) == []
        assert left_behind(copy) == []
        assert orphans(copy) == set()


def test_what_was_acknowledged_survives_kill_9_on_a_full_disk(disk: SmallDisk) -> None:
    with Role(disk.mount / "data") as role:
        ledger, refused = send_until_full(role.start(disk.enter), disk, 64)
        role.kill()
        disk.free()
        role.start(disk.enter)

        assert broken_promises(disk.copied(), ledger.acknowledged) == []
        assert left_behind(disk.copied()) == []
        ledger.add(send_all(role.port, [refused]))
        assert broken_promises(disk.copied(), ledger.acknowledged) == []
        assert ledger.unexpected() == []


def test_new_associations_wait_while_the_reserve_is_reached(disk: SmallDisk) -> None:
    reserve = {"OSTEON_PIPELINE__DISK_RESERVE_GB": "0.003"}
    factory = Factory("1.2.826.0.4")
    with Role(disk.mount / "data", settings=reserve).start(disk.enter) as role:
        disk.fill(2 * 10**6)
        senders = send_all(role.port, [factory.series(2)])
        assert [sender.rejection for sender in senders] == [CONGESTED]

        disk.free()
        wait_until_served(role.port, factory.series(1)[0], RESUMES_S)
