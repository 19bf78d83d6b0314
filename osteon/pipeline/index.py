"""Read once, from bytes in memory, what the route needs to know of an instance.

The bytes of a data set enter, a `Header` leaves; intake puts it on record, so that nobody opens the
file again to sort a series. Pixel data is never touched.
"""

import json
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import keyword_for_tag
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from osteon.errors import InvalidUIDError, UnparseableError

HEADER_BYTES_MAX = 8 * 2**20  # Of a deflated data set, inflated; no header is longer.
VALUE_CHARACTERS_MAX = 256
_PIXEL_GROUP = 0x7FE0
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Modality",
    "AccessionNumber",
    "PatientID",
)
# Values that routes may ask for are kept; binary and sequence values are not.
_EMPTY = (None, "")
# What pydicom raises on bytes that are no data set; it has no one exception for that.
_UNREADABLE = (
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
_LEFT_OUT_VR = frozenset({"SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN", "UT", "LT", "ST"})


@dataclass(frozen=True)
class Header:
    """What is known of one instance.

    Attributes
    ----------
    position_mm : tuple of 3 float, or None
        Image Position (Patient), PS3.3 C.7.6.2.
    orientation : tuple of 6 float, or None
        Image Orientation (Patient), PS3.3 C.7.6.2.
    modality, accession_number, patient_id : str
        Empty where absent.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    instance_number: int | None
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    modality: str
    accession_number: str
    patient_id: str
    _ds: Dataset = field(repr=False, compare=False)

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """Keyword → its values as text, of every plain element before the pixels; for routes.

        An element whose value cannot be read is left out: the instance is none the worse for it.
        """
        found = {}
        with _unreadable_mapped("values"):
            for tag in sorted(self._ds.keys()):
                keyword = keyword_for_tag(tag)
                try:
                    element = self._ds[tag]
                    if keyword and element.VR not in _LEFT_OUT_VR and element.value not in _EMPTY:
                        found[keyword] = _texts(element.value)
                except _UNREADABLE:
                    continue
        return found


def read_header(dataset: bytes | memoryview, transfer_syntax_uid: str) -> Header:
    """Read the header of a data set as it came over the network.

    Parameters
    ----------
    dataset : bytes
        The encoded data set, without preamble and File Meta Information.
    transfer_syntax_uid : str
        How it is encoded.

    Raises
    ------
    UnparseableError
        The bytes are no data set, or a UID that identifies the instance is missing.
    InvalidUIDError
        One of these UIDs breaks PS3.5 9.1.
    """
    with _unreadable_mapped(f"transfer syntax {transfer_syntax_uid}"):
        ds = _parse(dataset, transfer_syntax_uid)
        found = {keyword: _texts(ds.get(keyword)) for keyword in _KEYWORDS}
    return Header(
        sop_class_uid=_required_uid(found, "SOPClassUID"),
        sop_instance_uid=_required_uid(found, "SOPInstanceUID"),
        series_instance_uid=_required_uid(found, "SeriesInstanceUID"),
        study_instance_uid=_required_uid(found, "StudyInstanceUID"),
        instance_number=_integer(found["InstanceNumber"]),
        position_mm=_floats(found["ImagePositionPatient"], 3),
        orientation=_floats(found["ImageOrientationPatient"], 6),
        modality=_first(found["Modality"]),
        accession_number=_first(found["AccessionNumber"]),
        patient_id=_first(found["PatientID"]),
        _ds=ds,
    )


def check_uid(uid: str, name: str) -> str:
    """Return a UID, or refuse it.

    Leading zeros of a component are tolerated: PS3.5 9.1 forbids them, but archives are full of
    them, and they cannot name anything but an instance.

    Raises
    ------
    InvalidUIDError
        It is longer than 64 characters or has others than digits and dots.
    """
    if len(uid) > 64 or not _UID.fullmatch(uid):
        raise InvalidUIDError(f"{name} {uid[:80]!r} is no UID (PS3.5 9.1): digits and dots, ≤ 64")
    return uid


def to_json(numbers: tuple[float, ...] | None) -> str | None:
    """Write a position or orientation as the job table keeps it."""
    return None if numbers is None else json.dumps(numbers)


def _parse(dataset: bytes | memoryview, transfer_syntax_uid: str) -> Dataset:
    syntax = UID(transfer_syntax_uid)
    raw = bytes(dataset[:HEADER_BYTES_MAX])
    if syntax == DeflatedExplicitVRLittleEndian:
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, HEADER_BYTES_MAX)
    return read_dataset(
        BytesIO(raw),
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
        stop_when=_at_pixels,
    )


@contextmanager
def _unreadable_mapped(what: str) -> Iterator[None]:
    """Map what pydicom raises on bytes that are no data set."""
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except _UNREADABLE as error:
        raise UnparseableError(f"not a data set ({what}): {error}") from error


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001 - pydicom's call
    return tag.group >= _PIXEL_GROUP


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    many = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(v).strip(" \0")[:VALUE_CHARACTERS_MAX] for v in many[:64]]


def _first(values: list[str]) -> str:
    return values[0] if values else ""


def _required_uid(values: dict[str, list[str]], keyword: str) -> str:
    uid = _first(values[keyword])
    if not uid:
        raise UnparseableError(f"the data set has no {keyword}")
    return check_uid(uid, keyword)


def _integer(values: list[str]) -> int | None:
    try:
        number = int(float(values[0])) if values else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and abs(number) < 2**31 else None


def _floats(values: list[str], count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(v) for v in values)
    except ValueError:
        return None
    finite = all(abs(n) < 1e6 for n in numbers)
    return numbers if len(numbers) == count and finite else None
