"""The source images as a result needs them: identifiers and geometry, one header per frame.

Source frames (a file and a frame number each) enter, frame headers leave; called by the encoder
and, independently of it, by the gate. Pixels are never read, in whatever transfer syntax they are.
"""

import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import UID

from osteon.errors import EncodingError, StageError


class SourceFrame(Protocol):
    """One frame of the source series: where it is and what it is called."""

    @property
    def path(self) -> Path:
        """The Part 10 file that holds the frame."""

    @property
    def frame(self) -> int:
        """Frame number within the instance, from 1; 1 for a single-frame instance."""

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID of the instance."""

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID of the instance."""


@dataclass(frozen=True)
class Lossy:
    """What the source lost: ratios and methods of its lossy compressions (PS3.3 C.7.6.1.1.5)."""

    ratios: tuple[float, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True)
class FrameHeader:
    """Identifiers and geometry of one source frame (PS3.3 C.7.6.2, C.7.6.16).

    ``frame_number`` is None in a single-frame instance. ``orientation`` holds the cosines along
    a row, then along a column; ``spacing_mm`` the distance between rows, then between columns.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    rows: int
    columns: int
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    thickness_mm: float
    lossy: Lossy | None


_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]

_METHODS = {  # transfer syntax → Lossy Image Compression Method, PS3.3 C.7.6.1.1.5.1
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.53": "ISO_10918_1",
    "1.2.840.10008.1.2.4.55": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.93": "ISO_15444_2",
}
_PERHAPS_LOSSLESS = {"ISO_15444_1", "ISO_15444_2"}  # only the flag tells what these lost

UNREADABLE = (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error)
"""What pydicom raises when it converts a value that breaks the rules of its VR."""


def read_header(path: Path, tags: Sequence[str]) -> Dataset:
    """Read the named attributes of a Part 10 file and nothing behind them.

    Parameters
    ----------
    path : Path
        The file.
    tags : sequence of str
        Keywords of the attributes.

    Raises
    ------
    StageError
        The file cannot be read now, or is gone.
    EncodingError
        It is not DICOM.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a flaw of a header that can still be read
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    except OSError as error:
        raise StageError(f"the source instance {path} cannot be read: {error}") from error
    except InvalidDicomError as error:
        raise EncodingError(f"the source instance {path} is not DICOM: {error}") from error


def read_frame_headers(frames: Sequence[SourceFrame]) -> tuple[FrameHeader, ...]:
    """Read identifiers and geometry of every source frame; each file is opened once.

    Parameters
    ----------
    frames : sequence of SourceFrame
        The frames in slice order.

    Returns
    -------
    tuple of FrameHeader
        One per frame, in the same order.

    Raises
    ------
    StageError
        A file cannot be read now, or is gone.
    EncodingError
        A file is another instance than it should be, or lacks identifiers or geometry.
    """
    headers = []
    instance: Dataset | None = None
    path: Path | None = None
    with disable_value_validation():  # an invalid value elsewhere in the header is no matter here
        for source in frames:
            if instance is None or source.path != path:
                instance, path = read_header(source.path, _TAGS), source.path
            try:
                headers.append(_frame_header(instance, source))
            except (AttributeError, *UNREADABLE) as error:
                raise EncodingError(
                    f"frame {source.frame} of the source instance {source.sop_instance_uid} "
                    f"lacks a valid identifier or geometry: {error}"
                ) from error
    return tuple(headers)


def check_grid(headers: Sequence[FrameHeader], labels_zyx: NDArray[Any]) -> None:
    """Raise unless the source frames are one grid, and the label map stands on it.

    Parameters
    ----------
    headers : sequence of FrameHeader
        One per slice, in slice order.
    labels_zyx : ndarray, shape (slices, rows, columns)
        Label map.

    Raises
    ------
    EncodingError
        Says in what they differ.
    """
    if not headers:
        raise EncodingError("there is no source frame to refer to")
    first = headers[0]
    shape = (len(headers), first.rows, first.columns)
    if labels_zyx.shape != shape:
        raise EncodingError(f"the label map is {labels_zyx.shape}, the source frames are {shape}")
    for name in (
        "frame_of_reference_uid",
        "study_instance_uid",
        "series_instance_uid",
        "rows",
        "columns",
    ):
        values = {getattr(header, name) for header in headers}
        if len(values) > 1:
            raise EncodingError(f"the source instances disagree on {name}: {sorted(values)[:3]}")
    for name in ("orientation", "spacing_mm"):
        values_of_all = np.array([getattr(header, name) for header in headers])
        if np.ptp(values_of_all, axis=0).max() > 1e-4:
            raise EncodingError(f"the source instances disagree on {name}")


def _frame_header(instance: Dataset, source: SourceFrame) -> FrameHeader:
    """Take one frame's header from its instance."""
    if _uid(instance, "SOPInstanceUID") != source.sop_instance_uid:
        raise EncodingError(
            f"{source.path} holds the instance {instance.SOPInstanceUID}, "
            f"not {source.sop_instance_uid}"
        )
    groups = _functional_groups(instance, source.frame)
    spacing_mm = _numbers(groups, "PixelSpacing", 2)
    thickness = groups.get("SliceThickness")
    return FrameHeader(
        sop_class_uid=_uid(instance, "SOPClassUID"),
        sop_instance_uid=source.sop_instance_uid,
        frame_number=source.frame if "PerFrameFunctionalGroupsSequence" in instance else None,
        study_instance_uid=_uid(instance, "StudyInstanceUID"),
        series_instance_uid=_uid(instance, "SeriesInstanceUID"),
        frame_of_reference_uid=_uid(instance, "FrameOfReferenceUID"),
        rows=int(instance.Rows),
        columns=int(instance.Columns),
        position_mm=_numbers(groups, "ImagePositionPatient", 3),
        orientation=_numbers(groups, "ImageOrientationPatient", 6),
        spacing_mm=spacing_mm,
        thickness_mm=float(thickness) if thickness else 0.0,
        lossy=_lossy(instance, source.path),
    )


def _functional_groups(instance: Dataset, frame: int) -> Dataset:
    """Gather a frame's geometry, wherever the instance keeps it: root, shared or per frame."""
    if "PerFrameFunctionalGroupsSequence" not in instance:
        return instance
    gathered = Dataset()
    shared = instance.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for groups in (shared[0], instance.PerFrameFunctionalGroupsSequence[frame - 1]):
        for macro in ("PixelMeasuresSequence", "PlaneOrientationSequence", "PlanePositionSequence"):
            if groups.get(macro):
                gathered.update(groups[macro].value[0])
    return gathered


def _uid(instance: Dataset, keyword: str) -> str:
    """Return a UID that must be there and must be a UID."""
    value = UID(str(getattr(instance, keyword)).strip("\0 "))
    if not value.is_valid:
        raise ValueError(f"{keyword} is {str(value)!r}, which is not a UID")
    return str(value)


def _numbers(groups: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """Return a multi-valued number that must be there in full."""
    values: Any = getattr(groups, keyword)
    numbers = tuple(float(value) for value in values or ())
    if len(numbers) != count:
        raise ValueError(f"{keyword} has {len(numbers)} values instead of {count}")
    return numbers


def _lossy(instance: Dataset, path: Path) -> Lossy | None:
    """Say what was lost, by the flag or, where the flag is missing, by the transfer syntax."""
    method = _METHODS.get(str(instance.file_meta.get("TransferSyntaxUID", "")))
    unflagged = method is None or method in _PERHAPS_LOSSLESS
    if instance.get("LossyImageCompression") != "01" and unflagged:
        return None
    ratios = many(instance.get("LossyImageCompressionRatio"))
    methods = many(instance.get("LossyImageCompressionMethod")) or [method or "UNKNOWN"]
    if not ratios and method is not None and len(methods) == 1:
        ratios = [_ratio(instance, path)]
    return Lossy(tuple(map(float, ratios)), tuple(map(str, methods)))


def _ratio(instance: Dataset, path: Path) -> float:
    """Return the approximate compression ratio of one channel: the header counts as pixels."""
    frames = int(instance.get("NumberOfFrames") or 1)
    bits = frames * int(instance.Rows) * int(instance.Columns) * int(instance.BitsAllocated)
    return round(bits / 8 / path.stat().st_size, 2)


def many(value: Any) -> list[Any]:
    """Return the values of an attribute as a list, whether it has none, one or several."""
    if value is None or value in ("", b""):
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]
