"""Real series to Segmentations, judged by other people's programs: are they valid and right?"""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray

from osteon.pipeline.volume import SourceFrame
from osteon.results.gate import check_result
from osteon.results.peer import Destination
from osteon.results.scu import find_instance, store
from osteon.results.seg import Algorithm, encode_segmentation, write_part10
from osteon.results.segment import Code, Segment
from tests.tools import free_port, require_script, require_tool, wait_until

WITH_LABELS = ("ts_siemens_j2k", "ts_pelvis_3mm", "tptbox_vertebra")
THRESHOLDED = ("vhf_ankle_jpegll", "philips_tilt_phantom_jpegls")
TILTED = "philips_tilt_phantom_jpegls"
BONE_HU = 250


@dataclass(frozen=True)
class Encoded:
    """A series, the label map on its grid, and the Segmentation made of them."""

    name: str
    frames: list[SourceFrame]
    affine: NDArray[np.float64]
    labels_zyx: NDArray[np.uint8]
    path: Path


def read_series(folder: Path) -> list[tuple[Path, pydicom.Dataset]]:
    """The slices of a series, ordered along their normal."""
    slices = [(path, pydicom.dcmread(path)) for path in sorted(folder.rglob("*.dcm"))]
    orientation = np.array(slices[0][1].ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    return sorted(slices, key=lambda item: float(normal @ np.array(item[1].ImagePositionPatient)))


def affine_of(slices: list[tuple[Path, pydicom.Dataset]]) -> NDArray[np.float64]:
    """From voxel (column, row, slice) to patient coordinates in mm, LPS."""
    first, last = slices[0][1], slices[-1][1]
    between_rows, between_columns = map(float, first.PixelSpacing)
    orientation = np.array(first.ImageOrientationPatient, float)
    start = np.array(first.ImagePositionPatient, float)
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * between_columns
    affine[:3, 1] = orientation[3:] * between_rows
    affine[:3, 2] = (np.array(last.ImagePositionPatient, float) - start) / (len(slices) - 1)
    affine[:3, 3] = start
    return affine


def reference_labels(path: Path, affine: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The reference labels on the grid of the series, numbered 1..n."""
    image = nibabel.load(path)
    to_lps = np.diag([-1, -1, 1, 1]) @ image.affine
    between = np.linalg.inv(to_lps) @ affine  # voxel of the series → voxel of the labels
    whole = np.rint(between).astype(int)
    assert np.abs(between - whole).max() < 1e-3
    z, y, x = np.indices(shape)
    i, j, k = (axis[0] * x + axis[1] * y + axis[2] * z + axis[3] for axis in whole[:3])
    found = np.asarray(image.dataobj)[i, j, k]
    return np.searchsorted(np.unique(found), found).astype(np.uint8)


def segments_of(labels_zyx: NDArray[Any]) -> list[Segment]:
    return [
        Segment(
            number=number,
            label=f"Bone {number}",
            category=Code("123037004", "SCT", "Anatomical Structure"),
            type=Code("272673000", "SCT", "Bone"),
            modifier=Code("7771000", "SCT", "Left") if number % 2 else None,
            rgb=(241, 214, 145),
            volume_ml=float(np.count_nonzero(labels_zyx == number)) / 1000,
        )
        for number in range(1, int(labels_zyx.max()) + 1)
    ]


def encode(name: str, shared_data: Path, folder: Path) -> Encoded:
    slices = read_series(shared_data / name)
    affine = affine_of(slices)
    if name in WITH_LABELS:
        shape = (len(slices), slices[0][1].Rows, slices[0][1].Columns)
        labels_zyx = reference_labels(shared_data / name / "labels.nii.gz", affine, shape)
    else:
        labels_zyx = np.stack(
            [ds.pixel_array * ds.RescaleSlope + ds.RescaleIntercept > BONE_HU for _, ds in slices]
        ).astype(np.uint8)
    frames = [SourceFrame(path, 1, ds.SOPClassUID, ds.SOPInstanceUID) for path, ds in slices]
    dataset = encode_segmentation(
        frames,
        labels_zyx,
        segments_of(labels_zyx),
        algorithm=Algorithm("reference", "1", "0" * 64),
        sop_instance_uid=f"2.25.1{len(name)}",
        series_instance_uid=f"2.25.2{len(name)}",
        content_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    path = folder / f"{name}.dcm"
    write_part10(dataset, path)
    return Encoded(name, frames, affine, labels_zyx, path)


@pytest.fixture(scope="module", params=[*WITH_LABELS, *THRESHOLDED])
def encoded(
    request: pytest.FixtureRequest,
    shared_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Encoded:
    return encode(request.param, shared_data, tmp_path_factory.mktemp("seg"))


def test_the_gate_lets_it_pass(encoded: Encoded) -> None:
    check_result(encoded.path, encoded.frames, encoded.labels_zyx)


def test_dciodvfy_finds_no_error(encoded: Encoded) -> None:
    report = run(require_script("dciodvfy"), "-new", str(encoded.path))
    assert "Segmentation" in report  # it knew what it was looking at
    assert [line for line in report.splitlines() if "Error" in line] == []


def test_dcmqi_reads_the_same_voxels_in_the_same_place(encoded: Encoded, tmp_path: Path) -> None:
    program = require_script("segimage2itkimage")
    run(
        program,
        "--inputDICOM",
        str(encoded.path),
        "--outputDirectory",
        str(tmp_path),
        "--mergeSegments",
        "-t",
        "nrrd",
    )
    image = SimpleITK.ReadImage(str(tmp_path / "1.nrrd"))
    voxels_zyx = SimpleITK.GetArrayFromImage(image)
    count = 0
    for z, plane in enumerate(encoded.labels_zyx):
        if not plane.any():
            continue
        start_mm = encoded.affine[:3] @ [0, 0, z, 1]
        row, column = (encoded.affine[:3] @ [*step, z, 1] for step in ((1, 0), (0, 1)))
        index = round(image.TransformPhysicalPointToContinuousIndex(start_mm)[2])
        assert np.array_equal(voxels_zyx[index], plane)
        count += 1
        if encoded.name == TILTED:
            continue  # an ITK image has no shear, so dcmqi keeps the slices and loses their offset
        for voxel, mm in (((0, 0), start_mm), ((1, 0), row), ((0, 1), column)):
            found_mm = image.TransformIndexToPhysicalPoint((*voxel, index))
            assert np.linalg.norm(found_mm - mm) < 0.01
    assert np.count_nonzero(voxels_zyx.any(axis=(1, 2))) == count


def test_highdicom_reads_the_same_voxels(encoded: Encoded) -> None:
    segmentation = hd.seg.segread(encoded.path)
    found = segmentation.get_pixels_by_source_instance(
        [frame.sop_instance_uid for frame in encoded.frames],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    assert np.array_equal(found, encoded.labels_zyx)
    if encoded.name == TILTED:
        return  # highdicom has no volume for slices that are not stacked along their normal
    geometry = segmentation.get_volume_geometry()
    assert np.allclose(
        np.abs(np.linalg.det(geometry.affine)), np.abs(np.linalg.det(encoded.affine))
    )


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Destination, str]]:
    """Orthanc on loopback: where it takes instances, and the root of its REST API."""
    program = require_tool("/usr/sbin/Orthanc")
    folder, http, dicom = tmp_path_factory.mktemp("orthanc"), free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": http,
        "DicomPort": dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowFind": True,
        "DicomServerEnabled": True,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        [program, str(folder / "orthanc.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    root = f"http://127.0.0.1:{http}"
    try:
        wait_until(lambda: answers(f"{root}/system"), 30)
        yield Destination("ORTHANC", "127.0.0.1", dicom), root
    finally:
        process.terminate()
        process.wait(20)


def get(url: str, data: bytes | None = None) -> Any:
    with urllib.request.urlopen(url, data, timeout=10) as response:
        return json.load(response)


def answers(url: str) -> bool:
    try:
        return bool(get(url))
    except OSError:
        return False


def run(*command: str) -> str:
    """Run a program and return all it says; its exit status is not reliable."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    return done.stdout + done.stderr


def test_orthanc_takes_it_and_shows_what_it_is(
    encoded: Encoded, orthanc: tuple[Destination, str]
) -> None:
    destination, root = orthanc
    sent = pydicom.dcmread(encoded.path)
    (outcome,) = store(destination, [encoded.path])
    assert outcome.sop_instance_uid == sent.SOPInstanceUID
    (found,) = get(f"{root}/tools/lookup", sent.SOPInstanceUID.encode())
    tags = get(f"{root}/instances/{found['ID']}/simplified-tags")
    assert tags["Modality"] == "SEG"
    assert tags["SegmentationType"] == "BINARY"
    assert tags["NumberOfFrames"] == str(sent.NumberOfFrames)
    assert tags["PatientID"] == sent.PatientID
    assert len(tags["SegmentSequence"]) == encoded.labels_zyx.max()
    assert find_instance(destination, sent.SOPInstanceUID) is True
    assert find_instance(destination, "2.25.999") is False


def single_instances(shared_data: Path) -> Iterator[Path]:
    """CT instances of many makers, one of them in every transfer syntax that CT ever had."""
    yield from sorted((shared_data / "cornerstone_ct_16ts").glob("*.dcm"))
    yield from sorted((shared_data / "dcmqi").glob("*/multiframe/*.dcm"))
    yield shared_data / "dcmqi" / "ct-3slice" / "01.dcm"
    yield shared_data / "highdicom" / "ct_image.dcm"


def test_every_transfer_syntax_and_a_multi_frame_source(shared_data: Path, tmp_path: Path) -> None:
    for source in single_instances(shared_data):
        ds = pydicom.dcmread(source, stop_before_pixels=True)
        count = int(ds.get("NumberOfFrames", 1))
        frames = [
            SourceFrame(source, number, ds.SOPClassUID, ds.SOPInstanceUID)
            for number in range(1, count + 1)
        ]
        labels_zyx = np.zeros((count, ds.Rows, ds.Columns), np.uint8)
        labels_zyx[0, 5:9, 5:9] = 1
        dataset = encode_segmentation(
            frames,
            labels_zyx,
            segments_of(labels_zyx),
            algorithm=Algorithm("reference", "1", "0" * 64),
            sop_instance_uid="2.25.3",
            series_instance_uid="2.25.4",
            content_at=datetime(2026, 1, 2, tzinfo=UTC),
        )
        path = tmp_path / "seg.dcm"
        write_part10(dataset, path)
        check_result(path, frames, labels_zyx)
        report = run(require_script("dciodvfy"), "-new", str(path))
        assert [line for line in report.splitlines() if "Error" in line] == [], source.name
