"""Make bytes durable: a file that is visible under its name is whole and on the disk.

The parts of a file enter, its path under the data directory leaves, after data and directory entry
are synced. Intake stores instances through it and the observer publishes results through it.
"""

import ctypes
import fcntl
import hashlib
import itertools
import os
import shutil
import weakref
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Self

from osteon.errors import OutOfResourcesError

SPOOL, INCOMING = "spool", "incoming"
SYNCED_FOLDERS_MAX = 10_000
# Linux; without it, writing begins when it is waited for. Errors are told by the sync itself.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE = 2
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_numbers = itertools.count()


class Draft:
    """A file that is being written and that nobody sees yet.

    Parameters
    ----------
    folder : Path
        Where it stands until it gets its name, on the same file system.

    Attributes
    ----------
    size : int
        Bytes written so far.

    Raises
    ------
    OSError
        By every method: the disk is full or fails.
    """

    def __init__(self, folder: Path) -> None:
        self.size = 0
        self._descriptor = -1
        while self._descriptor < 0:
            path = folder / f"{os.getpid():x}-{next(_numbers):x}"
            with suppress(FileExistsError):  # Left by a process that had this number before.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                self._descriptor = os.open(path, flags, 0o600)
        self._path: Path | None = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def write(self, part: bytes | memoryview) -> None:
        """Append a part."""
        view = memoryview(part).cast("B")
        written = os.write(self._descriptor, view) if view else 0
        while written < len(view):
            written += os.write(self._descriptor, view[written:])
        self.size += written

    def begin_sync(self) -> None:
        """Let the disk begin to write, without waiting for it."""
        if _sync_file_range is not None:
            _sync_file_range(self._descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def sync(self) -> None:
        """Put on the disk what was written; nothing can be written any more."""
        os.fdatasync(self._descriptor)
        self._close()

    def publish(self, target: Path) -> None:
        """Give the synced file its name; an older file of that name is replaced."""
        if self._path is not None:
            self._path.replace(target)
            self._path = None

    def discard(self) -> None:
        """Remove the file, unless it has got its name; a second call does nothing."""
        with suppress(OSError):
            self._close()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
            self._path = None

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Spool:
    """The folder of received instances.

    A file's name comes from the hash of its content and its folder's from the hash of its series,
    so nothing that a peer sends can become a path. Files being written stand in ``incoming``, in
    a folder of the role that writes them.

    Parameters
    ----------
    data_dir : Path
        The node's data directory.
    role : str, optional
        The role that writes; what a killed process of this role has left is removed. Without one,
        nothing can be received.
    """

    def __init__(self, data_dir: Path, role: str | None = None) -> None:
        self.data_dir = data_dir
        self._synced: set[Path] = set()
        for name in (SPOOL, INCOMING):
            (data_dir / name).mkdir(parents=True, exist_ok=True)
        _sync_folder(data_dir)
        if role is not None:
            self._incoming = data_dir / INCOMING / role
            self._incoming.mkdir(exist_ok=True)
            # Shared, so that it is known that somebody lives here; the kernel frees it.
            held = _clear(self._incoming)[0]
            fcntl.flock(held, fcntl.LOCK_SH)
            weakref.finalize(self, os.close, held)

    def clear_incoming(self) -> int:
        """Remove what killed processes were writing; nobody was told that it is safe.

        What the role of a living process is writing is left alone.

        Returns
        -------
        int
            How many files were removed.
        """
        removed = 0
        for folder in (self.data_dir / INCOMING).iterdir():
            if folder.is_dir():
                held, count = _clear(folder)
                os.close(held)
                removed += count
            else:  # An upload of before this version.
                folder.unlink(missing_ok=True)
        return removed

    def draft(self) -> Draft:
        """Begin a file.

        Raises
        ------
        OutOfResourcesError
            No space, or no file descriptor, is left, or the disk fails.
        """
        try:
            return Draft(self._incoming)
        except OSError as error:
            raise unwritable(error) from error

    def path_of(self, series_instance_uid: str, sha256: str) -> Path:
        """Return the path, under the data directory, of an instance with this content."""
        return _series_folder(series_instance_uid) / f"{sha256}.dcm"

    def publish(self, draft: Draft, path: Path) -> None:
        """Give a synced draft its path, durably.

        Raises
        ------
        OutOfResourcesError
            No space is left, or the disk fails.
        """
        target = self.data_dir / path
        try:
            self._make_folder(target.parent)
            draft.publish(target)
            # By each thread for itself: file systems join syncs that meet, and on ext4 this was a
            # third faster with 4 threads than one thread that syncs for all.
            _sync_folder(target.parent)
        except OSError as error:
            raise unwritable(error) from error

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
    with Draft(by_way_of) as draft:
        for part in parts:
            draft.write(part)
        draft.sync()
        draft.publish(target)
    _sync_folder(target.parent)
    return draft.size


def link_files(source: Path, target: Path) -> Path:
    """Give every synced file of a folder a second name in another folder, and sync that.

    Returns
    -------
    Path
        The target.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        os.link(file, target / file.name)
    _sync_folder(target)
    return target


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


def unwritable(error: OSError) -> OutOfResourcesError:
    """Return what is raised where the disk is full, read-only or fails: the sender may try again.

    A failing disk is no fault of the instance, so the sender must keep it.
    """
    return OutOfResourcesError(f"the spool cannot be written: {error.strerror}")


@lru_cache(maxsize=256)
def _series_folder(series_instance_uid: str) -> Path:
    return Path(SPOOL) / hashlib.sha256(series_instance_uid.encode("ascii")).hexdigest()[:16]


def _clear(folder: Path) -> tuple[int, int]:
    """Empty a role's folder if no living process holds it; return its descriptor and a count."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    removed = 0
    with suppress(BlockingIOError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
            removed += 1
    return held, removed


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
