"""pydicom on bytes of which nobody knows what they are: it reads as far as it can, or says why not.

Bytes enter, a data set that pydicom reads or an `UnparseableError` leaves. Called by
`osteon.pipeline.instances.index` for headers that its own walk leaves to pydicom.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from pydicom import config
from pydicom.errors import BytesLengthException, InvalidDicomError

from osteon.errors import UnparseableError
from osteon.pipeline.instances.elements import ELEMENTS_MAX

# What pydicom raises on bytes that are no data set; it has no one exception for that.
UNREADABLE = (
    ArithmeticError,
    AttributeError,
    AssertionError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
# Its validation mode and Python's warning filters belong to the whole process.
_lock = threading.Lock()


class MeteredBytes(BytesIO):
    """Bytes in memory that end a parser's work on very many elements."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._reads_left = 4 * ELEMENTS_MAX  # Tag, VR or length, value; items have more.

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file, so and so often."""
        self._reads_left -= 1
        if self._reads_left < 0:
            raise InvalidDicomError(f"a header of more than {ELEMENTS_MAX} elements")
        return super().read(size)


@contextmanager
def parsing(what: str) -> Iterator[None]:
    """Let pydicom read as far as it can, silently, and map what it raises.

    Parameters
    ----------
    what : str
        What it reads, for the message.

    Raises
    ------
    UnparseableError
        It is no data set.
    """
    try:
        with _lock, warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except UNREADABLE as error:
        raise UnparseableError(f"not a data set ({what}): {error}") from error
