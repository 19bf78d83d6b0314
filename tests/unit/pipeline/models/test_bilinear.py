"""Interpolation of a part of a plane: what that of the whole plane gives there."""

import pytest
import torch

from osteon.pipeline.models.bilinear import Plane

SHAPES = [
    ((273, 273), (512, 512)), ((200, 180), (90, 75)), ((30, 26), (23, 30)), ((1, 5), (7, 5)),
    ((9, 1), (1, 12)), ((40, 31), (40, 80)), ((40, 31), (40, 31)),
]  # fmt: skip


@pytest.mark.parametrize(("shape_from", "shape_to"), SHAPES)
def test_a_whole_plane_is_that_of_torch(
    shape_from: tuple[int, int], shape_to: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, 3, *shape_from)
    wanted = torch.nn.functional.interpolate(values, shape_to, mode="bilinear", align_corners=False)
    rows, columns = (slice(0, size) for size in shape_from)
    plane = Plane(shape_from, shape_to)
    assert plane.inside(rows, columns) == tuple(slice(0, size) for size in shape_to)
    assert torch.allclose(plane.between(values, rows, columns), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("shape_from", "shape_to"), SHAPES)
def test_parts_that_overlap_by_one_are_the_whole_to_the_last_bit(
    shape_from: tuple[int, int], shape_to: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    values = torch.randn(2, *shape_from)
    plane = Plane(shape_from, shape_to)
    wanted = plane.between(values, slice(0, shape_from[0]), slice(0, shape_from[1]))
    pieced = torch.full_like(wanted, torch.nan)
    rows, columns = (
        [slice(max(0, start - 1), min(start + 7, size)) for start in range(0, size, 7)]
        for size in shape_from
    )
    for own_rows in rows:
        for own_columns in columns:
            there = plane.inside(own_rows, own_columns)
            part = plane.between(values[:, own_rows, own_columns], own_rows, own_columns)
            assert part.shape == pieced[:, *there].shape
            pieced[:, *there] = part
    assert torch.equal(pieced, wanted)
