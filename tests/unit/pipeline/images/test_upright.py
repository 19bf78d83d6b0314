"""Tilted volumes set upright: where voxels are, that nothing is lost, and what a model sees."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from osteon.errors import ModelError
from osteon.pipeline.boneseg import combine
from osteon.pipeline.images.geometry import Geometry, SourceFrame
from osteon.pipeline.images.upright import Shear, shear_of, stood_up
from osteon.pipeline.models.modelspec import SegmentSpec
from osteon.pipeline.prediction import predict
from osteon.pipeline.volume import Volume, read_volume

ROW_MM, COLUMN_MM = 0.7, 0.9


def geometry(shape: tuple[int, int, int], tilt_degrees: float, sideways_mm: float = 0) -> Geometry:
    """Slices that lean about the patient's left-right axis, 3 mm apart along the table."""
    tilt = np.deg2rad(tilt_degrees)
    affine = np.eye(4)
    affine[:3, 0] = [COLUMN_MM, 0, 0]
    affine[:3, 1] = ROW_MM * np.array([0, np.cos(tilt), np.sin(tilt)])
    affine[:3, 2] = [sideways_mm, 0, 3]
    affine[:3, 3] = [-50, -60, 70]
    return Geometry(affine, shape, (3 * np.cos(tilt), ROW_MM, COLUMN_MM), "1.2.3")


def volume(hu_zyx: NDArray[Any], grid: Geometry) -> Volume:
    frames = [SourceFrame(Path(f"{z}.dcm"), 1, "1.2", f"1.2.{z}") for z in range(len(hu_zyx))]
    return Volume(hu_zyx, grid, tuple(frames))


def sheared(grid: Geometry) -> Shear:
    shear = shear_of(grid)
    assert shear is not None
    return shear


@pytest.mark.parametrize("tilt", [-30, -16.5, 8, 25])
@pytest.mark.parametrize("sideways_mm", [-0.4, 0, 0.3])
def test_the_upright_grid_is_rectangular_and_moves_no_voxel(
    tilt: float, sideways_mm: float
) -> None:
    grid = geometry((9, 20, 30), tilt, sideways_mm)
    shear = sheared(grid)
    columns = shear.geometry.affine[:3, :3]
    np.testing.assert_allclose(
        columns.T @ columns, np.diag(np.diag(columns.T @ columns)), atol=1e-9
    )
    assert shear.geometry.spacing_zyx_mm == grid.spacing_zyx_mm
    assert np.linalg.norm(columns[:, 2]) == pytest.approx(grid.spacing_zyx_mm[0])
    assert shear.geometry.shape_zyx == shear.shape_zyx
    for z, y, x in ((0, 0, 0), (8, 19, 29), (4, 7, 11)):
        row, column = shear.offsets_yx[z] + [y, x]
        assert 0 <= row <= shear.shape_zyx[1] - 1
        assert 0 <= column <= shear.shape_zyx[2] - 1
        np.testing.assert_allclose(
            shear.geometry.affine @ [column, row, z, 1], grid.affine @ [x, y, z, 1], atol=1e-9
        )


@given(st.floats(-40, 40), st.floats(-2, 2), st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_bytes_come_back_as_they_went(tilt: float, sideways_mm: float, slices: int) -> None:
    grid = geometry((slices, 7, 5), tilt, sideways_mm)
    shear = shear_of(grid)
    if shear is None:
        assert slices * 3 * np.sin(np.deg2rad(abs(tilt))) < 3 + ROW_MM
        return
    labels_zyx = np.random.default_rng(slices).integers(0, 256, grid.shape_zyx, np.uint8)
    upright_zyx = shear.labels(labels_zyx)
    assert upright_zyx.shape == shear.shape_zyx
    np.testing.assert_array_equal(shear.back(upright_zyx, grid.shape_zyx), labels_zyx)
    assert int(upright_zyx.sum()) == int(labels_zyx.sum())


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_grey_values_stay_where_they_are_in_the_patient(dtype: type[np.generic]) -> None:
    grid = geometry((8, 40, 30), 20, 0.4)
    z, y, x = np.indices(grid.shape_zyx)
    patient = np.stack([x, y, z, np.ones_like(x)], -1) @ grid.affine[:3].T
    ramp = patient @ [7.0, 3.0, 5.0]
    upright = sheared(grid).volume(volume(ramp.astype(dtype), grid))
    assert upright.hu_zyx.dtype == dtype
    z, y, x = np.indices(upright.hu_zyx.shape)
    patient = np.stack([x, y, z, np.ones_like(x)], -1) @ upright.geometry.affine[:3].T
    wanted = patient @ [7.0, 3.0, 5.0]
    for index, (row, column) in enumerate(sheared(grid).offsets_yx):
        inside = (
            index,
            slice(int(np.ceil(row)), int(row) + 39),
            slice(int(np.ceil(column)), int(column) + 29),
        )
        error_hu = np.abs(upright.hu_zyx[inside] - wanted[inside])
        assert error_hu.max() < (1.6 if dtype == np.int16 else 1e-3)
        beyond = upright.hu_zyx[index, int(row) + 42 :]
        assert (beyond == -1024).all()


def test_a_stack_that_stands_upright_is_left_alone() -> None:
    assert shear_of(geometry((50, 9, 9), 0)) is None
    assert shear_of(geometry((50, 9, 9), 0.2)) is None
    assert shear_of(geometry((50, 9, 9), 0.4)) is not None


class Column:
    """Class 1 where a voxel and both its neighbours along the stack are dense."""

    name, version, kind, digest = "column", "1", "test", "0"
    segments = (SegmentSpec(value=1, label="Column", rgb=(1, 2, 3)),)

    def __init__(self, dimension: Literal["2d", "3d"]) -> None:
        self.dimension: Literal["2d", "3d"] = dimension

    def predict(
        self, hu_zyx: NDArray[np.number[Any]], affine: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        return self._along_stack(hu_zyx > 300) if self.dimension == "3d" else _bytes(hu_zyx > 300)

    def join(self, prediction_zyx: NDArray[np.uint8], volume: Volume) -> NDArray[np.uint8]:
        assert prediction_zyx.shape == volume.hu_zyx.shape == volume.geometry.shape_zyx
        return prediction_zyx if self.dimension == "3d" else self._along_stack(prediction_zyx > 0)

    def _along_stack(self, dense_zyx: NDArray[np.bool_]) -> NDArray[np.uint8]:
        padded = np.pad(dense_zyx, ((1, 1), (0, 0), (0, 0)), mode="edge")
        return _bytes(padded[:-2] & padded[1:-1] & padded[2:])


def _bytes(mask_zyx: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return mask_zyx.astype(np.uint8)


@pytest.mark.parametrize("dimension", ["2d", "3d"])
def test_a_model_that_compares_slices_sees_a_straight_column_straight(
    dimension: Literal["2d", "3d"],
) -> None:
    # A column along the normal of the slices, 3 pixels thick: from slice to slice the tilt of
    # 30 degrees moves it by 2.1 pixels, so that on the source grid no three lie above each other.
    grid = geometry((11, 60, 20), 30)
    hu_zyx = np.full(grid.shape_zyx, -1000, np.int16)
    rows = np.rint(30 - np.arange(11) * 3 * np.sin(np.pi / 6) / ROW_MM).astype(int)
    for z, row in enumerate(rows):
        hu_zyx[z, row : row + 3, 8:12] = 1000
    model, source = Column(dimension), volume(hu_zyx, grid)
    labels_zyx, segments = combine(model, predict(model, source), source)
    assert labels_zyx.shape == hu_zyx.shape
    assert (hu_zyx[labels_zyx > 0] == 1000).all()
    assert (labels_zyx > 0).sum() > 0.6 * (hu_zyx == 1000).sum()
    assert [segment.label for segment in segments] == ["Column"]
    # The same on the source grid finds nothing but the ends of the stack.
    assert model._along_stack(hu_zyx > 300).sum() < 0.1 * (hu_zyx == 1000).sum()


def test_a_model_that_returns_another_shape_is_named() -> None:
    grid = geometry((5, 9, 9), 20)
    with pytest.raises(ModelError, match=r"shape \(5, 9, 9\) for the upright volume of \(5, "):
        sheared(grid).back(np.zeros((5, 9, 9), np.uint8), grid.shape_zyx)


def test_a_picture_shows_volume_and_labels_upright() -> None:
    grid = geometry((9, 20, 30), 20)
    hu_zyx = np.random.default_rng(1).integers(-1000, 1000, grid.shape_zyx, np.int16)
    shown, labels_zyx = stood_up(volume(hu_zyx, grid), _bytes(hu_zyx > 0))
    assert shown.hu_zyx.shape == labels_zyx.shape == sheared(grid).shape_zyx
    np.testing.assert_array_equal(labels_zyx, sheared(grid).labels(_bytes(hu_zyx > 0)))
    straight = volume(hu_zyx, geometry((9, 20, 30), 0))
    labels_zyx = _bytes(hu_zyx > 0)
    assert stood_up(straight, labels_zyx) == (straight, labels_zyx)


def test_a_real_tilted_gantry(shared_data: Path) -> None:
    source = read_volume(sorted((shared_data / "philips_tilt_phantom_jpegls").glob("*.dcm")))
    shear = sheared(source.geometry)
    upright = shear.volume(source)
    # 57 steps of 2.5 mm under 16.5 degrees.
    moved_px = 57 * 2.5 * np.sin(np.deg2rad(16.5)) / source.geometry.spacing_zyx_mm[1]
    assert upright.hu_zyx.shape == (58, 512 + int(np.ceil(moved_px)), 512)
    np.testing.assert_allclose(
        shear.geometry.affine[:3, 2] @ shear.geometry.affine[:3, 1], 0, atol=1e-6
    )
    assert abs(float(upright.hu_zyx[20:40].mean()) - float(source.hu_zyx[20:40].mean())) < 100
