"""A role on a small disk of its own, which is filled and freed again.

A tmpfs of 12 MB in a mount namespace that nobody else sees enters, figures leave; the tests compare
them and the benchmark prints them.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from osteon.pipeline.table.connection import open_table
from tests.anomaly.evidence import broken_promises, left_behind
from tests.anomaly.role import Role
from tests.anomaly.sender import (
    OUT_OF_RESOURCES,
    Factory,
    Instance,
    Ledger,
    send_all,
    wait_until_served,
)
from tests.tools import require_tool, wait_until

FULL_FIRST = {"the table is full first": 32, "the spool is": 256}  # Rows of an image.
DISK_BYTES = 12 * 2**20
ROOM_BYTES = 4 * 2**20
RESUMES_S = 10.0
SENDERS = 3


class NoMountError(Exception):
    """This machine lets nobody mount anything, as in some containers."""


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
        folder = self.mount.with_name("copy")
        # With second names, and again where a first one went meanwhile.
        command = ("cp", "-a", str(self.seen / "data"), str(folder))

        def is_copied() -> bool:
            shutil.rmtree(folder, ignore_errors=True)
            return subprocess.run(command, check=False, capture_output=True).returncode == 0

        wait_until(lambda: not left_behind(self.seen / "data"))
        wait_until(is_copied)
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
                raise NoMountError("nothing can be mounted here, not even in one's own namespace")
            yield SmallDisk(folder.resolve(), holder.pid)
        finally:
            holder.kill()


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


@dataclass(frozen=True)
class Filled:
    """What a full disk did.

    Attributes
    ----------
    ledger : Ledger
        Of all, those that were sent again included.
    refused : int
        Instances that were answered 0xA700 at first.
    resumes_s : float
        How long after the space came back the first of them was taken.
    left : list of str
        What should not be there: forgotten drafts, files without rows, broken promises.
    """

    ledger: Ledger
    refused: int
    resumes_s: float
    left: list[str]


def fill_and_free(role: Role, disk: SmallDisk, rows: int) -> Filled:
    """Send until the disk is full, give the space back, and send again what was refused."""
    ledger, refused = send_until_full(role, disk, rows)
    left = forgotten(disk.copied())  # Files, too, whose rows did not fit.
    disk.free()
    started = time.monotonic()
    ledger.add([wait_until_served(role.port, refused[0], RESUMES_S)])
    resumes_s = time.monotonic() - started
    ledger.add(send_all(role.port, [refused]))
    copy = disk.copied()
    left += forgotten(copy) + broken_promises(copy, ledger.acknowledged)
    left += [f"refused again: {i.uid}" for i in refused if i.key not in ledger.acknowledged]
    return Filled(ledger, len(refused), resumes_s, left)


def forgotten(data_dir: Path) -> list[str]:
    """Drafts that nobody will finish, and files that are not on record."""
    return [*map(str, left_behind(data_dir)), *orphans(data_dir)]
