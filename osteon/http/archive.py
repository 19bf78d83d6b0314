"""Read an uploaded zip without trusting it: its directory, its sizes and its ratio have limits.

A file enters, its members leave one at a time; ``upload.py`` calls it. Only names that are shown
come out, and none ever becomes a path.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from http import HTTPStatus
from typing import IO, BinaryIO

from starlette.exceptions import HTTPException

from osteon.errors import UnparseableError

ENTRIES_MAX = 50_000
DIRECTORY_BYTES_MAX = 8 * 2**20  # zipfile holds the whole directory in memory.
RATIO_MAX = 100  # CT deflates to a half, a mask to a fiftieth; a bomb to a thousandth.
RATIO_FREE_BYTES = 256 * 2**20  # Below this much, no ratio is too high.
CHUNK_BYTES = 2**20
# LZMA lets a member name the gigabytes of memory that reading it takes, and nobody zips so.
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED = 0x1


def open_archive(file: BinaryIO, size: int, *, inflated_max: int) -> zipfile.ZipFile:
    """Open an uploaded zip, if it keeps to the limits.

    Parameters
    ----------
    size : int
        Size of the file in bytes.
    inflated_max : int
        What all its members may come to, in bytes.

    Raises
    ------
    UnparseableError
        It is not a whole zip.
    HTTPException
        413: too many entries, too large when inflated, or inflated by too high a ratio.
    """
    file.seek(0)
    try:
        archive = zipfile.ZipFile(_BoundedReads(file, size))
    # What zipfile raises on bytes that are no zip has no one name.
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise UnparseableError(f"not a whole zip: {error}") from error
    entries = archive.infolist()
    if len(entries) > ENTRIES_MAX:
        raise _too_large(f"the zip has {len(entries)} entries and {ENTRIES_MAX} are the limit")
    inflated = sum(entry.file_size for entry in entries)
    if inflated > inflated_max:
        raise _too_large(
            f"the zip inflates to {inflated} bytes and {inflated_max} are the limit: split it"
        )
    if inflated > max(RATIO_FREE_BYTES, RATIO_MAX * size):
        raise _too_large(
            f"the zip inflates from {size} to {inflated} bytes, more than {RATIO_MAX} times"
        )
    return archive


def refusal_of(entry: zipfile.ZipInfo) -> str | None:
    """Return why a member cannot be read, or None."""
    if entry.flag_bits & _ENCRYPTED:
        return "encrypted: send it without a password"
    if entry.compress_type not in _METHODS:
        return f"compression method {entry.compress_type}: use deflate"
    return None


def inflate(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """Return a member's bytes in chunks of at most 1 MiB, not more of them than it declares.

    Raises
    ------
    UnparseableError
        It is damaged.
    """
    try:
        with archive.open(entry) as member:
            yield from iter(lambda: member.read(CHUNK_BYTES), b"")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UnparseableError(f"damaged in the zip: {error}") from error


class _BoundedReads(io.RawIOBase):
    """A file that refuses pieces larger than a zip's directory may be, and places outside of it.

    A directory that is damaged names both; the system's own error would look like a broken disk.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size

    def seekable(self) -> bool:
        """Whether places can be gone to: always."""
        return True

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; one that the file does not have is a fault of the zip."""
        if whence == io.SEEK_SET and not 0 <= offset <= self._size:
            raise zipfile.BadZipFile(f"its directory names the place {offset}")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the present place."""
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes; more than a directory may have are a fault of the zip."""
        limit = DIRECTORY_BYTES_MAX + 1
        piece = self._file.read(limit if size is None or size < 0 else min(size, limit))
        if len(piece) == limit:
            raise zipfile.BadZipFile(f"its directory is larger than {DIRECTORY_BYTES_MAX} bytes")
        return piece


def _too_large(detail: str) -> HTTPException:
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
