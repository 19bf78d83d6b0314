"""What the header of a CT instance says about its frames and its pixels.

A Part 10 file enters, a `SourceInstance` leaves: facts, nothing corrected and nothing decoded.
`volume.py` calls it. An attribute that cannot be read is absent, and the geometry gate decides
whether a volume can do without it.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    LegacyConvertedEnhancedCTImageStorage,
)

from osteon.errors import VolumeError
from osteon.pipeline.images.geometry import FrameHeader, SourceFrame
from osteon.pipeline.images.headervalues import HeaderValues
from osteon.pipeline.images.pixels import NATIVE, PixelSource, mapped_errors
from osteon.pipeline.images.plainheader import read_plain

CT_IMAGES = frozenset(
    {CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
)
# Rescale Type, PS3.3 C.8.2.1 and C.11.1.1.2. Absent it means HU in a CT image; US is unspecified,
# and what converters to multi-frame write where it was absent.
HOUNSFIELD_UNITS = frozenset({"", "HU", "US"})
GREYSCALE = frozenset({"MONOCHROME1", "MONOCHROME2"})  # differ in display alone, PS3.3 C.7.6.3.1.2
FRAMES_MAX = 2**16  # an enhanced CT of 65,536 slices; a larger number is a damaged one

Groups = list[HeaderValues]  # Functional groups of a frame: those that speak first come first.


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
        plain = read_plain(file)
        if plain is not None:
            values = HeaderValues(plain.values)
            _refuse_other_objects(path, values)
            return _instance(path, values, plain.transfer_syntax_uid, plain.offset)
        file.seek(0)
        ds = pydicom.dcmread(file, stop_before_pixels=True)
        values = HeaderValues.of(ds)
        _refuse_other_objects(path, values)
        syntax = UID(ds.file_meta.TransferSyntaxUID)
        return _instance(path, values, syntax, _pixel_data_offset(path, syntax, file))


def _refuse_other_objects(path: Path, values: HeaderValues) -> None:
    sop_class = UID(values.text("SOPClassUID"))
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


def _instance(path: Path, values: HeaderValues, syntax: UID, offset: int) -> SourceInstance:
    number = values.integer("InstanceNumber")
    name = path.name if number is None else f"image {number} ({path.name})"
    count = values.integer("NumberOfFrames") or 1
    if not 1 <= count <= FRAMES_MAX:
        raise VolumeError(f"{name}: {count} is no possible Number of Frames")
    # Of a frame's attributes the functional groups speak first: its own, then the shared ones.
    per_frame = values.items("PerFrameFunctionalGroupsSequence")
    shared = values.items("SharedFunctionalGroupsSequence")[:1]
    if per_frame and len(per_frame) != count:
        raise VolumeError(
            f"{name}: {len(per_frame)} Per-Frame Functional Groups for {count} frames"
        )
    groups = [[item, *shared] for item in per_frame] or [shared] * count
    pixels = _pixel_source(path, name, values, syntax, offset, count)
    _refuse_other_units(name, values, groups)
    return SourceInstance(
        pixels=pixels,
        frames=tuple(_frame(path, values, index, group) for index, group in enumerate(groups, 1)),
        rescales=tuple(_rescale(values, group, pixels.pixel_representation) for group in groups),
    )


def _frame(path: Path, values: HeaderValues, frame: int, groups: Groups) -> FrameHeader:
    frame_type = _macro("CTImageFrameTypeSequence", groups, values).texts("FrameType")
    return FrameHeader(
        source=SourceFrame(path, frame, values.text("SOPClassUID"), values.text("SOPInstanceUID")),
        patient_id=values.text("PatientID"),
        study_instance_uid=values.text("StudyInstanceUID"),
        series_instance_uid=values.text("SeriesInstanceUID"),
        frame_of_reference_uid=values.text("FrameOfReferenceUID"),
        instance_number=frame if groups else values.integer("InstanceNumber"),
        image_type=frame_type or values.texts("ImageType"),
        samples_per_pixel=values.integer("SamplesPerPixel") or 1,
        rows=values.integer("Rows") or 0,
        columns=values.integer("Columns") or 0,
        position_mm=_macro("PlanePositionSequence", groups, values).numbers("ImagePositionPatient"),
        orientation=_macro("PlaneOrientationSequence", groups, values).numbers(
            "ImageOrientationPatient"
        ),
        pixel_spacing_mm=_macro("PixelMeasuresSequence", groups, values).numbers("PixelSpacing"),
    )


def _pixel_source(
    path: Path, name: str, values: HeaderValues, syntax: UID, offset: int, frames: int
) -> PixelSource:
    """Return how the pixels are encoded, or refuse what no decoder could make sense of."""
    bits_allocated = values.integer("BitsAllocated") or 0
    bits_stored = values.integer("BitsStored") or bits_allocated
    high_bit = values.integer("HighBit")
    if high_bit is None:
        high_bit = bits_stored - 1
    pixel_representation = values.integer("PixelRepresentation") or 0
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
    photometric_interpretation = values.text("PhotometricInterpretation") or "MONOCHROME2"
    if (
        values.integer("SamplesPerPixel") in (None, 1)
        and photometric_interpretation not in GREYSCALE
    ):
        raise VolumeError(
            f"{name}: Photometric Interpretation is {photometric_interpretation}: its pixels are "
            "no grey values"
        )
    signed = pixel_representation == 1
    padding = values.integer("PixelPaddingValue", signed=signed)
    limit = values.integer("PixelPaddingRangeLimit", signed=signed)
    limit = padding if limit is None else limit
    return PixelSource(
        path=path,
        name=name,
        transfer_syntax_uid=syntax,
        offset=offset,
        frames=frames,
        rows=values.integer("Rows") or 0,
        columns=values.integer("Columns") or 0,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=high_bit,
        pixel_representation=pixel_representation,
        photometric_interpretation=photometric_interpretation,
        padding=None
        if padding is None or limit is None
        else (min(padding, limit), max(padding, limit)),
    )


def _refuse_other_units(name: str, values: HeaderValues, groups: list[Groups]) -> None:
    """Refuse grey values of which the scanner says that they are no Hounsfield units."""
    for group in groups:
        units = (
            _macro("PixelValueTransformationSequence", group, values).text("RescaleType").upper()
        )
        if units not in HOUNSFIELD_UNITS:
            raise VolumeError(
                f"{name}: Rescale Type is {units}, not HU: its grey values are no Hounsfield "
                "units. Send the CT series that this one was derived from"
            )


def _rescale(
    values: HeaderValues, groups: Groups, pixel_representation: int
) -> tuple[float, float] | None:
    holder = _macro("PixelValueTransformationSequence", groups, values)
    if pixel_representation == 1 and not (
        holder.texts("RescaleSlope") or holder.texts("RescaleIntercept")
    ):
        return 1.0, 0.0  # Signed values without a rescale can be Hounsfield units already.
    slope, intercept = holder.numbers("RescaleSlope"), holder.numbers("RescaleIntercept")
    if slope is None or intercept is None or slope[0] == 0:
        return None
    return slope[0], intercept[0]


def _macro(keyword: str, groups: Groups, values: HeaderValues) -> HeaderValues:
    """Return the item that holds a functional group macro, or the data set itself."""
    for group in groups:
        items = group.items(keyword)
        if items:
            return items[0]
    return values
