"""Boxes of segments against boxes by brute force."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from osteon.errors import EncodingError
from osteon.pipeline.phantoms.phantom import render_phantom
from osteon.results.box import Box, boxes_of


def by_brute_force(labels_zyx: NDArray[Any], number: int) -> Box:
    found = np.argwhere(labels_zyx == number).tolist()
    first, last = (tuple(end(axis) for axis in zip(*found, strict=True)) for end in (min, max))
    return Box((first[0], first[1], first[2]), (last[0], last[1], last[2]))


@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_any_label_map(seed: int, shape: tuple[int, int, int], count: int) -> None:
    rng = np.random.default_rng(seed)
    labels_zyx = rng.integers(0, count + 1, shape, np.uint8)
    labels_zyx[rng.random(shape) < rng.random()] = 0
    present = sorted(set(labels_zyx.ravel().tolist()) - {0})
    labels_zyx = np.searchsorted([0, *present], labels_zyx).astype(np.uint8)
    boxes = boxes_of(labels_zyx, len(present))
    assert list(boxes) == [by_brute_force(labels_zyx, n + 1) for n in range(len(present))]


def test_the_bones_of_a_phantom() -> None:
    _, labels_zyx, names = render_phantom(3, (24, 96, 96), (12.0, 4.0, 4.0))
    numbers = np.zeros(256, np.uint16)
    numbers[sorted(names)] = np.arange(len(names)) + 1
    labels_zyx = numbers[labels_zyx]
    assert len(names) > 20
    boxes = boxes_of(labels_zyx, len(names))
    assert list(boxes) == [by_brute_force(labels_zyx, n + 1) for n in range(len(names))]


def test_a_segment_that_fills_rows_to_their_ends() -> None:
    labels_zyx = np.zeros((2, 3, 4), np.uint8)
    labels_zyx[1, 0, 3] = labels_zyx[1, 1, 0] = 1
    labels_zyx[0] = 2
    assert boxes_of(labels_zyx, 2) == (
        Box((1, 0, 0), (1, 1, 3)),
        Box((0, 0, 0), (0, 2, 3)),
    )


def test_an_array_that_is_no_contiguous_one() -> None:
    labels_zyx = np.zeros((4, 6, 8), np.uint8)
    labels_zyx[2, 4, 2] = 1
    assert boxes_of(labels_zyx[::2, ::2, ::2], 1) == (Box((1, 2, 1), (1, 2, 1)),)


@pytest.mark.parametrize(
    ("count", "message"), [(1, "label 2 has no segment"), (3, "no voxel belongs to segment 3")]
)
def test_labels_that_do_not_fit_the_segments(count: int, message: str) -> None:
    labels_zyx = np.zeros((2, 2, 2), np.uint8)
    labels_zyx[0, 0] = [1, 2]
    with pytest.raises(EncodingError, match=message):
        boxes_of(labels_zyx, count)


@pytest.mark.parametrize("tilt_degrees", [0, -16.5, 25])
@pytest.mark.parametrize("turn_degrees", [0, 30, 180])
def test_the_extent_holds_every_voxel_of_the_box_and_no_more(
    tilt_degrees: float, turn_degrees: float
) -> None:
    tilt, turn = np.deg2rad([tilt_degrees, turn_degrees])
    affine = np.eye(4)
    affine[:3, 0] = 0.9 * np.array([np.cos(turn), np.sin(turn), 0])
    affine[:3, 1] = 0.7 * np.array([-np.sin(turn), np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    affine[:3, 2] = [0.2, 0, 3]
    affine[:3, 3] = [-50, -60, 70]
    box = Box((2, 5, 7), (4, 5, 11))
    corners = [
        affine[:3] @ [x + dx, y + dy, z + dz, 1]
        for z in range(2, 5)
        for y in range(5, 6)
        for x in range(7, 12)
        for dx in (-0.5, 0.5)
        for dy in (-0.5, 0.5)
        for dz in (-0.5, 0.5)
    ]
    low_mm, high_mm = box.extent_mm(affine)
    np.testing.assert_allclose(low_mm, np.min(corners, axis=0), atol=1e-9)
    np.testing.assert_allclose(high_mm, np.max(corners, axis=0), atol=1e-9)


def test_one_voxel_is_as_large_as_it_is() -> None:
    affine = np.diag([0.9, 0.7, 3.0, 1.0])
    low_mm, high_mm = Box((0, 0, 0), (0, 0, 0)).extent_mm(affine)
    np.testing.assert_allclose(high_mm - low_mm, [0.9, 0.7, 3.0])
    np.testing.assert_allclose(high_mm + low_mm, 0)
