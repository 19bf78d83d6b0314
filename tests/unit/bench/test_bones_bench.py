"""What the bones' benchmark measures, on shapes whose measures are known."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))
from bone_measures import body_of, surface_distances_mm

SPACING_MM = (2.0, 1.0, 1.0)


def block(rows: slice) -> NDArray[np.bool_]:
    """Return a block from the first to the last slice and column: two flat surfaces."""
    mask = np.zeros((5, 60, 30), bool)
    mask[:, rows] = True
    return mask


def test_surfaces_that_lie_apart() -> None:
    assert surface_distances_mm(block(slice(10, 40)), block(slice(10, 40)), SPACING_MM) == (0, 0)
    # One surface is where it should be, the other is 3 mm off, both ways.
    mean_mm, most_mm = surface_distances_mm(
        block(slice(10, 40)), block(slice(10, 43)), SPACING_MM
    ) or (0, 0)
    assert mean_mm == pytest.approx(1.5)
    assert most_mm == pytest.approx(3)


def test_slices_are_as_far_apart_as_they_are() -> None:
    low, high = np.zeros((2, 9, 8, 8), bool)
    low[:3] = high[:5] = True
    assert surface_distances_mm(low, high, SPACING_MM) == pytest.approx((4, 4))


def test_no_surface_has_no_distance() -> None:
    empty = np.zeros((5, 60, 30), bool)
    assert surface_distances_mm(block(slice(10, 40)), empty, SPACING_MM) is None


def test_a_table_is_outside_of_the_body_and_a_lung_within() -> None:
    hu_zyx = np.full((4, 160, 200), -1000, np.int16)
    y, x = np.indices((160, 200))
    hu_zyx[:, ((y - 70) / 50) ** 2 + ((x - 90) / 70) ** 2 < 1] = 40
    hu_zyx[:, ((y - 65) / 25) ** 2 + ((x - 70) / 20) ** 2 < 1] = -850  # a lung
    hu_zyx[:, (y - 70) ** 2 + (x - 180) ** 2 < 12**2] = 40  # an arm
    hu_zyx[:, 120:123] = 300  # the shell of a table, which the body touches
    body = body_of(hu_zyx, SPACING_MM)
    assert body[:, 65, 70].all()
    assert body[:, 70, 180].all()
    assert not body[:, 120:123, :60].any()
    assert not body[:, 140:].any()
    assert (body & (hu_zyx == 40)).sum() == (hu_zyx == 40).sum()
