"""What is done to a good CT series: each function changes data sets as an archive might hold them.

A list of data sets enters and leaves; ``test_bad_series.py`` says which of the results are still
one volume. They are decoded first: 16 bits, signed, Explicit VR Little Endian, rescale 1 and 0.
"""

import tempfile
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gdcm
import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

Series = list[Dataset]
Change = Callable[[Series], Series]

PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
AFFINE_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
}


def every(**values: Any) -> Change:
    """Set attributes in every slice; None deletes."""
    return lambda series: [_with(ds, values) for ds in series]


def one(index: int = 7, **values: Any) -> Change:
    """Set attributes in one slice; None deletes, bytes stand in the file as they are."""

    def change(series: Series) -> Series:
        _with(series[index], values)
        return series

    return change


def without(*indices: int) -> Change:
    return lambda series: [ds for index, ds in enumerate(series) if index not in indices]


def only(*indices: int) -> Change:
    return lambda series: [series[index] for index in indices]


def both(*changes: Change) -> Change:
    def change(series: Series) -> Series:
        for single in changes:
            series = single(series)
        return series

    return change


def reversed_files(series: Series) -> Series:
    return series[::-1]


def numbered(number: Callable[[int, int], int | None]) -> Change:
    """Give Instance Numbers by index and count."""

    def change(series: Series) -> Series:
        for index, ds in enumerate(series):
            _with(ds, {"InstanceNumber": number(index, len(series))})
        return series

    return change


def placed(position: Callable[[int, NDArray[np.float64]], Any]) -> Change:
    """Give Image Position (Patient) by index and what it was."""

    def change(series: Series) -> Series:
        for index, ds in enumerate(series):
            before = np.array(ds.ImagePositionPatient, np.float64)
            values = [_decimal(value) for value in position(index, before)]
            ds.ImagePositionPatient = values
        return series

    return change


def shifted(by_mm: Callable[[int], list[float]]) -> Change:
    """Move the position of each slice by its index."""
    return placed(lambda index, before: before + np.array(by_mm(index)))


def moved(matrix: NDArray[np.float64]) -> Change:
    """Move the patient, or bend the gantry: an affine map of patient coordinates, (4, 4)."""

    def change(series: Series) -> Series:
        for ds in series:
            position = matrix @ [*map(float, ds.ImagePositionPatient), 1]
            cosines = np.array(ds.ImageOrientationPatient, np.float64).reshape(2, 3)
            turned = cosines @ matrix[:3, :3].T
            ds.ImagePositionPatient = [f"{value:.9f}"[:16] for value in position[:3]]
            ds.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in turned.ravel()]
        return series

    return change


def rotation(axis: int, degrees: float) -> NDArray[np.float64]:
    """A rotation about a patient axis, (4, 4)."""
    turn = np.eye(4)
    a, b = [other for other in range(3) if other != axis]
    angle = np.deg2rad(degrees)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return turn


def tilted(degrees: float) -> NDArray[np.float64]:
    """A gantry that leans while the table still moves along z, (4, 4)."""
    lean = np.eye(4)
    lean[1, 1], lean[2, 1] = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return lean


def twin(index: int = 7, **values: Any) -> Change:
    """Add a slice again under its own SOP Instance UID."""

    def change(series: Series) -> Series:
        copy = _with(deepcopy(series[index]), values)
        copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = f"2.25.1{index}"
        return [*series, copy]

    return change


def same_file_twice(series: Series) -> Series:
    return [*series, deepcopy(series[3])]


def stored(values: Callable[[int, NDArray[np.int16]], NDArray[Any]], **header: Any) -> Change:
    """Give Pixel Data by index and Hounsfield units, and the header that describes it.

    A callable in the header is given the index.
    """

    def change(series: Series) -> Series:
        for index, ds in enumerate(series):
            pixels = values(index, hu(ds))
            _with(ds, {k: v(index) if callable(v) else v for k, v in header.items()})
            ds.Rows, ds.Columns = pixels.shape
            ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
            ds["PixelData"].VR = "OW"
        return series

    return change


def hu(ds: Dataset) -> NDArray[np.int16]:
    """The Hounsfield units of a slice that nothing was done to."""
    return np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)


def volume(series: Series) -> NDArray[np.int16]:
    return np.stack([hu(ds) for ds in series])


def resliced(axis: int) -> Change:
    """Cut the same voxels the other way: 1 is coronal, 2 is sagittal."""

    def change(series: Series) -> Series:
        hu_zyx = volume(series)
        first = np.array(series[0].ImagePositionPatient, np.float64)
        spacing_zyx_mm = (1.5, *map(float, series[0].PixelSpacing))
        # Rows run from head to feet, so the slices of both ascend against one patient axis.
        first[2] += spacing_zyx_mm[0] * (len(series) - 1)
        cosines = [1, 0, 0, 0, 0, -1] if axis == 1 else [0, 1, 0, 0, 0, -1]
        planes = []
        for index in range(hu_zyx.shape[axis]):
            ds = deepcopy(series[0])
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.7{axis}{index}"
            ds.InstanceNumber = index + 1
            position = first.copy()
            position[2 - axis] += index * spacing_zyx_mm[axis]
            ds.ImagePositionPatient = [f"{value:.6f}"[:16] for value in position]
            ds.ImageOrientationPatient = cosines
            ds.PixelSpacing = [spacing_zyx_mm[0], spacing_zyx_mm[3 - axis]]
            plane = np.ascontiguousarray(hu_zyx[::-1].take(index, axis))
            ds.Rows, ds.Columns = plane.shape
            ds.PixelData = plane.tobytes()
            planes.append(ds)
        return planes

    return change


def left_handed(series: Series) -> Series:
    """Turn rows upside down, pixels and cosines: the slices now descend along their normal."""
    for ds in series:
        flipped = np.ascontiguousarray(hu(ds)[::-1])
        position = np.array(ds.ImagePositionPatient, np.float64)
        position[1] += (ds.Rows - 1) * float(ds.PixelSpacing[0])
        ds.ImagePositionPatient = [f"{value:.6f}"[:16] for value in position]
        ds.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
        ds.PixelData = flipped.tobytes()
    return series


def quantised(series: Series) -> Series:
    """Round Hounsfield units so that eight bits hold them."""
    return stored(lambda _, hu_yx: (hu_yx.clip(-1024, 3056) + 1024) // 16 * 16 - 1024)(series)


def encoded(*syntaxes: str) -> Change:
    """Write the slices in these transfer syntaxes by turns."""

    def change(series: Series) -> Series:
        return [_encoded(ds, syntaxes[index % len(syntaxes)]) for index, ds in enumerate(series)]

    return change


def cut(share: float) -> Change:
    """Cut Pixel Data of a slice short, its length with it."""

    def change(series: Series) -> Series:
        value = series[7].PixelData
        series[7].PixelData = value[: int(len(value) * share) // 2 * 2]
        return series

    return change


def grown(extra: bytes) -> Change:
    def change(series: Series) -> Series:
        series[7].PixelData += extra
        return series

    return change


def mislabelled(series: Series) -> Series:
    """Compress a slice and say that it is not."""
    encoded(JPEGLSLossless)([series[7]])
    series[7].file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return series


def other_object(series: Series) -> Series:
    series[7].SOPClassUID = SecondaryCaptureImageStorage
    series[7].file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    return series


def legacy_converted(series: Series) -> Series:
    """Convert the whole series as highdicom does (PS3.3 A.70)."""
    made = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        legacy_datasets=series,
        series_instance_uid="2.25.900",
        series_number=9,
        sop_instance_uid="2.25.901",
        instance_number=1,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    ds = Dataset(made)
    ds.file_meta = made.file_meta
    return [ds]


def enhanced(
    order: Callable[[int], list[int]] = lambda count: list(range(count)),
    shared: tuple[str, ...] = ("PlaneOrientationSequence", "PixelMeasuresSequence"),
    parts: int = 1,
) -> Change:
    """Make Enhanced CT (PS3.3 A.38) of a series, its frames in any order, in so many instances."""

    def change(series: Series) -> Series:
        ordered = [series[index] for index in order(len(series))]
        size = -(-len(ordered) // parts)
        chunks = [ordered[at : at + size] for at in range(0, len(ordered), size)]
        return [_enhanced(chunk, shared, number) for number, chunk in enumerate(chunks, 1)]

    return change


def mixed_with_enhanced(series: Series) -> Series:
    return [*series[:12], *enhanced()(series[12:])]


def _enhanced(series: Series, shared: tuple[str, ...], number: int) -> Dataset:
    ds = deepcopy(series[0])
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.80{number}"
    ds.NumberOfFrames = len(series)
    ds.PixelData = b"".join(one.PixelData for one in series)
    ds["PixelData"].VR = "OW"
    common = Dataset()
    for name in shared:
        setattr(common, name, _macro(series[0], name))
    ds.SharedFunctionalGroupsSequence = Sequence([common])
    groups = []
    for source in series:
        group = Dataset()
        for name in AFFINE_GROUPS.keys() - set(shared):
            setattr(group, name, _macro(source, name))
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    for keywords in AFFINE_GROUPS.values():
        for keyword in keywords:
            if keyword in ds:
                del ds[keyword]
    return ds


def _macro(source: Dataset, name: str) -> Sequence:
    item = Dataset()
    for keyword in AFFINE_GROUPS[name]:
        if keyword in source:
            item[keyword] = deepcopy(source[keyword])
    return Sequence([item])


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 6.2)."""
    return f"{value:.6f}"[:16] if abs(value) < 1e8 else f"{value:.8e}"


def _with(ds: Dataset, values: dict[str, Any]) -> Dataset:
    for keyword, value in values.items():
        if value is None:
            if keyword in ds:
                del ds[keyword]
        elif keyword in PADDING:
            signed = ds.PixelRepresentation == 1
            ds.add_new(keyword, "SS" if signed else "US", value)
        elif isinstance(value, bytes) and keyword != "PixelData":
            # As it would stand in a file; pydicom itself writes no such value.
            padded = value + b" " * (len(value) % 2)
            ds[Tag(keyword)] = RawDataElement(
                Tag(keyword), dictionary_VR(keyword), len(padded), padded, 0, False, True
            )
        else:
            setattr(ds, keyword, value)
    return ds


def _encoded(ds: Dataset, syntax: UID) -> Dataset:
    if syntax == RLELossless:
        ds.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == JPEGLSLossless:
        ds.compress(syntax, encoding_plugin="pyjpegls", generate_instance_uid=False)
    elif syntax in (JPEGLossless, JPEGLosslessSV1, JPEG2000Lossless):
        return _encoded_by_gdcm(ds, syntax)
    elif syntax == ExplicitVRBigEndian:
        ds.PixelData = hu(ds).byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def _encoded_by_gdcm(ds: Dataset, syntax: UID) -> Dataset:
    """Compress a slice in a syntax for which pydicom has no encoder."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.dcm", Path(folder) / "after.dcm"
        ds.save_as(before, enforce_file_format=True)
        reader, changer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(str(before))
        assert reader.Read()
        changer.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        changer.SetInput(reader.GetImage())
        assert changer.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(after))
        writer.SetFile(reader.GetFile())
        writer.SetImage(changer.GetOutput())
        assert writer.Write()
        return pydicom.dcmread(after)


def write(series: Series, folder: Path) -> None:
    """Write the slices as Part 10 files, each in the transfer syntax that it names."""
    for index, ds in enumerate(series):
        syntax = ds.file_meta.TransferSyntaxUID
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of what a test made wrong
            pydicom.dcmwrite(
                folder / f"{index:03d}.dcm",
                ds,
                implicit_vr=syntax.is_implicit_VR,
                little_endian=syntax.is_little_endian,
                enforce_file_format=True,
            )
