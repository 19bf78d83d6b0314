"""What the stages tell of segments is what their Segmentation says, upright and tilted."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from osteon.pipeline.job import WORKER_STAGES, Stage
from osteon.pipeline.phantoms.phantom import write_phantom
from osteon.pipeline.workers.request import StageRequest
from osteon.pipeline.workers.stages import run_stage

PIXEL_MM, STEP_MM = 3.0, 5.0


@pytest.mark.parametrize("tilt_degrees", [0, -18, 25])
def test_told_and_encoded_segments_agree(tmp_path: Path, tilt_degrees: float) -> None:
    tilt = np.deg2rad(tilt_degrees)
    series = _tilted_phantom(tmp_path / "ct", tilt)
    told, seg = _told_and_encoded(series, tmp_path)
    orders = np.argsort([float(ds.ImagePositionPatient[2]) for ds in series.values()])
    slice_of = {list(series.values())[n].SOPInstanceUID: z for z, n in enumerate(orders)}
    described = {int(item.SegmentNumber): item for item in seg.SegmentSequence}
    assert [segment["number"] for segment in told] == sorted(described)
    assert len(told) >= 2
    for segment in told:
        item = described[segment["number"]]
        assert segment["label"] == item.SegmentLabel
        for name, keyword in (("category", "Category"), ("type", "Type")):
            (code,) = item[f"SegmentedProperty{keyword}CodeSequence"].value
            assert segment[name] == {
                "value": code.CodeValue,
                "scheme": code.CodingSchemeDesignator,
                "meaning": code.CodeMeaning,
            }
        voxels, corners_mm = _by_brute_force(seg, segment["number"], slice_of, tilt)
        assert segment["box"]["first_zyx"] == voxels.min(axis=0).tolist()
        assert segment["box"]["last_zyx"] == voxels.max(axis=0).tolist()
        # The box holds every voxel, so that its extent is theirs where nothing is oblique.
        if tilt_degrees == 0:
            assert segment["box"]["min_xyz_mm"] == pytest.approx(corners_mm.min(axis=0), abs=2e-3)
            assert segment["box"]["max_xyz_mm"] == pytest.approx(corners_mm.max(axis=0), abs=2e-3)
        assert (segment["box"]["min_xyz_mm"] <= corners_mm.min(axis=0) + 2e-3).all()
        assert (segment["box"]["max_xyz_mm"] >= corners_mm.max(axis=0) - 2e-3).all()


def _tilted_phantom(folder: Path, tilt: float) -> dict[Path, Dataset]:
    """Write a phantom as a tilted gantry would: slices lean, and the table moves along z."""
    spacing_mm = (STEP_MM, PIXEL_MM, PIXEL_MM)
    phantom = write_phantom(folder, slices=16, rows=128, columns=128, spacing_mm=spacing_mm)
    series = {path: pydicom.dcmread(path) for path in sorted(phantom.dicom.iterdir())}
    for number, (path, ds) in enumerate(series.items()):
        if number in (7, 8):
            ds.PixelData = bytes(len(ds.PixelData))  # Air: what is above and below are two parts.
        leaning = [f"{cosine:.10f}" for cosine in (np.cos(tilt), np.sin(tilt))]
        ds.ImageOrientationPatient = [1, 0, 0, 0, *leaning]
        ds.save_as(path)
    return series


def _told_and_encoded(
    series: dict[Path, Dataset], folder: Path
) -> tuple[list[dict[str, Any]], Dataset]:
    outputs: dict[Stage, Path] = {}
    for stage in WORKER_STAGES:
        report = run_stage(
            StageRequest(
                job_id=1,
                stage=stage,
                attempt=1,
                out=folder / stage,
                inputs=tuple(series),
                outputs=outputs.copy(),
                model="builtin:bone",
                models_dir=None,
                input_sha256=f"{folder.name:0>64}",
                content_at=1_767_000_000.0,
            )
        )
        outputs[stage] = folder / stage
    return report.facts["segments"], pydicom.dcmread(folder / Stage.ENCODE / "seg.dcm")


def _by_brute_force(
    seg: Dataset, number: int, slice_of: dict[str, int], tilt: float
) -> tuple[Any, Any]:
    """Return the indices of a segment's voxels and the corners of each, from its frames alone."""
    along_mm = PIXEL_MM * np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)]])
    step_mm = np.array([0, 0, STEP_MM])
    halves = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3), -1).reshape(-1, 3)
    around_mm = halves @ np.stack([*along_mm, step_mm])
    voxels, corners_mm = [], []
    for groups, plane in zip(
        seg.PerFrameFunctionalGroupsSequence, seg.pixel_array.reshape(-1, 128, 128), strict=True
    ):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        origin_mm = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(plane)
        slices = np.full(rows.size, slice_of[source.ReferencedSOPInstanceUID])
        voxels.append(np.stack([slices, rows, columns], 1))
        centres_mm = origin_mm + np.stack([columns, rows], 1) @ along_mm
        corners_mm.append((centres_mm[:, None] + around_mm).reshape(-1, 3))
    return np.concatenate(voxels), np.concatenate(corners_mm)
