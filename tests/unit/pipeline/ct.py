"""CT images for tests: single-frame and enhanced, with whatever wrong that a test asks for."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

SERIES, FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2"


def image(stored_yx: NDArray[Any], number: int = 1, **changes: Any) -> Dataset:
    """A CT image at z = 2 mm x number; a change to None deletes the attribute."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = f"{SERIES}.{number}"
    ds.SeriesInstanceUID = SERIES
    ds.FrameOfReferenceUID = FRAME_OF_REFERENCE
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.Modality = "CT"
    ds.InstanceNumber = number
    ds.ImagePositionPatient = ["-10", "-20", str(2 * number)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = ["0.5", "0.75"]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored_yx.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 8 * stored_yx.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored_yx.dtype.kind == "i")
    ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
    ds.PixelData = stored_yx.tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CTImageStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def enhanced(
    stored_zyx: NDArray[Any], z_mm: list[float], rescales: list[tuple[float, float]]
) -> Dataset:
    """An enhanced CT: position and rescale per frame, orientation and spacing shared."""
    ds = image(stored_zyx, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(z_mm))
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
        "RescaleIntercept",
    ):  # fmt: skip
        del ds[keyword]
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = _item(PixelSpacing=[0.5, 0.75])
    shared.CTImageFrameTypeSequence = _item(FrameType=["ORIGINAL", "PRIMARY", "AXIAL", "NONE"])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for z, (slope, intercept) in zip(z_mm, rescales, strict=True):
        group = Dataset()
        group.PlanePositionSequence = _item(ImagePositionPatient=[-10, -20, z])
        group.PixelValueTransformationSequence = _item(
            RescaleSlope=slope, RescaleIntercept=intercept
        )
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return ds


def write(folder: Path, datasets: list[Dataset]) -> list[Path]:
    """Write data sets as Part 10 files, in the transfer syntax that each names."""
    paths = []
    for index, ds in enumerate(datasets):
        path = folder / f"{index:03d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def series(count: int = 5, **changes: Any) -> list[Dataset]:
    """A series of small images, each of one grey value: 1024 + its number."""
    return [
        image(np.full((4, 6), 1024 + number, np.uint16), number, **changes)
        for number in range(1, count + 1)
    ]


def _item(**attributes: Any) -> Sequence:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return Sequence([item])
