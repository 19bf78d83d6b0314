"""Whether a voxel lies inside bone, told from the bright walls around it.

A mask of bright voxels (cortex) enters; how closed each voxel is leaves. Marrow is closed on all
sides; the spinal canal, a joint space, a disc and a chest are open somewhere. Called by
`osteon.pipeline.bonevolume`.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RAYS = 26  # one to each neighbour of a voxel


def wall_hits(
    wall_zyx: NDArray[np.bool_], spacing_zyx_mm: tuple[float, float, float], reach_mm: float
) -> NDArray[np.uint8]:
    """Count the rays, of `RAYS` from each voxel, that meet a wall within a reach.

    What lies at the border of the volume is taken to go on beyond it, so that a bone which the
    scan cuts is as closed as it is at the cut.

    Parameters
    ----------
    wall_zyx : ndarray of bool, shape (slices, rows, columns)
        Bright voxels.
    reach_mm : float
        Length of the rays; about the widest marrow space.

    Returns
    -------
    ndarray of uint8, shape (slices, rows, columns)
        0 to 26.
    """
    hits = np.zeros(wall_zyx.shape, np.uint8)
    for axis in range(3):
        # Planes are handled one after another, so that a plane and its rays stay in the cache.
        planes = np.ascontiguousarray(np.moveaxis(wall_zyx.view(np.uint8), axis, 0))
        counts = np.zeros(planes.shape, np.uint8)
        for direction in _directions(axis):
            step_mm = float(np.linalg.norm(np.multiply(direction, spacing_zyx_mm)))
            steps = min(255, max(1, int(reach_mm / step_mm)))
            in_plane = tuple(d for other, d in enumerate(direction) if other != axis)
            _sweep(planes, counts, direction[axis], (in_plane[0], in_plane[1]), steps)
        hits += np.moveaxis(counts, 0, axis)
    return hits


def _directions(axis: int) -> Iterator[tuple[int, ...]]:
    """Yield the directions whose first component that is not 0 is on this axis: 26 in all."""
    for direction in itertools.product((-1, 0, 1), repeat=3):
        if direction[axis] != 0 and not any(direction[:axis]):
            yield direction


def _sweep(
    planes: NDArray[np.uint8],
    counts: NDArray[np.uint8],
    forward: int,
    shift: tuple[int, int],
    steps: int,
) -> None:
    """Carry light from the walls through the planes; it fades after `steps`."""
    order = list(range(len(planes)))[:: 1 if forward > 0 else -1]
    rows, columns = planes.shape[1:]
    light = np.zeros((rows, columns), np.uint8)
    padded = np.zeros((rows + 2, columns + 2), np.uint8)
    top, left = 1 - shift[0], 1 - shift[1]
    # The first plane stands for all that would come before it.
    for turn, index in enumerate([order[0]] * steps + order):
        if turn >= steps:
            counts[index] += light > 0
        np.maximum(light, planes[index] * np.uint8(steps + 1), out=light)
        light -= light > 0
        padded[1:-1, 1:-1] = light
        padded[0], padded[-1] = padded[1], padded[-2]
        padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
        light = padded[top : top + rows, left : left + columns].copy()


def leakage(
    open_zyx: NDArray[np.bool_],
    outside_zyx: NDArray[np.bool_],
    conductance_zyx: NDArray[np.float32],
    spacing_zyx_mm: tuple[float, float, float],
    length_mm: float,
) -> NDArray[np.float32]:
    """How freely the outside reaches each open voxel: 1 beside it, 0 where it cannot.

    The stationary solution of a diffusion that comes in from `outside_zyx`, spreads through
    `open_zyx`, and dies away over `length_mm` (a screened Poisson equation, Jacobi iteration). A
    space behind a small hole, as a vertebral body behind its basivertebral foramen, stays near 0;
    a space with a wide opening, as the spinal canal, does not.

    Parameters
    ----------
    open_zyx : ndarray of bool, shape (slices, rows, columns)
        Where it spreads.
    outside_zyx : ndarray of bool
        Where it comes from; apart from `open_zyx`. What is neither is a wall.
    conductance_zyx : ndarray of float32
        0 to 1; between two voxels the smaller one counts.

    Returns
    -------
    ndarray of float32, shape (slices, rows, columns)
        0 to 1 in open voxels; 0 in walls, 1 outside.
    """
    inside = np.flatnonzero(open_zyx)
    count = inside.size
    number = np.full(open_zyx.size, count + 1, np.int32)
    number[inside] = np.arange(count, dtype=np.int32)
    number[np.flatnonzero(outside_zyx)] = count
    flat = conductance_zyx.reshape(-1)
    total = np.full(count, length_mm**-2, np.float32)
    neighbours, weights = [], []
    strides = (open_zyx.shape[1] * open_zyx.shape[2], open_zyx.shape[2], 1)
    position = np.unravel_index(inside, open_zyx.shape)
    for axis, step in itertools.product(range(3), (-1, 1)):
        coordinate = position[axis] + step
        within = (coordinate >= 0) & (coordinate < open_zyx.shape[axis])
        other = np.where(within, inside + step * strides[axis], inside)
        neighbour = np.where(within, number[other], np.int32(count + 1))
        weight = np.minimum(flat[inside], flat[other]) / np.float32(spacing_zyx_mm[axis] ** 2)
        weight[neighbour == count + 1] = 0.0
        total += weight
        neighbours.append(neighbour)
        weights.append(weight)
    level = np.zeros(count + 2, np.float32)
    level[count] = 1.0
    weights = [weight / total for weight in weights]
    for _ in range(int(np.ceil(6.0 * length_mm / min(spacing_zyx_mm)))):
        following = weights[0] * level[neighbours[0]]
        for weight, neighbour in zip(weights[1:], neighbours[1:], strict=True):
            following += weight * level[neighbour]
        level[:count] = following
    result = outside_zyx.astype(np.float32)
    result.reshape(-1)[inside] = level[:count]
    return result
