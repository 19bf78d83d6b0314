"""CT series for tests that need many small ones: a block of bone in soft tissue."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS = 64, 72


def write_series(
    folder: Path,
    *,
    seed: str,
    slices: int = 12,
    study: str | None = None,
    first_hu: int | None = None,
) -> list[Path]:
    """Write a series with a bone of about 25 ml in it; the same seed gives the same bytes.

    The first voxel of each slice has `first_hu`, where it is given: a model can know it by that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(1, slices + 1):
        ds = _slice(seed, number, study or seed)
        if first_hu is not None:
            ds.PixelData = first_hu.to_bytes(2, "little", signed=True) + ds.PixelData[2:]
        path = folder / f"{number:04}.dcm"
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
        paths.append(path)
    return paths


def series_uid(seed: str) -> str:
    """Return the Series Instance UID of a seed."""
    return str(generate_uid(entropy_srcs=[seed, "series"]))


def _slice(seed: str, number: int, study: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    uid = generate_uid(entropy_srcs=[seed, str(number)])
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[study, "study"])
    ds.SeriesInstanceUID = series_uid(seed)
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[seed, "frame"])
    ds.PatientName, ds.PatientID = "Test^Bone", f"P-{study[:12]}"
    ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20260102"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "101112"
    ds.StudyID, ds.AccessionNumber = "1", f"A-{study[:12]}"
    ds.ReferringPhysicianName, ds.Manufacturer = "", "Test"
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 1, 1, number
    ds.SliceThickness, ds.KVP, ds.PatientPosition = 2.0, 120, "HFS"
    ds.PositionReferenceIndicator = ""
    ds.ImagePositionPatient = [-70.0, -62.0, 2.0 * number]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [2.0, 2.0]
    ds.Rows, ds.Columns, ds.SamplesPerPixel = ROWS, COLUMNS, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "HU"
    ds.PixelData = _pixels(number).tobytes()
    return ds


def _pixels(number: int) -> np.ndarray:
    """A body of 50 HU in air, and in it a bone: a shell of 900 HU around 250 HU."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    pixels = np.full((ROWS, COLUMNS), -1000, np.int16)
    pixels[((x - 36) / 32) ** 2 + ((y - 32) / 26) ** 2 < 1] = 50
    radius = np.hypot(x - 36, y - 36)
    pixels[radius < 11] = 900
    pixels[radius < 9] = 250
    noise = np.random.default_rng(number).normal(0, 8, pixels.shape)
    return (pixels + noise).astype(np.int16)
