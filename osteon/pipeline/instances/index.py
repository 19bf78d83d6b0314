"""Read once, from bytes in memory, what the route needs to know of an instance.

The bytes of a data set enter, as they come; a `Header` leaves as soon as the pixels are reached.
Intake puts it on record, so that nobody opens the file again to sort a series. Pixel data is never
touched.
"""

import re
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from osteon.errors import InvalidUIDError, UnparseableError
from osteon.pipeline.images.extent import Extent
from osteon.pipeline.instances import framegroups
from osteon.pipeline.instances.elements import ELEMENTS_MAX, End, Walk, walk
from osteon.pipeline.instances.framegroups import FrameGroups
from osteon.pipeline.instances.parsing import UNREADABLE, MeteredBytes, parsing

HEADER_BYTES_MAX = 8 * 2**20  # Of a deflated data set, inflated; no header is longer.
_HEADER_BYTES = 16 * 1024  # Most are shorter; where not, four times as much is looked at next.
VALUE_CHARACTERS_MAX = 256
# Functional groups of multi-frame instances, waveforms, pixels: of these, routes are told of what
# the former say of the first frame.
_BULK_GROUP = framegroups.GROUP
# As text, since pydicom's UIDs compare ten times slower.
_IMPLICIT, _BIG_ENDIAN = str(ImplicitVRLittleEndian), str(ExplicitVRBigEndian)
_DEFLATED = str(DeflatedExplicitVRLittleEndian)
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
_TAGS = {keyword: tag_for_keyword(keyword) or 0 for keyword in _KEYWORDS}
_WANTED = frozenset(_TAGS.values())
# The default repertoire, which means the same in every character set (PS3.5 6.1).
_PLAIN = re.compile(rb"[ -~\0]*")
# Values that routes may ask for are kept; binary and sequence values are not.
_EMPTY = (None, "")
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
    _head: "_Head" = field(repr=False, compare=False)

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """Keyword → its values as text, of every plain element before the pixels; for routes.

        Of a multi-frame instance what its functional groups say of its first frame is among them.
        An element whose value cannot be read is left out: the instance is none the worse for it.
        """
        found = {}
        with parsing("values"):
            ds, at = self._head.parse()
            for tag in sorted(ds.keys()):
                keyword = keyword_for_tag(tag)
                # To look at a sequence is to parse it, however many elements it has.
                if not keyword or dictionary_VR(tag) == "SQ":
                    continue
                try:
                    element = ds[tag]
                    if element.VR not in _LEFT_OUT_VR and element.value not in _EMPTY:
                        found[keyword] = _texts(element.value)
                except UNREADABLE:
                    continue
        of_frame = self._head.of_first_frame(at)
        image_type = {"ImageType": of_frame["FrameType"]} if "FrameType" in of_frame else {}
        return image_type | found | of_frame


class HeaderReader:
    """Take the bytes of a data set as they come; its header is known before the pixels are.

    Parameters
    ----------
    transfer_syntax_uid : str
        How the data set is encoded.
    """

    def __init__(self, transfer_syntax_uid: str) -> None:
        self._syntax = str(transfer_syntax_uid)
        self._held = bytearray()
        self._enough = _HEADER_BYTES
        self._is_known = False
        self._extent: Extent | None = None

    def feed(self, part: bytes | memoryview) -> Header | None:
        """Take the next bytes and return the header as soon as enough of them have come.

        What is needed of them is copied.

        Raises
        ------
        UnparseableError
            The bytes are no data set, or a UID that identifies the instance is missing.
        InvalidUIDError
            One of these UIDs breaks PS3.5 9.1.
        """
        header, at = None, 0
        while at < len(part) and not self._is_known:
            taken = part[at : at + self._enough - len(self._held)]
            self._held += taken
            at += len(taken)
            if len(self._held) == self._enough:
                header = self._attempt()
                self._enough = min(4 * self._enough, HEADER_BYTES_MAX)
        if self._extent is not None and at < len(part):
            self._extent.follow(part[at:])
        return header

    def finish(self) -> Header:
        """Return the header, since no more bytes will come; errors as in `feed`."""
        head = _Head(self._inflated(), self._syntax)
        return self._read(head, head.walk())

    def end(self) -> None:
        """Take the end of the data set, after its header.

        Raises
        ------
        UnparseableError
            It ends in the middle of a value.
        """
        if self._extent is not None:
            self._extent.end()

    def _attempt(self) -> Header | None:
        head = _Head(self._inflated(), self._syntax)
        found = head.walk()
        is_whole = found.end is End.WHOLE and not head.groups(found.at, found.left).is_cut()
        is_enough = is_whole or self._enough == HEADER_BYTES_MAX
        return self._read(head, found) if is_enough else None

    def _read(self, head: "_Head", found: Walk) -> Header:
        self._is_known = True
        if found.end is End.WHOLE and self._syntax != _DEFLATED:
            self._extent = Extent(found.at, implicit=head.implicit, little=head.little)
            self._extent.follow(head.raw)
        texts = _plain_texts(found)
        if texts is None:
            with parsing(f"transfer syntax {self._syntax}"):
                ds, _ = head.parse()
                texts = {keyword: _texts(ds.get(keyword)) for keyword in _KEYWORDS}
        return _header(texts, head)

    def _inflated(self) -> bytes:
        if self._syntax != _DEFLATED:
            return bytes(self._held)
        try:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return inflate.decompress(self._held, HEADER_BYTES_MAX)
        except zlib.error as error:
            raise UnparseableError(f"not a deflated data set: {error}") from error


def read_header(dataset: bytes | memoryview, transfer_syntax_uid: str) -> Header:
    """Read the header of a whole data set.

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
    reader = HeaderReader(transfer_syntax_uid)
    return reader.feed(dataset) or reader.finish()


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
    return None if numbers is None else f"[{', '.join(map(repr, numbers))}]"


@dataclass(frozen=True)
class _Head:
    """The first bytes of a data set, and how they are encoded."""

    raw: bytes
    syntax: str

    @property
    def implicit(self) -> bool:
        """Whether elements have no VR (PS3.5 7.1.3)."""
        return self.syntax == _IMPLICIT

    @property
    def little(self) -> bool:
        """Whether numbers begin with their lowest byte (PS3.5 7.3)."""
        return self.syntax != _BIG_ENDIAN

    def walk(self) -> Walk:
        """Find what is wanted without pydicom."""
        return walk(
            self.raw,
            _WANTED,
            until_group=_BULK_GROUP,
            implicit=self.implicit,
            little=self.little,
        )

    def parse(self) -> tuple[Dataset, int]:
        """Parse it with pydicom, and say where what is bulk begins; call it within `parsing`."""
        file = MeteredBytes(self.raw)
        ds = read_dataset(
            file,
            is_implicit_VR=self.implicit,
            is_little_endian=self.little,
            stop_when=_is_bulk,
        )
        return ds, file.tell()

    def groups(self, at: int, elements_max: int) -> FrameGroups:
        """Return the functional groups that begin at a place."""
        return FrameGroups(
            self.raw, at, implicit=self.implicit, little=self.little, elements_max=elements_max
        )

    def of_first_frame(self, at: int) -> dict[str, list[str]]:
        """Return what the functional groups, which begin at a place, say of the first frame."""
        found = self.groups(at, ELEMENTS_MAX).values()
        plain = {k: raw.decode("ascii") for k, raw in found.items() if _PLAIN.fullmatch(raw)}
        return {k: _texts(text.split("\\")) for k, text in plain.items() if text.strip(" \0")}


def _is_bulk(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001 - pydicom's call
    return tag.group >= _BULK_GROUP


def _plain_texts(found: Walk) -> dict[str, list[str]] | None:
    """Return the values as text, or None where pydicom has to say what they are."""
    if found.end is not End.WHOLE or not all(map(_PLAIN.fullmatch, found.values.values())):
        return None
    raw = {keyword: found.values.get(tag, b"").decode("ascii") for keyword, tag in _TAGS.items()}
    return {k: _texts(text.split("\\")) if text else [] for k, text in raw.items()}


def _header(texts: dict[str, list[str]], head: _Head) -> Header:
    return Header(
        sop_class_uid=_required_uid(texts, "SOPClassUID"),
        sop_instance_uid=_required_uid(texts, "SOPInstanceUID"),
        series_instance_uid=_required_uid(texts, "SeriesInstanceUID"),
        study_instance_uid=_required_uid(texts, "StudyInstanceUID"),
        instance_number=_integer(texts["InstanceNumber"]),
        position_mm=_floats(texts["ImagePositionPatient"], 3),
        orientation=_floats(texts["ImageOrientationPatient"], 6),
        modality=_first(texts["Modality"]),
        accession_number=_first(texts["AccessionNumber"]),
        patient_id=_first(texts["PatientID"]),
        _head=head,
    )


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    many = value if isinstance(value, list | tuple | MultiValue) else [value]
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
