"""A digital CT phantom: a torso whose bones are known.

A seed and a grid enter; a folder of CT images, a label map of the bones and their names leave.
`osteon phantom`, `osteon demo` and the tests call it. No patient is behind it.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from osteon.pipeline.phantoms.solids import Slab
from osteon.pipeline.phantoms.torso import HEIGHT_MM, build_torso, outline_pixels, paint_torso

FIELD_OF_VIEW_MM = 384.0
TABLE_SHIFT_MM = 8.0  # the middle of the image lies behind the middle of the body
SLICE_SPACING_MAX_MM = 5.0
STATURE = (0.7, 1.15)  # how much the torso is shortened or stretched to fit the slices
SUBSLICES_ABOVE_MM = 2.5  # thicker slices are the mean of three thin ones
SLAB_VOXELS = 2**21

TEXTURE_CELLS, TEXTURE_CELL_MM = 96, 1.3
NOISE_HU = 15.0
STORED_MIN_HU, STORED_MAX_HU = -1024, 3071  # 12 bits


@dataclass(frozen=True)
class Phantom:
    """Where a phantom lies on the disk.

    Attributes
    ----------
    dicom : Path
        Folder of the CT images, one series.
    paths : tuple of Path
        The images from feet to head, the order of the slices in `labels`.
    labels : Path
        `.npy` of uint8, shape (slices, rows, columns); 0 is no bone.
    names : Path
        JSON object from label to the name of the bone.
    series_instance_uid : str
        Series Instance UID.
    """

    dicom: Path
    paths: tuple[Path, ...]
    labels: Path
    names: Path
    series_instance_uid: str


def write_phantom(
    out: Path,
    *,
    seed: int = 0,
    slices: int = 60,
    rows: int = 256,
    columns: int = 256,
    spacing_mm: tuple[float, float, float] | None = None,
) -> Phantom:
    """Write a phantom as CT images, with the label map of its bones beside them.

    The same arguments give the same bytes: voxels, UIDs, dates.

    Parameters
    ----------
    out : Path
        Folder, made if absent: `dicom/` holds the images, `labels.npy` and `labels.json` the truth.
    seed : int
        Which patient.
    slices, rows, columns : int
        Size of the volume.
    spacing_mm : tuple of float, optional
        Distance between slices, rows and columns. By default the field of view is 384 mm and the
        slices cover the torso, at 5 mm at most.

    Returns
    -------
    Phantom
        The paths that were written.

    References
    ----------
    DICOM PS3.3 A.3 (CT Image IOD)
    """
    spacing_mm = spacing_mm or default_spacing_mm(slices, rows, columns)
    hu_zyx, labels_zyx, names = render_phantom(seed, (slices, rows, columns), spacing_mm)
    dicom = out / "dicom"
    dicom.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, ds in enumerate(_instances(hu_zyx, seed, spacing_mm)):
        path = dicom / f"IM{slices - index:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    labels_path, names_path = out / "labels.npy", out / "labels.json"
    np.save(labels_path, labels_zyx)
    names_path.write_text(json.dumps(names, indent=2) + "\n")
    return Phantom(dicom, tuple(paths), labels_path, names_path, ds.SeriesInstanceUID)


def default_spacing_mm(slices: int, rows: int, columns: int) -> tuple[float, float, float]:
    """Return the spacing at which a grid shows the whole torso, in mm."""
    pixel_mm = FIELD_OF_VIEW_MM / min(rows, columns)
    return (min(SLICE_SPACING_MAX_MM, HEIGHT_MM / slices), pixel_mm, pixel_mm)


def render_phantom(
    seed: int, shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, float, float]
) -> tuple[NDArray[np.int16], NDArray[np.uint8], dict[int, str]]:
    """Compute a phantom's voxels.

    Parameters
    ----------
    seed : int
        Which patient.
    shape_zyx : tuple of int
        (slices, rows, columns).
    spacing_zyx_mm : tuple of float
        Distance between slices, rows and columns.

    Returns
    -------
    hu_zyx : ndarray of int16
        Hounsfield units, slices from feet to head.
    labels_zyx : ndarray of uint8
        Bones, marrow included; 0 is no bone.
    names : dict of int to str
        The bones that the volume holds.
    """
    torso = build_torso(seed)
    texture = _texture_tile(seed)
    z, y, x = _axes_mm(shape_zyx, spacing_zyx_mm)
    outlines = outline_pixels(y, x, torso.fat)
    blur_mm = max(0.8, 1.25 * (spacing_zyx_mm[1] + spacing_zyx_mm[2]) / 2)
    step = max(1, SLAB_VOXELS // (shape_zyx[1] * shape_zyx[2] * z.shape[1]))
    hu_zyx, labels_zyx = np.empty(shape_zyx, np.int16), np.zeros(shape_zyx, np.uint8)
    for first in range(0, shape_zyx[0], step):
        levels = z[first : first + step]
        thin = levels.ravel()
        shape = (thin.size, y.size, x.size)
        slab = Slab(
            z=thin,
            y=y,
            x=x,
            blur_mm=blur_mm,
            texture_zyx=texture[np.ix_(*(_cells(axis) for axis in (thin, y, x)))],
            hu_zyx=np.empty(shape, np.float32),
            labels_zyx=np.zeros(shape, np.uint8),
        )
        paint_torso(slab, torso, outlines)
        thick = slab.hu_zyx.reshape(*levels.shape, y.size, x.size).mean(axis=1)
        thick += np.stack([_noise(seed, first + i, thick.shape[1:]) for i in range(len(thick))])
        np.rint(thick, out=thick)
        hu_zyx[first : first + step] = np.clip(thick, STORED_MIN_HU, STORED_MAX_HU)
        middle = levels.shape[1] // 2
        labels_zyx[first : first + step] = slab.labels_zyx[middle :: levels.shape[1]]
    present = np.flatnonzero(np.bincount(labels_zyx.ravel(), minlength=256))
    return hu_zyx, labels_zyx, {int(n): torso.names[int(n)] for n in present if n}


def _axes_mm(
    shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the torso's z of each slice and its thin ones, y of each row, x of each column."""
    slices, rows, columns = shape_zyx
    thickness_mm, row_mm, column_mm = spacing_zyx_mm
    stature = float(np.clip(slices * thickness_mm / HEIGHT_MM, *STATURE))
    covered_mm = slices * thickness_mm / stature
    # A stack that is too short for the torso shows the lumbar spine and the pelvis.
    bottom_mm = (HEIGHT_MM - covered_mm) * (0.35 if covered_mm < HEIGHT_MM else 0.5)
    thin = 3 if thickness_mm > SUBSLICES_ABOVE_MM else 1
    z = bottom_mm + (np.arange(slices * thin) + 0.5) * thickness_mm / stature / thin
    y = (np.arange(rows) - (rows - 1) / 2) * row_mm + TABLE_SHIFT_MM
    x = (np.arange(columns) - (columns - 1) / 2) * column_mm
    return (
        z.reshape(slices, thin).astype(np.float32),
        y.astype(np.float32),
        x.astype(np.float32),
    )


def _texture_tile(seed: int) -> NDArray[np.float32]:
    """Return smooth noise of unit variance that repeats in all directions."""
    rng = np.random.default_rng([seed, 2])
    tile = rng.standard_normal((TEXTURE_CELLS,) * 3, np.float32)
    tile = _smooth(tile, (0, 1, 2))
    return np.asarray(tile / tile.std(), np.float32)


def _smooth(noise: NDArray[np.float32], axes: tuple[int, ...]) -> NDArray[np.float32]:
    """Filter with the binomial kernel 1 2 1 along axes."""
    for axis in axes:
        around = np.roll(noise, 1, axis) + np.roll(noise, -1, axis)
        noise = np.asarray((around + 2 * noise) / 4, np.float32)
    return noise


def _cells(axis_mm: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.asarray(np.floor(axis_mm / TEXTURE_CELL_MM) % TEXTURE_CELLS, np.intp)


def _noise(seed: int, index: int, shape_yx: tuple[int, ...]) -> NDArray[np.float32]:
    """Return one slice's noise: Gaussian, through a soft reconstruction kernel."""
    rng = np.random.default_rng([seed, 3, index])
    noise = _smooth(rng.standard_normal(shape_yx, np.float32), (0, 1))
    # The kernel leaves 3/8 of the variance along each of two axes.
    return np.asarray(noise * np.float32(NOISE_HU / 0.375), np.float32)


def _uid(*parts: object) -> str:
    """Return a UID that these parts decide (PS3.5 B.2, UUID derived)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, ' '.join(map(str, parts))).int}"


def _instances(
    hu_zyx: NDArray[np.int16], seed: int, spacing_mm: tuple[float, float, float]
) -> Iterator[Dataset]:
    """Yield one CT image for each slice, from feet to head."""
    slices, rows, columns = hu_zyx.shape
    identity = ("osteon phantom", seed, hu_zyx.shape, spacing_mm)
    for index, hu_yx in enumerate(hu_zyx):
        ds = _patient_study_series(identity, seed)
        ds.SOPInstanceUID = _uid(*identity, "instance", index)
        ds.InstanceNumber = slices - index  # scanned from head to feet
        z_mm = (index - (slices - 1) / 2) * spacing_mm[0]
        ds.ImagePositionPatient = [
            _decimal(-(columns - 1) / 2 * spacing_mm[2]),
            _decimal(-(rows - 1) / 2 * spacing_mm[1] + TABLE_SHIFT_MM),
            _decimal(z_mm),
        ]
        ds.SliceLocation = _decimal(z_mm)
        ds.SliceThickness = _decimal(spacing_mm[0])
        ds.SpacingBetweenSlices = _decimal(spacing_mm[0])
        ds.PixelSpacing = [_decimal(spacing_mm[1]), _decimal(spacing_mm[2])]
        ds.Rows, ds.Columns = rows, columns
        ds.PixelData = (hu_yx - STORED_MIN_HU).astype("<u2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        yield ds


def _decimal(value: float) -> str:
    """Return a DS of at most 16 characters (PS3.5 6.2)."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _patient_study_series(identity: tuple[object, ...], seed: int) -> Dataset:
    """Return what all images of a phantom share."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20240229"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.AccessionNumber = f"PHANTOM{seed}"
    ds.Modality = "CT"
    ds.Manufacturer = "Osteon"
    ds.ManufacturerModelName = "Digital CT phantom"
    ds.DeviceSerialNumber = "0"
    ds.SoftwareVersions = "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "CT phantom"
    ds.SeriesDescription = f"Torso, seed {seed}"
    ds.PatientName = f"Phantom^Torso {seed}"
    ds.PatientID = f"PHANTOM-{seed}"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.BodyPartExamined = "CHESTABDPELVIS"
    ds.ScanOptions = "HELICAL MODE"
    ds.KVP = "120"
    ds.PatientPosition = "HFS"
    ds.GantryDetectorTilt = "0"
    ds.ConvolutionKernel = "STANDARD"
    ds.StudyInstanceUID = _uid(*identity, "study")
    ds.SeriesInstanceUID = _uid(*identity, "series")
    ds.FrameOfReferenceUID = _uid(*identity, "frame of reference")
    ds.StudyID = str(seed)
    ds.SeriesNumber = 2
    ds.AcquisitionNumber = 1
    ds.PositionReferenceIndicator = ""
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = "400", "2000"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(STORED_MIN_HU), "1", "HU"
    ds.ImageComments = "Digital phantom; no patient"
    return ds
