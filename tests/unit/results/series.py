"""Small CT series for the tests of the results room: right, tilted, enhanced, or flawed."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from osteon.results.seg import Algorithm, encode_segmentation
from osteon.results.segment import Code, Segment

SLICES, ROWS, COLUMNS = 5, 7, 9  # 63 voxels a slice: no frame but each eighth ends on a byte
ALGORITHM = Algorithm("builtin:bone", "1.0", "ab" * 32)
CONTENT_AT = datetime(2026, 1, 2, 3, 4, 5, 678)


@dataclass(frozen=True)
class Frame:
    """A source frame, as the pipeline has its own."""

    path: Path
    frame: int
    sop_class_uid: str
    sop_instance_uid: str


def header(sop_class: str, uid: str, **attributes: Any) -> Dataset:
    """The attributes that every source instance has."""
    ds = Dataset()
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = uid
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = "1.2.3.4"
    ds.FrameOfReferenceUID = "1.2.3.9"
    ds.Modality = "CT"
    ds.Manufacturer = "Scanner Works"
    ds.PatientName = "Doe^Jane"
    ds.PatientID = "4711"
    ds.Rows, ds.Columns = ROWS, COLUMNS
    with disable_value_validation():
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = uid
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def position(z: int, tilt_mm: float = 0.0) -> list[float]:
    """Image Position (Patient) of a slice; a tilted gantry moves each slice along y."""
    return [-10.5, -20.25 + z * tilt_mm, 100.0 + z * 2.5]


def write_series(
    folder: Path, *, tilt_mm: float = 0.0, slices: int = SLICES, **attributes: Any
) -> list[Frame]:
    """Write one single-frame instance per slice; None takes an attribute away."""
    frames = []
    for z in range(slices):
        ds = header(CTImageStorage, f"1.2.3.4.{z + 1}")
        ds.ImagePositionPatient = position(z, tilt_mm)
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing = [0.75, 0.5]
        ds.SliceThickness = 2.5
        with disable_value_validation():
            for keyword, value in attributes.items():
                if value is None:
                    delattr(ds, keyword)
                else:
                    setattr(ds, keyword, value)
            path = folder / f"{z}.dcm"
            ds.save_as(path, enforce_file_format=True)
        frames.append(Frame(path, 1, CTImageStorage, ds.SOPInstanceUID))
    return frames


def write_enhanced(folder: Path) -> list[Frame]:
    """Write one multi-frame instance whose frames run from head to feet; slice order is up."""
    ds = header(EnhancedCTImageStorage, "1.2.3.5.1")
    ds.NumberOfFrames = SLICES
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.75, 0.5], 2.5
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    per_frame = []
    for z in reversed(range(SLICES)):
        plane, groups = Dataset(), Dataset()
        plane.ImagePositionPatient = position(z)
        groups.PlanePositionSequence = [plane]
        per_frame.append(groups)
    ds.PerFrameFunctionalGroupsSequence = per_frame
    path = folder / "enhanced.dcm"
    ds.save_as(path, enforce_file_format=True)
    return [
        Frame(path, SLICES - z, EnhancedCTImageStorage, ds.SOPInstanceUID) for z in range(SLICES)
    ]


def labels() -> NDArray[np.uint8]:
    """Three segments: one in slices 1..3, one in 2..4, one voxel at the corner of slice 4."""
    labels_zyx = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    labels_zyx[1:4, 1:4, 2:5] = 1
    labels_zyx[2:5, 5:, 3:8] = 2
    labels_zyx[4, 0, COLUMNS - 1] = 3
    return labels_zyx


def segments(count: int = 3, label: str = "Bone") -> list[Segment]:
    """Segments for ``labels``; the second one is a left bone."""
    left = Code("7771000", "SCT", "Left")
    return [
        Segment(
            number,
            f"{label} {number}",
            Code("123037004", "SCT", "Anatomical Structure"),
            Code("272673000", "SCT", "Bone"),
            left if number == 2 else None,
            (200, 40 * number % 256, 90),
            1.5 * number,
        )
        for number in range(1, count + 1)
    ]


def encode(frames: list[Frame], **changes: Any) -> Dataset:
    """Encode ``labels`` on these frames."""
    arguments = {
        "algorithm": ALGORITHM,
        "sop_instance_uid": "2.25.1",
        "series_instance_uid": "2.25.2",
        "content_at": CONTENT_AT,
    }
    given = changes.pop("labels_zyx", labels()), changes.pop("segments", segments())
    return encode_segmentation(frames, *given, **(arguments | changes))
