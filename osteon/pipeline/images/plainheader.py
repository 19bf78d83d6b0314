"""A header in the encoding that nearly every CT has, read without pydicom, in a sixth of its time.

The first bytes of a Part 10 file enter; the values that `header.py` asks for leave, and where Pixel
Data begins. What is encoded otherwise, has functional groups or is damaged is for pydicom: nothing
is said of it here. What both can read has the same values; items that nobody asks for are passed
over here and parsed there, so that damage within them is not noticed.
"""

import re
from typing import BinaryIO, NamedTuple

from pydicom.datadict import tag_for_keyword
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from osteon.errors import UnparseableError
from osteon.pipeline.images.pixels import GDCM_ONLY, NATIVE, PYDICOM_PLUGINS
from osteon.pipeline.instances.elements import End, walk

FIRST_BYTES = 2**13  # Most headers end here.
BYTES_MAX = 2**20
# What follows the preamble, PS3.10 7.1: the prefix, and the length of the File Meta Information.
_META, META_AT = b"DICM\x02\x00\x00\x00UL\x04\x00", 144
_PIXEL_GROUP, _PIXEL_DATA = 0x7FE0, b"\xe0\x7f\x10\x00"
_SYNTAXES = (NATIVE | PYDICOM_PLUGINS.keys() | GDCM_ONLY) - {
    DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
}  # fmt: skip
# By their value in a file, which has an even length.
_SYNTAX_OF = {syntax.encode() + b"\0" * (len(syntax) % 2): syntax for syntax in _SYNTAXES}
# pydicom looks at it first, and stumbles over what is none.
_CHARACTER_SET = re.compile(rb"[\w \\-]*")


def _tags(keywords: str) -> frozenset[int]:
    return frozenset(tag for word in keywords.split() if (tag := tag_for_keyword(word)) is not None)


VALUES = _tags(
    "BitsAllocated BitsStored Columns FrameOfReferenceUID HighBit ImageOrientationPatient "
    "ImagePositionPatient ImageType InstanceNumber NumberOfFrames PatientID "
    "PhotometricInterpretation PixelPaddingRangeLimit PixelPaddingValue PixelRepresentation "
    "PixelSpacing RescaleIntercept RescaleSlope RescaleType Rows SOPClassUID SOPInstanceUID "
    "SamplesPerPixel SeriesInstanceUID StudyInstanceUID"
)
_GROUPS = _tags("PerFrameFunctionalGroupsSequence SharedFunctionalGroupsSequence")
_NAME, _CHARACTERS = 0x00020010, 0x00080005  # Transfer Syntax UID, Specific Character Set
_SYNTAX = frozenset({_NAME})
_WANTED = VALUES | _GROUPS | {_CHARACTERS}


class PlainHeader(NamedTuple):
    """What the header of a file says.

    Attributes
    ----------
    values : dict of int to bytes
        As they stand in the file, little endian, by tag: those of `VALUES` that are there.
    transfer_syntax_uid : UID
        Transfer Syntax UID.
    offset : int
        Where Pixel Data (7FE0,0010) begins in the file, in bytes.
    """

    values: dict[int, bytes]
    transfer_syntax_uid: UID
    offset: int


def read_plain(file: BinaryIO) -> PlainHeader | None:
    """Read the header of a file that stands at its beginning.

    Returns
    -------
    PlainHeader, optional
        None where pydicom must read it: it is not plain, or no CT image that can be read.

    References
    ----------
    DICOM PS3.10 7.1, PS3.5 7.1
    """
    size, raw = FIRST_BYTES, b""
    while size <= BYTES_MAX:
        raw += file.read(size - len(raw))
        try:
            header, is_cut = _read(raw)
        except UnparseableError:
            return None
        if not is_cut or len(raw) < size:
            return header
        size *= 2
    return None


def _read(raw: bytes) -> tuple[PlainHeader | None, bool]:
    """Read the first bytes of a file, and say whether the header goes on after them."""
    start = META_AT + int.from_bytes(raw[META_AT - 4 : META_AT], "little")
    meta = walk(raw[META_AT:start], _SYNTAX, until_group=3, implicit=False, little=True)
    syntax = _SYNTAX_OF.get(meta.values.get(_NAME, b""))
    implicit = syntax == ImplicitVRLittleEndian
    if (
        not raw.startswith(_META, META_AT - len(_META) - 4)
        or syntax is None
        or meta.end is not End.WHOLE
        or not _begins_plainly(raw[start : start + 8], implicit)
    ):
        return None, False
    found = walk(raw[start:], _WANTED, until_group=_PIXEL_GROUP, implicit=implicit, little=True)
    offset, values = start + found.at, found.values
    if found.end is not End.WHOLE or offset + len(_PIXEL_DATA) > len(raw):
        return None, found.end is not End.ODD
    character_set = values.pop(_CHARACTERS, b"")
    if (
        not raw.startswith(_PIXEL_DATA, offset)
        or not _GROUPS.isdisjoint(values)
        or not _CHARACTER_SET.fullmatch(character_set)
    ):
        return None, False
    return PlainHeader(values, syntax, offset), False


def _begins_plainly(element: bytes, implicit: bool) -> bool:
    """Say whether the first element is of the data set, and encoded as the file says.

    pydicom takes an element that seems to have a VR for explicit VR, whatever the file says; and
    what is left of group 2 it counts as File Meta Information.
    """
    return int.from_bytes(element[:2], "little") > 2 and element[4:6].isalpha() != implicit
