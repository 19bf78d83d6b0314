"""Make bytes durable: a file that is visible under its name is whole and on the disk.

The parts of a file enter, its path under the data directory leaves, after data and directory entry
are synced. Intake stores instances through it and the observer publishes results through it.
"""

import fcntl
import hashlib
import os
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from osteon.errors import OutOfResourcesError
from osteon.pipeline.instances.drafts import Draft, DraftPool, sync_folder

SPOOL, INCOMING = "spool", "incoming"


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
        The role that writes. Without one, nothing can be received.
    sync_rows : callable, optional
        As `DraftPool` takes it; without it, rows are synced before a draft is settled.
    """

    def __init__(
        self,
        data_dir: Path,
        role: str | None = None,
        sync_rows: Callable[[], None] = lambda: None,
    ) -> None:
        self.data_dir = data_dir
        for name in (SPOOL, INCOMING):
            (data_dir / name).mkdir(parents=True, exist_ok=True)
        sync_folder(data_dir)
        if role is not None:
            self._incoming = data_dir / INCOMING / role
            self._incoming.mkdir(exist_ok=True)
            sync_folder(data_dir / INCOMING)
            # Shared, so that it is known that somebody lives here; the kernel frees it.
            held = os.open(self._incoming, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(held, fcntl.LOCK_SH)
            self._leave = weakref.finalize(self, os.close, held)
            self._drafts = DraftPool(self._incoming, sync_rows)

    def close(self) -> None:
        """Have done with all drafts; nothing can be received any more."""
        self._drafts.close()
        self._leave()

    def draft(self) -> Draft:
        """Begin a file.

        Raises
        ------
        OutOfResourcesError
            No space, or no file descriptor, is left, or the disk fails.
        """
        try:
            return self._drafts.take()
        except OSError as error:
            raise unwritable(error) from error

    def path_of(self, series_instance_uid: str, digest: str) -> Path:
        """Return the path, under the data directory, of an instance with this content."""
        return _series_folder(series_instance_uid) / f"{digest}.dcm"

    def publish(self, draft: Draft, path: Path) -> bool:
        """Give a synced draft its path, unless a file has it already.

        The name needs not be on the disk yet, but the draft keeps its own, which is, until
        `settle`.

        Returns
        -------
        bool
            Whether the path was free.

        Raises
        ------
        OutOfResourcesError
            No space is left, or the disk fails.
        """
        target = self.data_dir / path
        try:
            try:
                draft.link(target)
            except FileNotFoundError:  # The first of its series, or the first after a purge.
                target.parent.mkdir(exist_ok=True)
                draft.link(target)
        except FileExistsError:
            return False
        except FileNotFoundError as error:  # Somebody has tidied up in ``incoming``.
            self._drafts.forget()
            raise unwritable(error) from error
        except OSError as error:
            raise unwritable(error) from error
        return True

    def replace(self, draft: Draft, path: Path) -> None:
        """Put a synced draft in the place of the file that has its path, durably.

        Raises
        ------
        OutOfResourcesError
            No space is left, or the disk fails.
        """
        target = self.data_dir / path
        try:
            draft.replace(target)
            for folder in (target.parent, target.parent.parent):
                sync_folder(folder)
        except OSError as error:
            raise unwritable(error) from error

    def settle(self, draft: Draft, path: Path) -> None:
        """Have done with a draft that was published and is on record."""
        self._drafts.settle(draft, self.data_dir / path)

    def withdraw(self, draft: Draft, path: Path) -> None:
        """Take the path away from a draft, if it is the draft's and not a file's before it."""
        target = self.data_dir / path
        with suppress(OSError):
            if draft.is_named(target):
                target.unlink()


@contextmanager
def abandoned(folder: Path) -> Iterator[list[Path]]:
    """Give the drafts that a killed process has left in a role's folder, oldest first.

    What a living process is writing is not given. Empty ones are removed.
    """
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield []
    else:
        left = sorted((file.stat().st_mtime_ns, file) for file in folder.iterdir())
        for _, file in left:
            if not file.stat().st_size:
                file.unlink()
        yield [file for _, file in left if file.exists()]
    finally:
        os.close(held)


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
    with Draft.create(by_way_of) as draft:
        for part in parts:
            draft.write(part)
        draft.sync()
        draft.publish(target)
    sync_folder(target.parent)
    return draft.size


def name_durably(draft: Path, target: Path) -> int:
    """Give a synced file its last name, unless another file has it, and sync that name.

    Returns
    -------
    int
        The size of the file that has the name.
    """
    target.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        os.link(draft, target)
    for folder in (target.parent, target.parent.parent):
        sync_folder(folder)
    return target.stat().st_size


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
    sync_folder(target)
    return target


def move_durably(source: Path, target: Path) -> None:
    """Give a synced file another name on the same file system, and sync both folders.

    A source that is gone while the target is there was moved before a crash.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists() or not target.exists():
        source.replace(target)
    for folder in (source.parent, target.parent, target.parent.parent, target.parent.parent.parent):
        sync_folder(folder)


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
