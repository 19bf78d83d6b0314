"""The geometry gate, on facts alone: no file, no pixel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteon.errors import VolumeError
from osteon.pipeline.images.geometry import FrameHeader, SourceFrame, order_slices

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def header(index: int, position: Any, orientation: Any = AXIAL) -> FrameHeader:
    return FrameHeader(
        source=SourceFrame(Path(f"{index}.dcm"), 1, "1.2.840.10008.5.1.4.1.1.2", f"1.2.{index}"),
        patient_id="P",
        study_instance_uid="1.2",
        series_instance_uid="1.2.3",
        frame_of_reference_uid="1.2.4",
        instance_number=index,
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        samples_per_pixel=1,
        rows=512,
        columns=400,
        position_mm=tuple(float(value) for value in position),
        orientation=tuple(float(value) for value in orientation),
        pixel_spacing_mm=(0.7, 0.8),
    )


def stack(count: int, step: Any = (0.0, 0.0, 2.5), orientation: Any = AXIAL) -> list[FrameHeader]:
    start = np.array([-100.0, -120.0, 30.0])
    return [
        header(index + 1, start + index * np.array(step), orientation) for index in range(count)
    ]


@st.composite
def rotations(draw: st.DrawFn) -> np.ndarray:
    """Two cosine vectors of any orientation, as six numbers."""
    number = st.floats(-1, 1)
    first, second = (np.array(draw(st.tuples(number, number, number))) for _ in range(2))
    row = first if np.linalg.norm(first) > 0.1 else np.array([1.0, 0, 0])
    row /= np.linalg.norm(row)
    column = second - (second @ row) * row
    if np.linalg.norm(column) < 0.1:
        column = np.cross(row, [0.3, 0.5, 0.81] if abs(row[0]) > 0.5 else [1.0, 0, 0])
    return np.concatenate([row, column / np.linalg.norm(column)])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_orientation_in_any_order_gives_the_plane_equation(data: st.DataObject) -> None:
    orientation = data.draw(rotations())
    row, column = orientation[:3], orientation[3:]
    spacing = data.draw(st.floats(0.3, 10))
    headers = stack(data.draw(st.integers(3, 30)), spacing * np.cross(row, column), orientation)
    geometry, ordered = order_slices(data.draw(st.permutations(headers)))
    assert list(ordered) == headers
    assert geometry.shape_zyx == (len(headers), 512, 400)
    np.testing.assert_allclose(geometry.spacing_zyx_mm, (spacing, 0.7, 0.8), atol=1e-9)
    for index, one in enumerate(ordered):
        # PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1, at column 7 of row 11.
        expected = np.array(one.position_mm) + 7 * 0.8 * row + 11 * 0.7 * column
        np.testing.assert_allclose(geometry.affine @ [7, 11, index, 1], [*expected, 1], atol=1e-6)
    assert np.linalg.det(geometry.affine[:3, :3]) > 0


@given(st.integers(3, 40), st.sampled_from([0.5, 0.625, 1.25, 2.5, 5.0]))
@settings(max_examples=40, deadline=None)
def test_positions_rounded_to_a_tenth_of_a_millimetre_are_regular(count: int, mm: float) -> None:
    headers = [header(i, (0, 0, round(i * mm, 1))) for i in range(count)]
    geometry, _ = order_slices(headers)
    assert geometry.spacing_zyx_mm[0] == pytest.approx(mm, abs=0.06)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_missing_slices_are_counted_and_located(data: st.DataObject) -> None:
    headers = stack(data.draw(st.integers(12, 40)))
    gone = data.draw(st.integers(3, len(headers) - 6))
    count = data.draw(st.integers(1, 2))
    left = headers[:gone] + headers[gone + count :]
    with pytest.raises(VolumeError, match=rf"^{count} slices? (is|are) missing") as refusal:
        order_slices(data.draw(st.permutations(left)))
    assert f"image {gone} at" in refusal.value.message
    assert f"image {gone + count + 1} at" in refusal.value.message


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_slice_twice_is_never_a_volume(data: st.DataObject) -> None:
    headers = stack(data.draw(st.integers(3, 20)))
    twice = data.draw(st.sampled_from(headers))
    name = f"image {twice.instance_number}"
    reason = rf"2 images at one position .*: {name} \({twice.source.path}\), {name} \(b.dcm\)"
    with pytest.raises(VolumeError, match=reason):
        order_slices([*headers, replace(twice, source=replace(twice.source, path=Path("b.dcm")))])


@pytest.mark.parametrize("degrees", [-30, -16.5, 5, 30])
def test_a_gantry_tilt_shears_the_affine(degrees: float) -> None:
    tilt = np.deg2rad(degrees)
    orientation = (1, 0, 0, 0, np.cos(tilt), np.sin(tilt))
    geometry, _ = order_slices(stack(10, (0, 0, 3.0), orientation))
    np.testing.assert_allclose(geometry.affine[:3, 2], (0, 0, 3), atol=1e-9)
    assert geometry.spacing_zyx_mm[0] == pytest.approx(3 * np.cos(tilt))
    assert np.prod(geometry.spacing_zyx_mm) == pytest.approx(np.linalg.det(geometry.affine[:3, :3]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"orientation": (1, 0, 0, 0, 0.9848, 0.1736)}, "2 different orientations.*image 4$"),
        ({"pixel_spacing_mm": (0.7, 0.81)}, r"2 different pixel spacings.*0\.7\\0\.81: image 4$"),
        ({"rows": 256}, "2 different image sizes.*256 x 400: image 4$"),
        ({"frame_of_reference_uid": "9.9"}, "2 different frames of reference.*9.9: image 4$"),
        ({"frame_of_reference_uid": ""}, "2 different frames of reference.*none: image 4$"),
        ({"patient_id": "Q"}, "2 different patients.*Q: image 4$"),
        ({"study_instance_uid": "9.9"}, "2 different studies.*9.9: image 4$"),
        ({"series_instance_uid": "9.9"}, "2 different series.*9.9: image 4$"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, r"Localizer.*: image 4\."),
        ({"samples_per_pixel": 3}, "Colour images.*: image 4$"),
        ({"position_mm": None}, r"No valid Image Position \(Patient\) in image 4$"),
        ({"position_mm": (1.0, 2.0)}, r"No valid Image Position \(Patient\) in image 4$"),
        ({"orientation": None}, r"No valid Image Orientation \(Patient\) in image 4$"),
        ({"pixel_spacing_mm": None}, "No valid Pixel Spacing in image 4$"),
        ({"position_mm": (-100, -120, 38.3)}, "Irregular slice spacing: 3.30 mm between image 3 "),
        ({"position_mm": (-100, -119, 37.5)}, "not on a regular grid: image 4 at 37.50 mm is 1.0"),
    ],
)  # fmt: skip
def test_one_odd_slice_is_refused_by_name_and_reason(change: dict[str, Any], reason: str) -> None:
    headers = stack(9)
    headers[3] = replace(headers[3], **change)
    with pytest.raises(VolumeError, match=reason):
        order_slices(headers)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"orientation": (1, 0, 0, 0, 0.9, 0)}, "not two unit vectors"),
        ({"orientation": (1, 0, 0, 1, 0, 0)}, "not two unit vectors"),
        ({"orientation": (0, 0, 0, 0, 0, 0)}, "not two unit vectors"),
        ({"pixel_spacing_mm": (0.7, 0.0)}, "no distance of CT pixels"),
        ({"pixel_spacing_mm": (0.7, -0.7)}, "no distance of CT pixels"),
        ({"pixel_spacing_mm": (1e-300, 0.7)}, "no distance of CT pixels"),
        ({"pixel_spacing_mm": (0.7, 200.0)}, "no distance of CT pixels"),
        ({"position_mm": (0.0, 0.0, 1e308)}, "No valid Image Position"),
        ({"pixel_spacing_mm": (0.7, float("nan"))}, "No valid Pixel Spacing"),
        ({"frame_of_reference_uid": ""}, "^No Frame of Reference UID"),
        ({"rows": 0}, "not between 1 and"),
        ({"rows": 65535, "columns": 65535}, "not between 1 and"),
    ],
)
def test_what_is_wrong_in_all_slices_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(VolumeError, match=reason):
        order_slices([replace(one, **change) for one in stack(9)])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("spacing_mm", "limit_mm"), [(5.0, 0.1), (0.4, 0.08)])
def test_a_slice_may_be_off_the_grid_by_little(
    axis: int, spacing_mm: float, limit_mm: float
) -> None:
    headers = stack(20, (0.0, 0.0, spacing_mm))
    for share, accepted in ((0.9, True), (1.2, False)):
        position = np.array(headers[9].position_mm)
        position[axis] += share * limit_mm
        moved = [*headers[:9], replace(headers[9], position_mm=tuple(position)), *headers[10:]]
        if accepted:
            assert order_slices(moved)[0].shape_zyx[0] == 20
        else:
            with pytest.raises(VolumeError, match="image 10 at"):
                order_slices(moved)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_slices_are_refused(count: int) -> None:
    with pytest.raises(VolumeError, match=f"Too few slices: {count}"):
        order_slices(stack(count))


def test_a_spacing_that_changes_halfway_is_refused() -> None:
    headers = [header(i, (0, 0, z)) for i, z in enumerate([0, 3, 6, 9, 12, 16, 20, 24])]
    with pytest.raises(VolumeError, match=r"Irregular slice spacing: 4.00 mm .* and 2 more"):
        order_slices(headers)


def test_a_drift_that_no_single_step_shows_is_refused() -> None:
    steps = np.concatenate([np.full(100, 1.0), np.full(100, 1.02)])
    headers = [header(i, (0, 0, z)) for i, z in enumerate(np.cumsum(steps))]
    with pytest.raises(VolumeError, match="not on a regular grid"):
        order_slices(headers)


def test_slices_that_move_sideways_are_refused() -> None:
    with pytest.raises(VolumeError, match="sideways"):
        order_slices(stack(5, (0, 6.0, 3.0)))


def test_a_stack_that_walks_out_of_the_body_is_refused() -> None:
    small = [replace(one, pixel_spacing_mm=(0.001, 0.001)) for one in stack(20, (0, 1.0, 3.0))]
    with pytest.raises(VolumeError, match="move sideways by 19 mm in all, but are 1 mm wide"):
        order_slices(small)


def test_many_odd_slices_are_counted_not_listed() -> None:
    headers = stack(60)
    headers[20:40] = [replace(one, rows=256) for one in headers[20:40]]
    with pytest.raises(VolumeError, match=r"image 21, image 22, .* and 15 more") as refusal:
        order_slices(headers)
    assert len(refusal.value.message) < 300
