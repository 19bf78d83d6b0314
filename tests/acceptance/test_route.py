"""The whole route on real CT: DCMTK sends, Orthanc holds one right Segmentation of each."""

import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - as its users call it

from tests.acceptance.parts import Node, Orthanc, dcmsend
from tests.tools import require_script

SERIES = ("ts_siemens_j2k", "ts_pelvis_3mm", "tptbox_vertebra", "vhf_ankle_jpegll")
CENTRE_TOLERANCE_MM = 0.01


class Returned(NamedTuple):
    """A series that went in and the Segmentation that came back."""

    name: str
    folder: Path
    seg: Path


@pytest.fixture(scope="module")
def route(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Returned]]:
    """Send every series by DCMTK through a node and collect what the PACS holds then."""
    folder = tmp_path_factory.mktemp("route")
    with (
        Orthanc(folder / "pacs", answers_queries=True) as pacs,
        Node(folder / "node", pacs_port=pacs.dicom_port) as node,
    ):
        returned = {}
        for name in SERIES:
            dcmsend(shared_data / name / "dicom", node.dicom_port)
        for name in SERIES:
            uid = _first(shared_data / name / "dicom").SeriesInstanceUID
            said = node.wait_for(uid, "done", "failed", "rejected", timeout_s=200)
            assert said["status"] == "done", said
            [delivery] = said["results"][0]["deliveries"]
            assert delivery["reason"] == "stored, and found there by C-FIND"
            [seg] = pacs.find(Modality="SEG", StudyInstanceUID=said["study_instance_uid"])
            path = folder / f"{name}.dcm"
            path.write_bytes(pacs.file(seg["ID"]))
            returned[name] = Returned(name, shared_data / name / "dicom", path)
        assert len(pacs.find(Modality="SEG")) == len(SERIES)
        yield returned


@pytest.mark.parametrize("name", SERIES)
def test_dciodvfy_finds_no_error(route: dict[str, Returned], name: str) -> None:
    done = subprocess.run(
        [require_script("dciodvfy"), "-new", str(route[name].seg)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    errors = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
    assert not errors


@pytest.mark.parametrize("name", SERIES)
def test_highdicom_reads_it_and_every_reference_is_of_the_source(
    route: dict[str, Returned], name: str
) -> None:
    seg = highdicom.seg.segread(route[name].seg)
    sources = {_uid(path) for path in route[name].folder.iterdir()}
    referenced = {
        str(item.ReferencedSOPInstanceUID)
        for series in seg.ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    assert seg.SegmentationType == "BINARY"
    assert seg.number_of_segments >= 1
    assert referenced == sources


@pytest.mark.parametrize("name", SERIES)
def test_voxel_centres_of_seg_and_ct_agree(route: dict[str, Returned], name: str) -> None:
    seg = pydicom.dcmread(route[name].seg)
    source = {_uid(path): pydicom.dcmread(path) for path in route[name].folder.iterdir()}
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    measures = shared.PixelMeasuresSequence[0]
    assert seg.FrameOfReferenceUID == next(iter(source.values())).FrameOfReferenceUID
    for frame in seg.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        ct = source[reference.ReferencedSOPInstanceUID]
        ours = _corners(
            frame.PlanePositionSequence[0].ImagePositionPatient,
            orientation,
            measures.PixelSpacing,
            (seg.Rows, seg.Columns),
        )
        theirs = _corners(
            ct.ImagePositionPatient,
            ct.ImageOrientationPatient,
            ct.PixelSpacing,
            (ct.Rows, ct.Columns),
        )
        assert np.abs(ours - theirs).max() < CENTRE_TOLERANCE_MM


@pytest.mark.parametrize("name", SERIES)
def test_dcmqi_reads_the_same_voxels(route: dict[str, Returned], name: str, tmp_path: Path) -> None:
    subprocess.run(
        [
            require_script("segimage2itkimage"),
            *("--inputDICOM", str(route[name].seg)),
            *("--outputDirectory", str(tmp_path)),
            *("--outputType", "nrrd"),
            "--mergeSegments",
        ],
        check=True,
        capture_output=True,
        timeout=240,
    )
    [merged] = tmp_path.glob("*.nrrd")
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(merged)))
    assert np.count_nonzero(read) == _set_bits(route[name].seg)


def test_dice_of_the_pelvis(route: dict[str, Returned], shared_data: Path) -> None:
    ours = _mask_by_source(route["ts_pelvis_3mm"])
    labels = nibabel.load(shared_data / "ts_pelvis_3mm" / "labels.nii.gz")
    # NIfTI is RAS and (x, y, z); the series is LPS with rows along y.
    reference = np.asarray(labels.dataobj)
    axes = nibabel.orientations.io_orientation(labels.affine)
    target = nibabel.orientations.axcodes2ornt(("L", "P", "S"))
    turned = nibabel.orientations.apply_orientation(
        reference, nibabel.orientations.ornt_transform(axes, target)
    )
    wanted = turned.transpose(2, 1, 0) > 0
    dice = 2 * np.count_nonzero(ours & wanted) / (ours.sum() + wanted.sum())
    assert dice >= 0.85


def _mask_by_source(returned: Returned) -> np.ndarray:
    """Return the union of all segments on the source grid, slices by ascending z."""
    seg = highdicom.seg.segread(returned.seg)
    ordered = sorted(
        (pydicom.dcmread(path, stop_before_pixels=True) for path in returned.folder.iterdir()),
        key=lambda ds: float(ds.ImagePositionPatient[2]),
    )
    planes = seg.get_pixels_by_source_instance(
        [ds.SOPInstanceUID for ds in ordered],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    return planes.any(axis=-1)


def _set_bits(path: Path) -> int:
    data = np.frombuffer(pydicom.dcmread(path).PixelData, np.uint8)
    return int(np.unpackbits(data).sum())


def _corners(
    position: list[float], orientation: list[float], spacing: list[float], shape: tuple[int, int]
) -> np.ndarray:
    """Return the centres of the first and last voxel of a plane in mm (PS3.3 C.7.6.2.1.1)."""
    along_row, along_column = np.asarray(orientation, float).reshape(2, 3)
    steps = (shape[1] - 1) * float(spacing[1]), (shape[0] - 1) * float(spacing[0])
    start = np.asarray(position, float)
    return np.stack([start, start + along_row * steps[0] + along_column * steps[1]])


def _first(folder: Path) -> pydicom.Dataset:
    return pydicom.dcmread(sorted(folder.iterdir())[0], stop_before_pixels=True)


def _uid(path: Path) -> str:
    return str(pydicom.dcmread(BytesIO(path.read_bytes()), stop_before_pixels=True).SOPInstanceUID)
