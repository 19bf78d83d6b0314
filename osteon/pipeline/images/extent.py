"""See whether a data set is as long as its elements say, by following them to its end.

The bytes of a data set enter as they come; a refusal leaves where it ends in the middle of a value:
a file that was cut off, or a transfer that was. Used by ``index.py``. Only what is certain counts:
an encoding that it does not know, or whose length is not told, is followed no further.
"""

import struct

from osteon.errors import UnparseableError
from osteon.pipeline.instances.elements import ELEMENTS_MAX, LONG_VR, SHORT_VR, UNDEFINED

_HEADER_BYTES = 12  # The longest header of an element, PS3.5 7.1.2.
_PIXEL_DATA = (0x7FE0, 0x0010)
_ITEM, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)  # PS3.5 A.4


class Extent:
    """Follow the elements of a data set from a place on.

    Parameters
    ----------
    at : int
        Where an element begins, in bytes from the start of the data set.
    implicit, little : bool
        Implicit VR; little endian.
    """

    def __init__(self, at: int, *, implicit: bool, little: bool) -> None:
        order = "<" if little else ">"
        self._implicit = implicit
        self._short = struct.Struct(order + "HH2sH").unpack_from
        self._tag_length = struct.Struct(order + "HHI").unpack_from
        self._length = struct.Struct(order + "I").unpack_from
        self._next = at
        self._passed = 0
        self._carried = b""
        self._in_fragments = False
        self._left = ELEMENTS_MAX

    def follow(self, part: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the data set, from its start on."""
        begin, self._passed = self._passed, self._passed + len(part)
        while self._next < self._passed and self._left:
            at = max(0, self._next - begin)
            head = self._carried + bytes(part[at : at + _HEADER_BYTES - len(self._carried)])
            size = self._size_of(head)
            if size is None:
                self._carried = head
                return
            self._carried = b""
            self._next += size
            self._left -= 1

    def end(self) -> None:
        """Take the end of the data set.

        Raises
        ------
        UnparseableError
            It ends in the middle of a value.
        """
        if self._left and self._next > self._passed:
            raise UnparseableError(
                f"the data set is cut off: it has {self._passed} bytes and its elements"
                f" {self._next}"
            )

    def _size_of(self, head: bytes) -> int | None:
        """Return how far it is to the next header, or None where more of this one must come."""
        if len(head) < 8:
            return None
        group, element, length = self._tag_length(head)
        tag, header = (group, element), 8
        if self._in_fragments:
            self._in_fragments = tag != _SEQUENCE_END
            return self._skip(header, length, known=tag in {_ITEM, _SEQUENCE_END})
        if not self._implicit:
            vr = head[4:6]
            if vr in LONG_VR:
                if len(head) < _HEADER_BYTES:
                    return None
                header, length = 12, self._length(head, 8)[0]
            else:
                length = self._short(head)[3]
            if vr not in LONG_VR and vr not in SHORT_VR:
                return self._skip(header, length, known=False)
        if tag == _PIXEL_DATA and length == UNDEFINED:
            self._in_fragments = True
            return header
        return self._skip(header, length, known=True)

    def _skip(self, header: int, length: int, *, known: bool) -> int:
        if not known or length == UNDEFINED:
            self._left = 1  # This is the last one that is looked at.
            return header
        return header + length
