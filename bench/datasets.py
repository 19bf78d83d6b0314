"""What the senders send: CT, MR and multi-frame instances, written as Part 10 files.

A kind and a count enter, a folder of files leaves; ``receive.py`` writes them before each round.
Pixels are noise over a smooth field, so that no file system can make them smaller, and several
series take turns as they do on a busy network. Every UID holds `RUN`, which a sender replaces by
the number of its run: each run is of instances that the receiver has never seen.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

RUN = "1000000000"  # As long as any other number of a run, so that no length changes.
UID_ROOT = f"1.2.826.0.1.3680043.10.1470.{RUN}"


@dataclass(frozen=True)
class DataSet:
    """A kind of instance.

    Attributes
    ----------
    rows, frames : int
        Each frame is ``rows`` × ``rows`` pixels of 16 bits.
    series : int
        Series that the instances are spread over, in turn.
    """

    name: str
    words: str
    sop_class_uid: str
    modality: str
    rows: int
    frames: int = 1
    series: int = 4


CT = DataSet("ct", "CT 512²", CTImageStorage, "CT", 512)
MR = DataSet("mr", "MR 256²", MRImageStorage, "MR", 256)
MULTI = DataSet("multi", "CT 400 × 512²", EnhancedCTImageStorage, "CT", 512, 400, 1)
MULTI_SMALL = DataSet("multi", "CT 40 × 512²", EnhancedCTImageStorage, "CT", 512, 40, 1)


def write_instances(folder: Path, kind: DataSet, count: int, *, first: int = 1) -> None:
    """Write so many instances of a kind; ``first`` tells the UIDs of several folders apart."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(first)
    shape = (kind.frames, kind.rows, kind.rows)
    pixels = random.integers(0, 1 << 12, shape, dtype=np.uint16)
    for number in range(first, first + count):
        ds = _header(kind, number)
        # The same noise would do, but no two instances may be equal.
        ds.PixelData = np.roll(pixels, number, axis=-1).tobytes()
        ds.save_as(folder / f"{number:06d}.dcm", enforce_file_format=True)


def _header(kind: DataSet, number: int) -> Dataset:
    series = number % kind.series
    study_uid = f"{UID_ROOT}.{kind.rows}.{kind.frames}"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = kind.sop_class_uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, f"{study_uid}.{series + 1}"
    ds.SOPInstanceUID = f"{study_uid}.{series + 1}.{number}"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20240229", "101500", "A1"
    ds.Modality, ds.Manufacturer, ds.PatientName, ds.PatientID = kind.modality, "X", "A^B", "P1"
    ds.PatientBirthDate, ds.PatientSex, ds.StudyID = "19700101", "O", "1"
    ds.SliceThickness, ds.SpacingBetweenSlices = "1.0", "1.0"
    ds.SeriesNumber, ds.InstanceNumber = series + 1, number
    ds.ImagePositionPatient = [0, 0, float(number)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = f"{study_uid}.0"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = kind.rows
    if kind.frames > 1:
        ds.NumberOfFrames = kind.frames
    ds.PixelSpacing = ["0.8", "0.8"]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    return ds
