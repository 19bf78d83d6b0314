"""Whether a voxel lies inside bone, told from the bright walls around it.

A mask of bright voxels (cortex) enters; how closed each voxel is leaves. Marrow is closed on all
sides; the spinal canal, a joint space, a disc and a chest are open somewhere. Called by
`osteon.pipeline.bones.bonevolume`.
"""

import itertools
from collections.abc import Iterator

import fill_voids
import numpy as np
from numpy.typing import NDArray


def wall_hits(
    wall_zyx: NDArray[np.bool_], spacing_zyx_mm: tuple[float, float, float], reach_mm: float
) -> NDArray[np.uint8]:
    """Count the rays, one from each voxel past each of its 26 neighbours, that meet a wall.

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


def framed(wall_zyx: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find what walls surround in two of the three planes.

    A canal or a foramen is open along its axis, so that a ring of bone is around it in one plane
    only; marrow behind a small gap is surrounded in every plane that misses the gap.

    Parameters
    ----------
    wall_zyx : ndarray of bool, shape (slices, rows, columns)
        Bright voxels, and marrow that is known.

    Returns
    -------
    ndarray of bool, shape (slices, rows, columns)
        Without the walls.
    """
    count = np.zeros(wall_zyx.shape, np.uint8)
    for axis in range(3):
        found = np.moveaxis(count, axis, 0)
        for index, plane in enumerate(np.moveaxis(wall_zyx, axis, 0)):
            if plane.any():
                found[index] += np.asarray(fill_voids.fill(np.ascontiguousarray(plane)), bool)
    return (count >= 2) & ~wall_zyx


def leakage(
    open_zyx: NDArray[np.bool_],
    outside_zyx: NDArray[np.bool_],
    conductance_zyx: NDArray[np.float32],
    spacing_zyx_mm: tuple[float, float, float],
    length_mm: float,
) -> NDArray[np.float32]:
    """How freely the outside reaches each open voxel: 1 beside it, 0 where it cannot.

    The stationary solution of a diffusion that comes in from `outside_zyx`, spreads through
    `open_zyx`, and dies away over `length_mm` (a screened Poisson equation, solved by successive
    over-relaxation to about 0.001). A space behind a small hole, as a vertebral body behind its
    basivertebral foramen, stays near 0; one with a wide opening, as the spinal canal, does not.

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
    inside, evens = _chequered(open_zyx)
    count = inside.size
    number = np.full(open_zyx.size, count + 1, np.int32)
    number[inside] = np.arange(count, dtype=np.int32)
    number[np.flatnonzero(outside_zyx)] = count
    neighbours, weights = _links(inside, number, conductance_zyx, spacing_zyx_mm)
    weights /= weights.sum(axis=0) + np.float32(length_mm**-2)
    # The spectral radius of the Jacobi iteration gives the best over-relaxation (Young 1954).
    radius = 1.0 - min(spacing_zyx_mm) ** 2 / (6.0 * length_mm**2 + min(spacing_zyx_mm) ** 2)
    factor = np.float32(2.0 / (1.0 + (1.0 - radius**2) ** 0.5))
    values = np.zeros(count + 2, np.float32)
    values[count] = 1.0
    for _ in range(int(np.ceil(8.0 * length_mm / min(spacing_zyx_mm)))):
        for half in (slice(0, evens), slice(evens, count)):
            values[half] *= 1.0 - factor
            for weight, neighbour in zip(weights, neighbours, strict=True):
                values[half] += factor * weight[half] * values[neighbour[half]]
    result = outside_zyx.astype(np.float32)
    result.reshape(-1)[inside] = values[:count]
    return result


def _chequered(open_zyx: NDArray[np.bool_]) -> tuple[NDArray[np.intp], int]:
    """Return the flat places of the open voxels, even ones first, and the number of even ones."""
    inside = np.flatnonzero(open_zyx)
    odd = np.add.reduce(np.unravel_index(inside, open_zyx.shape)) % 2 == 1
    return np.concatenate([inside[~odd], inside[odd]]), int((~odd).sum())


def _links(
    inside: NDArray[np.intp],
    number: NDArray[np.int32],
    conductance_zyx: NDArray[np.float32],
    spacing_zyx_mm: tuple[float, float, float],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the numbers of the six neighbours of each open voxel, and how well each conducts."""
    shape, flat = conductance_zyx.shape, conductance_zyx.reshape(-1)
    wall = inside.size + 1  # the number of whatever is neither open nor outside
    strides = (shape[1] * shape[2], shape[2], 1)
    position = np.unravel_index(inside, shape)
    neighbours = np.empty((6, inside.size), np.int32)
    weights = np.empty((6, inside.size), np.float32)
    for row, (axis, step) in enumerate(itertools.product(range(3), (-1, 1))):
        coordinate = position[axis] + step
        within = (coordinate >= 0) & (coordinate < shape[axis])
        other = np.where(within, inside + step * strides[axis], inside)
        neighbours[row] = np.where(within, number[other], wall)
        weights[row] = np.minimum(flat[inside], flat[other]) / np.float32(spacing_zyx_mm[axis] ** 2)
        weights[row][neighbours[row] == wall] = 0.0
    return neighbours, weights
