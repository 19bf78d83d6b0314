"""What the functional groups of a multi-frame instance say of its first frame.

The first bytes of a data set enter, and where its functional groups begin; a few values leave as
they are encoded. Routes ask for them by the same keywords as of single frames. Of a thousand frames
one item is looked at, and nothing is decoded. Called by ``index.py``.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress

from pydicom.datadict import tag_for_keyword

from osteon.errors import UnparseableError
from osteon.pipeline.instances.elements import ELEMENTS_MAX, CutError, OddError, Walker

GROUP = 0x5200
_SHARED, _PER_FRAME = 0x5200_9229, 0x5200_9230
# The macros, and what of them is told: all of it text of the default repertoire.
_MACROS = {
    "PixelMeasuresSequence": ("SliceThickness", "PixelSpacing", "SpacingBetweenSlices"),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
}
_WANTED = {
    tag_for_keyword(macro): {tag_for_keyword(keyword): keyword for keyword in keywords}
    for macro, keywords in _MACROS.items()
}


class FrameGroups:
    """The functional groups of one multi-frame instance, as far as its first frame goes.

    Parameters
    ----------
    raw : bytes
        The data set, or its first part.
    at : int
        Where its first element of group 5200 or higher begins.
    implicit, little : bool
        Implicit VR; little endian.
    elements_max : int
        How many elements may be walked over.

    References
    ----------
    DICOM PS3.3 C.7.6.16 (Multi-frame Functional Groups)
    """

    def __init__(
        self,
        raw: bytes,
        at: int,
        *,
        implicit: bool,
        little: bool,
        elements_max: int = ELEMENTS_MAX,
    ) -> None:
        self._raw = raw
        self._at = at
        self._group = struct.pack("<H" if little else ">H", GROUP)
        self._walker = Walker(raw, implicit=implicit, little=little, left=elements_max)

    def is_cut(self) -> bool:
        """Return whether the groups of the first frame go on beyond the bytes at hand."""
        try:
            list(self._groups())
        except CutError:
            return True
        except (OddError, UnparseableError):
            pass  # More bytes would not help.
        return False

    def values(self) -> dict[str, bytes]:
        """Return keyword → value of what is wanted; what cannot be read is left out."""
        found: dict[str, bytes] = {}
        groups: list[tuple[int, int]] = []
        with suppress(CutError, OddError, UnparseableError):
            groups.extend(self._groups())
        for at, end in groups:
            with suppress(CutError, OddError, UnparseableError):
                # What the frame says of itself comes last, and counts.
                found.update(self._of_macros(at, end))
        return found

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Yield first and last place of the shared item, then of the first frame's."""
        at = self._at
        while self._raw[at : at + 2] == self._group:
            group, element, start, length = self._walker.header(at)
            tag = group << 16 | element
            if tag in {_SHARED, _PER_FRAME}:
                yield self._walker.first_item(start)
            if tag == _PER_FRAME:
                return
            at = self._walker.after(at, start, length)
        if at + 2 > len(self._raw):
            raise CutError  # It may go on with the frames' own.

    def _of_macros(self, at: int, end: int) -> Iterator[tuple[str, bytes]]:
        for macro, start, _ in self._walker.elements(at, end):
            wanted = _WANTED.get(macro)
            if wanted is None:
                continue
            for tag, first, last in self._walker.elements(*self._walker.first_item(start)):
                if tag in wanted:
                    yield wanted[tag], self._raw[first:last]
