"""Make bytes durable: a file that is visible under its name is whole and on the disk.

The parts of a file enter, its path under the data directory leaves, after data and directory entry
are synced. Intake stores instances through it and the observer publishes results through it.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from osteon.errors import OutOfResourcesError

SPOOL, INCOMING = "spool", "incoming"
SYNCED_FOLDERS_MAX = 10_000


class Spool:
    """The folder of received instances.

    A file's name comes from the hash of its content and its folder's from the hash of its series,
    so nothing that a peer sends can become a path. Files being written stand in ``incoming``.

    Parameters
    ----------
    data_dir : Path
        The node's data directory.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._synced: set[Path] = set()
        for name in (SPOOL, INCOMING):
            (data_dir / name).mkdir(parents=True, exist_ok=True)
        _sync_folder(data_dir)

    def clear_incoming(self) -> int:
        """Remove what a killed process was writing; nobody was told that it is safe.

        What a living process is writing is locked by it and left alone.

        Returns
        -------
        int
            How many files were removed.
        """
        removed = 0
        for file in (self.data_dir / INCOMING).iterdir():
            with suppress(BlockingIOError, FileNotFoundError), file.open("rb") as draft:
                fcntl.flock(draft, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink(missing_ok=True)
                removed += 1
        return removed

    def path_of(self, series_instance_uid: str, sha256: str) -> Path:
        """Return the path, under the data directory, of an instance with this content."""
        series = hashlib.sha256(series_instance_uid.encode("ascii")).hexdigest()[:16]
        return Path(SPOOL) / series / f"{sha256}.dcm"

    def store(self, path: Path, parts: Iterable[bytes | memoryview]) -> int:
        """Write a file durably and return its size in bytes.

        Raises
        ------
        OutOfResourcesError
            No space, or no file descriptor, is left, or the disk fails; nothing stays behind.
        """
        target = self.data_dir / path
        try:
            self._make_folder(target.parent)
            return write_durably(target, parts, by_way_of=self.data_dir / INCOMING)
        except OSError as error:
            raise OutOfResourcesError(f"{path} cannot be written: {error.strerror}") from error

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and sync its name; that it is there does not say that it was synced."""
        if folder in self._synced and folder.is_dir():
            return
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)
        if len(self._synced) >= SYNCED_FOLDERS_MAX:
            self._synced.clear()
        self._synced.add(folder)


def write_durably(target: Path, parts: Iterable[bytes | memoryview], *, by_way_of: Path) -> int:
    """Write a file so that it is either whole and synced under its name, or not there.

    Parameters
    ----------
    target : Path
        The name it gets; an older file of that name is replaced.
    parts : iterable of bytes
        Its content, in order.
    by_way_of : Path
        Folder on the same file system in which it is written first.

    Returns
    -------
    int
        Its size in bytes.
    """
    descriptor, draft = tempfile.mkstemp(dir=by_way_of)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # See `Spool.clear_incoming`.
            size = sum(_write_all(file.fileno(), part) for part in parts)
            os.fdatasync(file.fileno())
        Path(draft).replace(target)
    except BaseException:
        with suppress(OSError):
            Path(draft).unlink()
        raise
    _sync_folder(target.parent)
    return size


def move_durably(source: Path, target: Path) -> None:
    """Give a synced file another name on the same file system, and sync both folders.

    A source that is gone while the target is there was moved before a crash.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists() or not target.exists():
        source.replace(target)
    for folder in (source.parent, target.parent, target.parent.parent, target.parent.parent.parent):
        _sync_folder(folder)


def free_bytes(folder: Path) -> int:
    """Return the free space for unprivileged processes on a folder's disk, in bytes."""
    return shutil.disk_usage(folder).free


def _write_all(descriptor: int, part: bytes | memoryview) -> int:
    view = memoryview(part).cast("B")
    written = 0
    while written < len(view):
        written += os.write(descriptor, view[written:])
    return written


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
