"""Series that are not quite what a CT series should be, through the whole route of ``osteon run``.

A real series is changed in one way. What is no volume any more must be refused, with its reason;
what still is must give the bones of the unchanged series: the same voxels, at the same places in
the patient. A Segmentation that is silently wrong is the one thing that may not come out.
"""

import hashlib
import json
import re
import subprocess
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from osteon.cli.run import command
from osteon.errors import VolumeError
from osteon.results.bits import unpack
from tests.anomaly import series_changes as c
from tests.anomaly.series_cases import BONE, ILLEGAL, LEGAL, SLICES, THRESHOLD, Legal
from tests.tools import require_script

MODEL = """
name = "threshold"
version = "1"
kind = "torchscript"
weights = "weights.ts"
sha256 = "{sha256}"
[input]
dimension = "2d"
hu_window = [-1000.0, 1000.0]
patch = [80, 80]
[[output.segments]]
value = 1
label = "Dense"
rgb = [255, 0, 0]
"""


class _Dense(torch.nn.Module):
    """What is denser than 200 HU: a voxel's label does not depend on how the volume was cut."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image - 0.6


@pytest.fixture(scope="module")
def originals(shared_data: Path) -> c.Series:
    """Real voxels; the invented spacing tells rows from columns and both from slices."""
    paths = sorted((shared_data / "tptbox_vertebra" / "dicom").iterdir())
    series = [pydicom.dcmread(path) for path in paths[10 : 10 + SLICES]]
    return c.numbered(lambda index, _: index + 1)(c.every(PixelSpacing=["1.2", "1.7"])(series))


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / THRESHOLD
    folder.mkdir()
    weights = folder / "weights.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(_Dense()), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "model.toml").write_text(MODEL.format(sha256=digest))
    return folder.parent


@pytest.fixture(scope="module")
def route(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def run(series: c.Series, model: str) -> tuple[int, dict[str, Any], Path]:
        folder = tmp_path_factory.mktemp("series")
        (folder / "ct").mkdir()
        c.write(series, folder / "ct")
        done = CliRunner().invoke(
            command,
            [str(folder / "ct"), "-o", str(folder / "out"), "--model", model, "--json"],
            env={"OSTEON_PIPELINE__MODELS_DIR": str(models_dir)},
        )
        if done.exception is not None and not isinstance(done.exception, SystemExit | VolumeError):
            raise done.exception
        summary = json.loads((folder / "out" / "summary.json").read_text())
        code = getattr(done.exception, "exit_code", done.exit_code)
        return code, summary, folder / "out" / "seg.dcm"

    return run


@pytest.mark.parametrize("name", ILLEGAL)
def test_what_is_no_volume_is_refused_with_its_reason(
    name: str, originals: c.Series, route: Callable[..., Any]
) -> None:
    change, reason = ILLEGAL[name]
    code, summary, seg = route(change(deepcopy(originals)), BONE)
    [said] = summary["series"]
    assert said["status"] == "failed"
    assert code == VolumeError.exit_code
    assert not seg.exists()
    assert re.search(reason, said["reason"])


@pytest.fixture(scope="module")
def reference(
    originals: c.Series, route: Callable[..., Any]
) -> Callable[[Legal], tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Voxel indices and labels of the unchanged series."""
    known: dict[tuple[str, c.Change], tuple[NDArray[np.int64], NDArray[np.uint8]]] = {}

    def look_up(case: Legal) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        key = (case.model, case.before)
        if key not in known:
            _, _, seg = route(case.before(deepcopy(originals)), case.model)
            known[key] = _on_grid(*_labelled_points(seg), originals, np.eye(4), 0.01)
        return known[key]

    return look_up


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_still_a_volume_gives_the_same_bones(
    name: str,
    originals: c.Series,
    route: Callable[..., Any],
    reference: Callable[[Legal], tuple[NDArray[np.int64], NDArray[np.uint8]]],
) -> None:
    case = LEGAL[name]
    series = case.change(case.before(deepcopy(originals)))
    code, summary, seg = route(series, case.model)
    [said] = summary["series"]
    assert said["status"] == "done", said["reason"]
    assert code == 0
    points_mm, labels = _labelled_points(seg)
    found = _on_grid(points_mm, labels, originals, case.moved, 0.01 + case.tolerance_mm)
    wanted = reference(case)
    assert wanted[1].size > 1000
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])
    _assert_frames_are_their_sources(seg, series)
    report = subprocess.run(
        [require_script("dciodvfy"), "-new", str(seg)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Error" not in report.stdout + report.stderr, report.stderr


def _assert_frames_are_their_sources(seg: Path, series: c.Series) -> None:
    """Every frame of the result lies where the frame does that it names as its source."""
    positions: dict[tuple[str, int | None], NDArray[np.float64]] = {}
    for ds in series:
        uid = str(ds.SOPInstanceUID)
        groups = ds.get("PerFrameFunctionalGroupsSequence")
        if groups is None:
            positions[uid, None] = np.array(ds.ImagePositionPatient, np.float64)
        for number, group in enumerate(groups or (), 1):
            plane = group.PlanePositionSequence[0]
            positions[uid, number] = np.array(plane.ImagePositionPatient, np.float64)
    for groups in pydicom.dcmread(seg).PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        number = source.get("ReferencedFrameNumber")
        wanted_mm = positions[source.ReferencedSOPInstanceUID, number]
        found_mm = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, np.float64)
        np.testing.assert_allclose(found_mm, wanted_mm, atol=0.001)


def _labelled_points(seg: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Where in the patient each voxel of a segment is, and which segment it is."""
    ds = pydicom.dcmread(seg)
    masks = unpack(ds.PixelData, int(ds.NumberOfFrames), (int(ds.Rows), int(ds.Columns)))
    shared = ds.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, np.float64)
    spacing_mm = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, np.float64)
    # PS3.3 equation C.7.6.2.1-1.
    along_column, along_row = cosines[3:] * spacing_mm[0], cosines[:3] * spacing_mm[1]
    points, labels = [], []
    for mask, groups in zip(masks, ds.PerFrameFunctionalGroupsSequence, strict=True):
        row, column = np.nonzero(mask)
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, np.float64)
        points.append(position + row[:, None] * along_column + column[:, None] * along_row)
        holder = groups if "SegmentIdentificationSequence" in groups else shared
        number = holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        labels.append(np.full(row.size, number, np.uint8))
    return np.concatenate(points), np.concatenate(labels)


def _on_grid(
    points_mm: NDArray[np.float64],
    labels: NDArray[np.uint8],
    originals: c.Series,
    moved: NDArray[np.float64],
    tolerance_mm: float,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Voxel indices of points on the grid of the unchanged series, sorted, and their labels."""
    first, last = originals[0], originals[-1]
    begin = np.array(first.ImagePositionPatient, np.float64)
    end = np.array(last.ImagePositionPatient, np.float64)
    grid = np.eye(4)
    grid[0, 0], grid[1, 1] = float(first.PixelSpacing[1]), float(first.PixelSpacing[0])
    grid[:3, 2], grid[:3, 3] = (end - begin) / (len(originals) - 1), begin
    homogeneous = np.column_stack([points_mm, np.ones(len(points_mm))])
    index_xyz = (homogeneous @ np.linalg.inv(moved @ grid).T)[:, :3]
    nearest = np.rint(index_xyz).astype(np.int64)
    off_mm = np.abs((index_xyz - nearest) @ (moved @ grid)[:3, :3].T)
    assert off_mm.max() < tolerance_mm
    order = np.lexsort(nearest.T)
    return nearest[order], labels[order]
