"""Files that are being written: each has a name that is on the disk before its first byte.

A folder enters, drafts leave; the spool gives them their last names. An instance may be
acknowledged when its draft is synced, since the draft would be found again by its first name. The
last name is given at once and synced a little later, for many together, and so is the row; only
then the first name goes. See ``docs/decisions/0006-drafts-with-names.md`` and
``0017-one-flush.md``.
"""

import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import structlog

from osteon.errors import OsteonError
from osteon.pipeline.instances.blocks import BlockWriter, Slabs

READY = 64  # Names are made in such numbers, so that one sync of the folder serves them all.
NAMED_MAX = 1_024  # Drafts whose last names are not synced yet; each would be read after a crash.
SETTLE_S = 0.1  # How long the last names of drafts gather.
CLOSE_S = 5.0
RETRY_S = 0.5  # When names or rows could not be synced, as on a full disk.
KEEPER_S = 1.0  # The thread that does all this ends when nothing came for so long.
_numbers = itertools.count()

log = structlog.get_logger(__name__)


class Draft:
    """A file that is being written.

    Parameters
    ----------
    path : Path
        Its first name, which exists.
    blocks : BlockWriter
        Writes the file.

    Raises
    ------
    OSError
        By every method: the disk is full or fails.
    """

    def __init__(self, path: Path, blocks: BlockWriter) -> None:
        self._path: Path | None = path
        self._blocks = blocks

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Begin a file under a new name, which is not synced."""
        return cls(*_create(folder, Slabs(), direct=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._blocks.size

    def write(self, part: bytes | memoryview) -> None:
        """Append a part; its memory may be used again afterwards."""
        self._blocks.write(part)

    def room(self, count: int) -> memoryview:
        """Return where the next bytes shall be put: room for at most so many, at least for one."""
        return self._blocks.room(count)

    def filled(self, count: int) -> None:
        """Append what was put where `room` said."""
        self._blocks.filled(count)

    def hash_from_here(self) -> None:
        """Hash whatever is written from now on."""
        self._blocks.hash_from_here()

    def digest(self) -> bytes:
        """Return the BLAKE3 hash of what was written since `hash_from_here`."""
        return self._blocks.digest()

    def overwrite(self, at: int, part: bytes) -> None:
        """Replace a few bytes that were written before."""
        self._blocks.overwrite(at, part)

    def sync(self) -> None:
        """Put on the disk what was written; nothing can be written any more."""
        self._blocks.sync()

    def publish(self, target: Path) -> None:
        """Give the synced file its last name alone; an older file of that name is replaced."""
        if self._path is not None:
            self._path.replace(target)
            self._path = None

    def link(self, target: Path) -> None:
        """Give the synced file its last name besides the first one.

        Raises
        ------
        FileExistsError
            Another file has it.
        """
        assert self._path is not None
        os.link(self._path, target)

    def replace(self, target: Path) -> None:
        """Give the synced file the last name of another one, besides its own first one."""
        assert self._path is not None
        spare = self._path.with_suffix(".spare")
        os.link(self._path, spare)
        spare.replace(target)

    def is_named(self, target: Path) -> bool:
        """Return whether a name is this file's."""
        return self._path is not None and target.exists() and self._path.samefile(target)

    def leave(self) -> Path | None:
        """Leave the file as it is, and return the first name that it still has."""
        self._blocks.close()
        path, self._path = self._path, None
        return path

    def discard(self) -> None:
        """Remove the first name, which is the file if it has no other; again it does nothing."""
        with suppress(OSError):
            self._blocks.close()
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
            self._path = None


class DraftPool:
    """Make first names before they are needed, and remove them when nothing needs them any more.

    A thread does so while there is something to do, and ends when there is not.

    Parameters
    ----------
    folder : Path
        Where drafts stand; its own name is synced, and nobody else makes files in it.
    sync_rows : callable
        Puts on the disk what the table says of drafts that are settled; it may raise OSError or
        OsteonError, and they keep their first names then.
    """

    def __init__(self, folder: Path, sync_rows: Callable[[], None]) -> None:
        self._folder = folder
        self._sync_rows = sync_rows
        self._slabs = Slabs()
        self._ready: deque[Draft] = deque()
        # Of a pool that nobody closes, the descriptors at least.
        weakref.finalize(self, _discard, self._ready).atexit = False
        self._wanted = False
        self._named: list[tuple[Path, Path]] = []
        self._is_failing = False
        self._due = threading.Condition()
        self._keeper: threading.Thread | None = None
        self._closed = False

    def take(self) -> Draft:
        """Return an empty draft whose name is on the disk.

        Raises
        ------
        OSError
            The disk is full or fails, or no file descriptor is left.
        """
        if len(self._ready) <= READY // 2 and not self._wanted:
            self._wanted = True
            self._wake()
        try:
            return self._ready.popleft()
        except IndexError:
            return self._make(1)[0]

    def settle(self, draft: Draft, target: Path) -> None:
        """Have the row and the last name of a draft synced, and its first one removed then."""
        path = draft.leave()
        if path is None:
            return
        with self._due:
            self._named.append((path, target))
            count = len(self._named)
        if count in {1, READY}:
            self._wake()
        elif count > NAMED_MAX:
            self._settle()

    def close(self) -> None:
        """Settle all that is left, and remove the names that nobody took."""
        with self._due:
            self._closed, keeper = True, self._keeper
            self._due.notify()
        if keeper is not None:
            keeper.join(CLOSE_S)
        self._settle()
        self.forget()

    def forget(self) -> None:
        """Drop what is ready, as when somebody has tidied up and the names are gone."""
        _discard(self._ready)

    def _wake(self) -> None:
        with self._due:
            if self._keeper is None and not self._closed:
                keeper = threading.Thread(target=self._keep, name="drafts", daemon=True)
                # Where no thread can be had, names are made one by one, and settled later.
                with suppress(RuntimeError):
                    keeper.start()
                    self._keeper = keeper
            self._due.notify()

    def _keep(self) -> None:
        while self._has_come():
            if self._wanted:
                # Where it fails, whoever needs a draft makes one himself, and tells his peer.
                with suppress(OSError):
                    self._ready.extend(self._make(READY))
                self._wanted = False
            if not self._settle():
                with self._due:
                    self._due.wait_for(lambda: self._closed or self._wanted, RETRY_S)

    def _has_come(self) -> bool:
        with self._due:
            self._due.wait_for(lambda: self._closed or self._wanted or self._named, KEEPER_S)
            if self._closed or not (self._wanted or self._named):
                self._keeper = None
                return False
            self._due.wait_for(
                lambda: self._closed or self._wanted or len(self._named) >= READY, SETTLE_S
            )
        return True

    def _make(self, count: int) -> list[Draft]:
        """Make drafts whose names are on the disk."""
        drafts: list[Draft] = []
        try:
            while len(drafts) < count:
                drafts.append(Draft(*_create(self._folder, self._slabs, direct=True)))
            sync_folder(self._folder)
        except OSError:
            for draft in drafts:
                draft.discard()
            raise
        return drafts

    def _settle(self) -> bool:
        """Sync what is settled, and return whether it could be."""
        with self._due:
            batch, self._named = self._named, []
        if not batch:
            return True
        try:
            self._sync_rows()
            _sync_names(target for _, target in batch)
        except (OSError, OsteonError) as error:
            with self._due:
                # The oldest of very many are found by their first names when the role starts again.
                self._named = (batch + self._named)[-NAMED_MAX:]
            if not self._is_failing:
                log.warning("rows and names cannot be synced", files=len(batch), why=str(error))
            self._is_failing = True
            return False
        self._is_failing = False
        for path, _ in batch:
            with suppress(OSError):
                path.unlink()
        return True


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(drafts: deque[Draft]) -> None:
    while drafts:
        with suppress(IndexError):  # Another thread has taken the last one.
            drafts.popleft().discard()


def _sync_names(files: Iterable[Path]) -> None:
    """Sync the folders of files, and those above them."""
    folders = {file.parent for file in files}
    for folder in [*folders, *{folder.parent for folder in folders}]:
        with suppress(FileNotFoundError):  # The series was removed meanwhile.
            sync_folder(folder)


def _create(folder: Path, slabs: Slabs, *, direct: bool) -> tuple[Path, BlockWriter]:
    while True:
        path = folder / f"{os.getpid():x}-{next(_numbers):x}"
        with suppress(FileExistsError):  # Left by a process that had this number before.
            return path, BlockWriter.create(path, slabs, direct=direct)
