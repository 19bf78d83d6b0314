"""What the header of a CT instance says about its frames and its pixels.

A Part 10 file enters, a `SourceInstance` leaves: facts, nothing corrected and nothing decoded.
`volume.py` calls it. Reading is tolerant, since archives hold values padded with NULs, malformed
numbers and wrong VRs: an attribute that cannot be read is absent, and the geometry gate decides
whether a volume can do without it.
"""

import math
import re
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    LegacyConvertedEnhancedCTImageStorage,
)

from osteon.errors import VolumeError
from osteon.pipeline.geometry import FrameHeader, SourceFrame
from osteon.pipeline.pixels import NATIVE, PixelSource, mapped_errors

CT_IMAGES = frozenset(
    {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
)
# Rescale Type, PS3.3 C.8.2.1 and C.11.1.1.2. Absent it means HU in a CT image; US is unspecified,
# and what converters to multi-frame write where it was absent.
HOUNSFIELD_UNITS = frozenset({"", "HU", "US"})
GREYSCALE = frozenset({"MONOCHROME1", "MONOCHROME2"})  # differ in display alone, PS3.3 C.7.6.3.1.2
# A decimal string, PS3.5 6.2; Python's own reading takes 1_0, inf and nan too.
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
INTEGER_STRINGS = frozenset({"InstanceNumber", "NumberOfFrames"})
FRAMES_MAX = 2**16  # an enhanced CT of 65,536 slices; a larger number is a damaged one


@dataclass(frozen=True)
class SourceInstance:
    """One CT instance, as far as its header tells.

    Attributes
    ----------
    pixels : PixelSource
        Where its pixels are, and how they are encoded.
    frames : tuple of FrameHeader
        One for each frame, in the order of the pixel data.
    rescales : tuple of tuple of float or None
        (Rescale Slope, Rescale Intercept) of each frame; None where it has none.
    """

    pixels: PixelSource
    frames: tuple[FrameHeader, ...]
    rescales: tuple[tuple[float, float] | None, ...]


def read_header(path: Path) -> SourceInstance:
    """Read the header of one Part 10 file, up to its pixels.

    Parameters
    ----------
    path : Path
        The file; its name does not matter.

    Raises
    ------
    VolumeError
        The file is no Part 10 file, holds no pixels, or does not say how they are encoded.
    StageError
        The file cannot be read now.

    References
    ----------
    DICOM PS3.10 7 (DICOM File Format), PS3.3 C.7.6.16 (Multi-frame Functional Groups)
    """
    no_part_10 = f"{path.name} is no readable DICOM Part 10 file"
    with mapped_errors(no_part_10), path.open("rb") as file:
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        _refuse_other_objects(path, ds)
        syntax = UID(ds.file_meta.TransferSyntaxUID)
        return _instance(path, ds, syntax, _pixel_data_offset(path, syntax, file))


def _refuse_other_objects(path: Path, ds: Dataset) -> None:
    sop_class = UID(_text(ds, "SOPClassUID"))
    if sop_class not in CT_IMAGES:
        raise VolumeError(
            f"{path.name} is no CT image but: {sop_class.name or 'no SOP Class UID'}. "
            "Send the CT series alone"
        )


def _pixel_data_offset(path: Path, syntax: UID, file: BinaryIO) -> int:
    """Return where Pixel Data (7FE0,0010) begins; 0 where the data set must be inflated first."""
    if syntax == DeflatedExplicitVRLittleEndian:
        if "PixelData" in pydicom.dcmread(path):
            return 0
    else:
        offset = file.tell()
        tag = struct.pack(">HH" if syntax == ExplicitVRBigEndian else "<HH", 0x7FE0, 0x0010)
        if file.read(4) == tag:
            return offset
    raise VolumeError(f"{path.name} is a CT image without pixel data")


def _instance(path: Path, ds: Dataset, syntax: UID, offset: int) -> SourceInstance:
    number = _integer(ds, "InstanceNumber")
    name = path.name if number is None else f"image {number} ({path.name})"
    count = _integer(ds, "NumberOfFrames") or 1
    if not 1 <= count <= FRAMES_MAX:
        raise VolumeError(f"{name}: {count} is no possible Number of Frames")
    # Of a frame's attributes the functional groups speak first: its own, then the shared ones.
    per_frame = _items(ds, "PerFrameFunctionalGroupsSequence")
    shared = _items(ds, "SharedFunctionalGroupsSequence")[:1]
    if per_frame and len(per_frame) != count:
        raise VolumeError(
            f"{name}: {len(per_frame)} Per-Frame Functional Groups for {count} frames"
        )
    groups = [[item, *shared] for item in per_frame] or [shared] * count
    pixels = _pixel_source(path, name, ds, syntax, offset, count)
    _refuse_other_units(name, ds, groups)
    return SourceInstance(
        pixels=pixels,
        frames=tuple(_frame(path, ds, index, group) for index, group in enumerate(groups, 1)),
        rescales=tuple(_rescale(ds, group, pixels.pixel_representation) for group in groups),
    )


def _frame(path: Path, ds: Dataset, frame: int, groups: list[Dataset]) -> FrameHeader:
    frame_type = _texts(_macro("CTImageFrameTypeSequence", groups, ds), "FrameType")
    return FrameHeader(
        source=SourceFrame(path, frame, _text(ds, "SOPClassUID"), _text(ds, "SOPInstanceUID")),
        patient_id=_text(ds, "PatientID"),
        study_instance_uid=_text(ds, "StudyInstanceUID"),
        series_instance_uid=_text(ds, "SeriesInstanceUID"),
        frame_of_reference_uid=_text(ds, "FrameOfReferenceUID"),
        instance_number=frame if groups else _integer(ds, "InstanceNumber"),
        image_type=frame_type or _texts(ds, "ImageType"),
        samples_per_pixel=_integer(ds, "SamplesPerPixel") or 1,
        rows=_integer(ds, "Rows") or 0,
        columns=_integer(ds, "Columns") or 0,
        position_mm=_numbers(_macro("PlanePositionSequence", groups, ds), "ImagePositionPatient"),
        orientation=_numbers(
            _macro("PlaneOrientationSequence", groups, ds), "ImageOrientationPatient"
        ),
        pixel_spacing_mm=_numbers(_macro("PixelMeasuresSequence", groups, ds), "PixelSpacing"),
    )


def _pixel_source(
    path: Path, name: str, ds: Dataset, syntax: UID, offset: int, frames: int
) -> PixelSource:
    """Return how the pixels are encoded, or refuse what no decoder could make sense of."""
    bits_allocated = _integer(ds, "BitsAllocated") or 0
    bits_stored = _integer(ds, "BitsStored") or bits_allocated
    high_bit = _integer(ds, "HighBit")
    if high_bit is None:
        high_bit = bits_stored - 1
    pixel_representation = _integer(ds, "PixelRepresentation") or 0
    # Only native pixels of 16 bits were ever written with a high bit of another place.
    shifted = high_bit != bits_stored - 1
    if (
        bits_allocated not in (8, 16, 32)
        or not 1 <= bits_stored <= high_bit + 1 <= bits_allocated
        or (shifted and (bits_allocated != 16 or syntax not in NATIVE))
        or pixel_representation not in (0, 1)
    ):
        raise VolumeError(
            f"{name}: Bits Allocated {bits_allocated}, Bits Stored {bits_stored}, High Bit "
            f"{high_bit} and Pixel Representation {pixel_representation} describe no CT pixel"
        )
    photometric_interpretation = _text(ds, "PhotometricInterpretation") or "MONOCHROME2"
    if _integer(ds, "SamplesPerPixel") in (None, 1) and photometric_interpretation not in GREYSCALE:
        raise VolumeError(
            f"{name}: Photometric Interpretation is {photometric_interpretation}: its pixels are "
            "no grey values"
        )
    signed = pixel_representation == 1
    padding = _integer(ds, "PixelPaddingValue", signed=signed)
    limit = _integer(ds, "PixelPaddingRangeLimit", signed=signed)
    limit = padding if limit is None else limit
    return PixelSource(
        path=path,
        name=name,
        transfer_syntax_uid=syntax,
        offset=offset,
        frames=frames,
        rows=_integer(ds, "Rows") or 0,
        columns=_integer(ds, "Columns") or 0,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        pixel_representation=pixel_representation,
        photometric_interpretation=photometric_interpretation,
        padding=None
        if padding is None or limit is None
        else (min(padding, limit), max(padding, limit)),
    )


def _refuse_other_units(name: str, ds: Dataset, groups: list[list[Dataset]]) -> None:
    """Refuse grey values of which the scanner says that they are no Hounsfield units."""
    for group in groups:
        units = _text(_macro("PixelValueTransformationSequence", group, ds), "RescaleType").upper()
        if units not in HOUNSFIELD_UNITS:
            raise VolumeError(
                f"{name}: Rescale Type is {units}, not HU: its grey values are no Hounsfield "
                "units. Send the CT series that this one was derived from"
            )


def _rescale(
    ds: Dataset, groups: list[Dataset], pixel_representation: int
) -> tuple[float, float] | None:
    holder = _macro("PixelValueTransformationSequence", groups, ds)
    slope = _numbers(holder, "RescaleSlope")
    intercept = _numbers(holder, "RescaleIntercept")
    if slope is None and intercept is None and pixel_representation == 1:
        return 1.0, 0.0  # Signed values without a rescale can be Hounsfield units already.
    if slope is None or intercept is None or slope[0] == 0:
        return None
    return slope[0], intercept[0]


def _macro(keyword: str, groups: list[Dataset], ds: Dataset) -> Dataset:
    """Return the item that holds a functional group macro, or the data set itself."""
    for group in groups:
        items = _items(group, keyword)
        if items:
            return items[0]
    return ds


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    return list(ds[keyword].value or ()) if keyword in ds else []


def _texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a character string element, without padding."""
    value = _raw(ds, keyword)
    if value is None:
        return ()
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    text = text.strip("\0 ")
    if "\\" not in text:
        return (text,) if text else ()
    values = tuple(value.strip("\0 ") for value in text.split("\\"))
    return values if any(values) else ()


def _text(ds: Dataset, keyword: str) -> str:
    return "\\".join(_texts(ds, keyword))


def _numbers(ds: Dataset, keyword: str) -> tuple[float, ...] | None:
    """Return the values of a DS or IS element; None where one is no finite number."""
    texts = _texts(ds, keyword)
    if not all(map(DECIMAL.fullmatch, texts)):
        return None
    numbers = tuple(map(float, texts))
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


def _integer(ds: Dataset, keyword: str, *, signed: bool = False) -> int | None:
    """Return the first value of an IS, US, SS or UL element; None where it is no integer."""
    value = _raw(ds, keyword)
    if isinstance(value, bytes) and keyword not in INTEGER_STRINGS:
        # A writer's US for what Pixel Representation makes SS, or the reverse, is common.
        big_endian = ds.original_encoding == (False, False)
        order: Literal["little", "big"] = "big" if big_endian else "little"
        return int.from_bytes(value[:2], order, signed=signed) if value else None
    numbers = _numbers(ds, keyword)
    return int(numbers[0]) if numbers else None


def _raw(ds: Dataset, keyword: str) -> Any:
    """Return an element's bytes as they stand in the file; pydicom's value where it has one."""
    element = ds.get_item(_tag(keyword))
    return None if element is None else element.value


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)
