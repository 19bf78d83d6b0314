"""Files written in whole blocks, past the page cache, from memory that is used again and again.

Parts of any length enter in order, blocks leave for the disk. Pages of the kernel's cache cost more
than the disk itself: each has to be found, cleared and filled before anything is written, and an
instance of a series that nobody asks for is never read again. Where a file system takes no direct
I/O, the same blocks go through the cache. Used by ``drafts.py``.
"""

import errno
import fcntl
import mmap
import os
from collections import deque
from pathlib import Path
from typing import Self

from blake3 import blake3

BLOCK_BYTES = 4096  # Devices ask for 512 or 4,096, and no file system for more.
SLAB_BYTES = 2**20  # A CT slice of 512 by 512 is half of it.
SLABS_KEPT_MAX = 32
DIRECT = getattr(os, "O_DIRECT", 0)  # Linux


class Slabs:
    """Memory for blocks, aligned to pages as direct I/O needs it."""

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque()

    def take(self) -> mmap.mmap:
        """Return a piece of `SLAB_BYTES`; what is in it has no meaning."""
        try:
            return self._free.pop()
        except IndexError:
            return mmap.mmap(-1, SLAB_BYTES)

    def give_back(self, slab: mmap.mmap) -> None:
        """Keep a piece for the next who needs one."""
        if len(self._free) < SLABS_KEPT_MAX:
            self._free.append(slab)


class BlockWriter:
    """Write one file from its start to its end.

    Parameters
    ----------
    descriptor : int
        An empty file, open for writing; it is the writer's to close.
    slabs : Slabs
        Where memory is taken from.
    is_direct : bool
        Whether the descriptor was opened with `DIRECT`.

    Attributes
    ----------
    size : int
        Bytes taken so far.

    Raises
    ------
    OSError
        By every method: the disk is full or fails.
    """

    def __init__(self, descriptor: int, slabs: Slabs, *, is_direct: bool = False) -> None:
        self.size = 0
        self._descriptor = descriptor
        self._is_direct = is_direct
        self._slabs = slabs
        self._slab: mmap.mmap | None = None
        self._held = 0
        self._hash: blake3 | None = None
        self._hashed = 0

    @classmethod
    def create(cls, path: Path, slabs: Slabs, *, direct: bool) -> Self:
        """Make a file that does not exist yet, and write it.

        Parameters
        ----------
        direct : bool
            Whether to write past the page cache, where the file system takes it.

        Raises
        ------
        FileExistsError
            It does.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        if not (direct and DIRECT):
            return cls(os.open(path, flags, 0o600), slabs)
        try:
            descriptor = os.open(path, flags | DIRECT, 0o600)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Some file systems make the file before they say that they take no direct I/O.
            return cls(os.open(path, flags & ~os.O_EXCL, 0o600), slabs)
        return cls(descriptor, slabs, is_direct=True)

    def write(self, part: bytes | memoryview) -> None:
        """Append a part; its memory may be used again afterwards."""
        view = memoryview(part).cast("B")
        while view:
            room = self.room(len(view))
            count = len(room)
            room[:] = view[:count]
            self.filled(count)
            view = view[count:]

    def room(self, count: int) -> memoryview:
        """Return where the next bytes shall be put: room for at most so many, at least for one."""
        if self._slab is None:
            self._slab = self._slabs.take()
        return memoryview(self._slab)[self._held : min(self._held + count, SLAB_BYTES)]

    def filled(self, count: int) -> None:
        """Append what was put where `room` said."""
        self._held += count
        self.size += count
        if self._held == SLAB_BYTES:
            self._flush()

    def hash_from_here(self) -> None:
        """Hash whatever is written from now on."""
        self._hash, self._hashed = blake3(), self._held

    def digest(self) -> bytes:
        """Return the BLAKE3 hash of what was written since `hash_from_here`."""
        self._update()
        assert self._hash is not None
        return self._hash.digest()

    def overwrite(self, at: int, part: bytes) -> None:
        """Replace a few bytes that were written before, near the start of the file."""
        if self.size - self._held:
            self._go_by_cache()
            if os.pwrite(self._descriptor, part, at) != len(part):
                raise OSError(errno.EIO, f"{len(part)} bytes could not be replaced")
        else:
            assert self._slab is not None
            self._slab[at : at + len(part)] = part

    def sync(self) -> None:
        """Put on the disk what was written; nothing can be written any more."""
        self._flush()
        os.fdatasync(self._descriptor)
        self.close()

    def close(self) -> None:
        """Leave the file as it is; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if self._slab is not None:
            self._slabs.give_back(self._slab)
            self._slab = None
        if descriptor >= 0:
            os.close(descriptor)

    def _update(self) -> None:
        """Hash what is held; many bytes at once, since each call lets other threads run."""
        if self._hash is not None and self._hashed < self._held:
            assert self._slab is not None
            with memoryview(self._slab) as slab:
                self._hash.update(slab[self._hashed : self._held])
            self._hashed = self._held

    def _flush(self) -> None:
        if self._slab is None:  # Nothing was written.
            return
        self._update()
        held, self._held, self._hashed = self._held, 0, 0
        whole = held - held % BLOCK_BYTES
        with memoryview(self._slab) as slab:
            self._put(slab[:whole])
            if whole < held:  # The end of the file is no whole block.
                self._go_by_cache()
                self._put(slab[whole:held])

    def _put(self, view: memoryview) -> None:
        while view:
            try:
                written = os.write(self._descriptor, view)
            except OSError as error:
                # Some file systems say so only now, or want larger blocks.
                if error.errno != errno.EINVAL or not self._go_by_cache():
                    raise
                written = 0
            view = view[written:]

    def _go_by_cache(self) -> bool:
        """Have the kernel take anything from now on, and return whether it did not before."""
        was_direct, self._is_direct = self._is_direct, False
        if was_direct:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, 0)  # O_DIRECT is the one flag that is set.
        return was_direct
