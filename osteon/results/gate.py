"""The gate before sending: a result that is not what it should be never leaves.

A Segmentation, its source frames and its label map enter; nothing leaves but an ``EncodingError``
that says what is wrong. Called by the encode stage on the file as it stands on the disk. It shares
no arithmetic with the encoder, only the headers of the sources.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import SegmentationStorage

from osteon.errors import EncodingError, StageError
from osteon.results.bits import LabelMap, find_frames, unpack
from osteon.results.source import (
    UNREADABLE,
    FrameHeader,
    SourceFrame,
    check_grid,
    read_frame_headers,
)

TOLERANCE_MM = 0.01

_TYPE_1 = (  # PS3.3 Table A.51-1 and the modules it names; must be there with a value
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "Modality",
    "FrameOfReferenceUID",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "InstanceNumber",
    "ContentDate",
    "ContentTime",
    "ContentLabel",
    "ImageType",
    "SegmentationType",
    "SegmentSequence",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "BitsAllocated",
    "BitsStored",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "LossyImageCompression",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence",
    "PixelData",
)

_TYPE_2 = (  # must be there, may be empty
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
    "ContentDescription",
    "ContentCreatorName",
)

_OF_A_SEGMENT = (  # PS3.3 C.8.20.4, Type 1
    "SegmentNumber",
    "SegmentLabel",
    "SegmentAlgorithmType",
    "SegmentAlgorithmName",
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
)

_FIXED = {  # of a BINARY Segmentation, PS3.3 C.8.20.2
    "SOPClassUID": SegmentationStorage,
    "Modality": "SEG",
    "SegmentationType": "BINARY",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelRepresentation": 0,
    "BitsAllocated": 1,
    "BitsStored": 1,
    "HighBit": 0,
}


def check_result(
    result: Dataset | Path,
    frames: Sequence[SourceFrame],
    labels_zyx: LabelMap,
    *,
    headers: Sequence[FrameHeader] | None = None,
) -> None:
    """Raise unless a Segmentation is valid and says exactly what the label map says.

    Parameters
    ----------
    result : Dataset or Path
        The Segmentation, or its Part 10 file.
    frames : sequence of SourceFrame
        The source frame of each slice, in slice order.
    labels_zyx : ndarray of uint8 or uint16, shape (slices, rows, columns)
        Label map on the source grid.
    headers : sequence of FrameHeader, optional
        What `read_frame_headers` said of the frames; they are read where it is absent.

    Raises
    ------
    EncodingError
        A mandatory attribute is missing, a reference names no source frame, the Frame of
        Reference differs, a voxel centre lies more than 0.01 mm from its source, or the voxels
        differ from the label map.
    StageError
        A file cannot be read now.

    References
    ----------
    DICOM PS3.3 A.51 (Segmentation IOD); C.7.6.16.2 (functional groups); C.12.2 (references)
    """
    headers = read_frame_headers(frames) if headers is None else headers
    check_grid(headers, labels_zyx)
    with disable_value_validation():
        try:
            dataset = pydicom.dcmread(result) if isinstance(result, Path) else result
            _check_attributes(dataset)
            placed = _check_references(dataset, headers)
            _check_geometry(dataset, headers, placed)
            _check_voxels(dataset, labels_zyx, placed)
        except OSError as error:
            raise StageError(f"the result cannot be read: {error}") from error
        except (AttributeError, *UNREADABLE, InvalidDicomError) as error:
            raise EncodingError(f"the result is not a readable Segmentation: {error}") from error


def _check_attributes(dataset: Dataset) -> None:
    """Raise where a mandatory attribute is missing or has the wrong value."""
    absent = [keyword for keyword in _TYPE_2 if keyword not in dataset]
    empty = _without_value(dataset, _TYPE_1)
    for segment in dataset.get("SegmentSequence") or ():
        empty += _without_value(segment, _OF_A_SEGMENT)
    if absent or empty:
        raise EncodingError(f"the result lacks {', '.join(absent + empty)}")
    for keyword, value in _FIXED.items():
        if dataset.get(keyword) != value:
            raise EncodingError(f"{keyword} is {dataset.get(keyword)!r} instead of {value!r}")
    numbers = [int(segment.SegmentNumber) for segment in dataset.SegmentSequence]
    if numbers != list(range(1, len(numbers) + 1)):
        raise EncodingError(f"the segments are numbered {numbers[:8]}")
    if len(dataset.PerFrameFunctionalGroupsSequence) != dataset.NumberOfFrames:
        raise EncodingError("Number of Frames differs from the number of functional groups")


def _without_value(dataset: Dataset, keywords: Iterable[str]) -> list[str]:
    """Name the attributes that are missing or empty."""
    return [word for word in keywords if word not in dataset or dataset[word].is_empty]


def _check_references(dataset: Dataset, headers: Sequence[FrameHeader]) -> list[tuple[int, int]]:
    """Raise where a reference leads nowhere; return slice index and segment of each frame."""
    first = headers[0]
    for keyword, value in (
        ("FrameOfReferenceUID", first.frame_of_reference_uid),
        ("StudyInstanceUID", first.study_instance_uid),
    ):
        if dataset[keyword].value != value:
            raise EncodingError(f"{keyword} is {dataset[keyword].value}, the source has {value}")
    series = dataset.ReferencedSeriesSequence[0]
    listed = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    sources = {header.sop_instance_uid for header in headers}
    if series.SeriesInstanceUID != first.series_instance_uid or listed != sources:
        raise EncodingError("Referenced Series Sequence does not list the source instances")
    slices = {_name(header): z for z, header in enumerate(headers)}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    placed = []
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        name = (
            str(source.ReferencedSOPClassUID),
            str(source.ReferencedSOPInstanceUID),
            source.get("ReferencedFrameNumber"),
        )
        if name not in slices:
            raise EncodingError(f"frame {number} refers to {name}, which is no source frame")
        holder = groups if "SegmentIdentificationSequence" in groups else shared
        segment = holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        placed.append((slices[name], int(segment)))
    return placed


def _name(header: FrameHeader) -> tuple[str, str, int | None]:
    """Name a source frame as a reference names it."""
    return header.sop_class_uid, header.sop_instance_uid, header.frame_number


def _check_geometry(
    dataset: Dataset, headers: Sequence[FrameHeader], placed: Sequence[tuple[int, int]]
) -> None:
    """Raise where a voxel centre of a frame is not where it is in the source frame."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    expected = np.stack(
        [_corners(h.position_mm, h.orientation, h.spacing_mm, h.rows, h.columns) for h in headers]
    )
    for number, (groups, (z, _)) in enumerate(
        zip(dataset.PerFrameFunctionalGroupsSequence, placed, strict=True), 1
    ):
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        found = _corners(position, orientation, spacing, rows, columns)
        error_mm = float(np.linalg.norm(found - expected[z], axis=1).max())
        if not error_mm < TOLERANCE_MM:
            raise EncodingError(f"frame {number} lies {error_mm:.3f} mm from its source frame")


def _corners(
    position_mm: Iterable[float],
    orientation: Iterable[float],
    spacing_mm: Iterable[float],
    rows: int,
    columns: int,
) -> NDArray[np.float64]:
    """Centres of the four corner voxels in mm, shape (4, 3) (PS3.3 equation C.7.6.2.1-1)."""
    origin = np.array([float(value) for value in position_mm])
    along_row, along_column = np.array([float(value) for value in orientation]).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in spacing_mm)
    row = along_row * between_columns * (columns - 1)
    column = along_column * between_rows * (rows - 1)
    return np.stack([origin, origin + row, origin + column, origin + row + column])


def _check_voxels(
    dataset: Dataset, labels_zyx: LabelMap, placed: Sequence[tuple[int, int]]
) -> None:
    """Raise where the frames do not hold exactly the voxels of the label map."""
    found = find_frames(labels_zyx, len(dataset.SegmentSequence))
    wanted = {(int(z), int(index) + 1) for z, index in np.argwhere(found)}
    if len(placed) != len(set(placed)) or set(placed) != wanted:
        raise EncodingError("the frames are not one per slice and segment with voxels")
    shape = (int(dataset.Rows), int(dataset.Columns))
    if shape != labels_zyx.shape[1:]:
        raise EncodingError(f"the frames are {shape}, the slices {labels_zyx.shape[1:]}")
    masks = unpack(dataset.PixelData, len(placed), shape)
    for mask, (z, segment) in zip(masks, placed, strict=True):
        if not np.array_equal(mask, labels_zyx[z] == segment):
            raise EncodingError(f"segment {segment} differs from the label map in slice {z}")
