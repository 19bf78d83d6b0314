"""Walk over the elements of an encoded data set without decoding their values.

Bytes enter, the raw values of a few wanted elements leave. It knows well-formed encodings only and
says so where it meets another; ``index.py``, its caller, then asks pydicom, which is six times
slower and forgives more. ``framegroups.py`` goes on where the functional groups begin.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from osteon.errors import UnparseableError

ELEMENTS_MAX = 20_000  # Those of nested items included, as far as they must be walked.
DEPTH_MAX = 16
UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD  # Of group FFFE, PS3.5 7.5
# PS3.5 7.1.2: a length of two bytes, or two reserved bytes and a length of four.
SHORT_VR = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


class End(Enum):
    """Where a walk ended."""

    WHOLE = "at the group that it should reach, or between two elements at the end of the bytes"
    CUT = "in the middle of an element: there are more bytes to come"
    ODD = "at an encoding that it does not know"


@dataclass
class Walk:
    """What was found, and where the walk ended.

    Attributes
    ----------
    at : int
        Of one that ended between two elements: where the next one begins, in bytes.
    left : int
        How many more elements may be walked over.
    """

    values: dict[int, bytes] = field(default_factory=dict)
    end: End = End.WHOLE
    at: int = 0
    left: int = ELEMENTS_MAX


class CutError(Exception):
    """The bytes end in the middle of an element."""


class OddError(Exception):
    """An encoding that a walker does not know."""


def walk(
    data: bytes, wanted: frozenset[int], *, until_group: int, implicit: bool, little: bool
) -> Walk:
    """Collect the raw values of wanted elements of the data set itself, not of its items.

    Parameters
    ----------
    data : bytes
        The data set, or its first part.
    wanted : set of int
        Tags, as group << 16 | element.
    until_group : int
        The walk ends before the first element of this group or a higher one.
    implicit, little : bool
        Implicit VR; little endian.

    Raises
    ------
    UnparseableError
        More than `ELEMENTS_MAX` elements.

    References
    ----------
    DICOM PS3.5 7.1 and 7.5
    """
    found = Walk()
    try:
        walker = Walker(data, implicit=implicit, little=little)
        found.at = walker.collect(found.values, wanted, until_group)
        found.left = walker.left
    except CutError:
        found.end = End.CUT
    except OddError:
        found.end = End.ODD
    return found


class Walker:
    """Goes over the elements of some bytes; all that it does together is limited.

    Parameters
    ----------
    data, implicit, little
        As `walk` takes them.
    left : int
        How many elements it may go over.
    """

    def __init__(
        self, data: bytes, *, implicit: bool, little: bool, left: int = ELEMENTS_MAX
    ) -> None:
        order = "<" if little else ">"
        self._data = data
        self._implicit = implicit
        self._explicit_header = struct.Struct(order + "HH2sH").unpack_from
        self._implicit_header = struct.Struct(order + "HHI").unpack_from
        self._length = struct.Struct(order + "I").unpack_from
        self.left = left

    def collect(self, values: dict[int, bytes], wanted: frozenset[int], until_group: int) -> int:
        """Collect the wanted values and return the place where the walk ended; see `walk`.

        Raises
        ------
        CutError, OddError
            It ends elsewhere than between two elements.
        UnparseableError
            Too many elements.
        """
        data, end, at = self._data, len(self._data), 0
        explicit, read = not self._implicit, self._explicit_header
        while at + 8 <= end:
            # What `_header` does, without a call for each element of the most frequent kind.
            if explicit and self.left > 0 and data[at + 4 : at + 6] in SHORT_VR:
                group, element, _, length = read(data, at)
                start = at + 8
                self.left -= 1
            else:
                group, element, start, length = self.header(at)
            if group >= until_group:
                return at
            tag = group << 16 | element
            if length == UNDEFINED:
                if tag in wanted:
                    raise OddError
                at = self._after_sequence(start, at, DEPTH_MAX)
                continue
            at = start + length
            if tag in wanted:
                if at > end:
                    raise CutError
                values[tag] = data[start:at]
        if at != end:
            raise CutError
        return at

    def elements(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield tag, and first and last place of the value, of the elements between two places.

        Raises
        ------
        CutError, OddError, UnparseableError
            As `collect`.
        """
        while at + 8 <= end:
            group, element, start, length = self.header(at)
            at = self.after(at, start, length)
            yield group << 16 | element, start, at
        if at != end:
            raise CutError

    def first_item(self, start: int) -> tuple[int, int]:
        """Return first and last place of the first item of a sequence whose value starts here.

        Raises
        ------
        CutError
            More bytes are to come.
        OddError
            There is none.
        UnparseableError
            Too many elements.

        References
        ----------
        DICOM PS3.5 7.5
        """
        group, element, at, length = self._header(start, implicit=True)
        if (group, element) != (0xFFFE, _ITEM):
            raise OddError
        end = self._after_item(at, DEPTH_MAX) - 8 if length == UNDEFINED else at + length
        if end > len(self._data):
            raise CutError
        return at, end

    def after(self, at: int, start: int, length: int) -> int:
        """Return the place after the element that starts here, of which `header` told the rest."""
        return self._after_sequence(start, at, DEPTH_MAX) if length == UNDEFINED else start + length

    def header(self, at: int) -> tuple[int, int, int, int]:
        """Return group, element, place and length of the value of the element that starts here."""
        return self._header(at, implicit=self._implicit)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise UnparseableError(f"a header of more than {ELEMENTS_MAX} elements")

    def _header(self, at: int, *, implicit: bool) -> tuple[int, int, int, int]:
        self._count()
        try:
            if implicit:
                group, element, length = self._implicit_header(self._data, at)
                return group, element, at + 8, length
            group, element, vr, length = self._explicit_header(self._data, at)
            if vr in SHORT_VR:
                return group, element, at + 8, length
            if vr in LONG_VR:
                return group, element, at + 12, self._length(self._data, at + 8)[0]
        except struct.error:
            raise CutError from None
        raise OddError

    def _after_sequence(self, start: int, header_at: int, depth: int) -> int:
        """Return the place after a value of undefined length: items, then a delimiter."""
        # Of an explicit VR element UN the items are in implicit VR, PS3.5 6.2.2; seldom enough.
        if depth == 0 or self._data[header_at + 4 : header_at + 6] == b"UN":
            raise OddError
        at = start
        while True:
            group, element, at, length = self._header(at, implicit=True)
            if group != 0xFFFE or element not in {_ITEM, _SEQUENCE_END}:
                raise OddError
            if element == _SEQUENCE_END:
                return at
            at = self._after_item(at, depth) if length == UNDEFINED else at + length

    def _after_item(self, at: int, depth: int) -> int:
        while True:
            if self._data[at : at + 2] in {b"\xfe\xff", b"\xff\xfe"}:
                group, element, start, _ = self._header(at, implicit=True)
                if (group, element) != (0xFFFE, _ITEM_END):
                    raise OddError
                return start
            _, _, start, length = self._header(at, implicit=self._implicit)
            undefined = length == UNDEFINED
            at = self._after_sequence(start, at, depth - 1) if undefined else start + length
