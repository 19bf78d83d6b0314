"""Filters on regular grids: shrink, smooth, and the largest value in a box.

Arrays of any number of axes enter and leave; one value per axis says how far. Used where
``builtin:bone`` looks at slices and volumes; numpy alone, so that the same input gives the same
bits on every machine and in every company of slices.
"""

import itertools
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)


def shrunk(
    image: NDArray[np.float32] | NDArray[np.uint8] | NDArray[np.bool_], factors: tuple[int, ...]
) -> NDArray[np.float32]:
    """Average blocks of voxels of a volume; blocks that reach beyond the border repeat it.

    Parameters
    ----------
    image : ndarray, shape (slices, rows, columns)
        What is averaged; of a mask, the share of a block that it covers is returned.
    factors : tuple of int
        Size of a block along each axis, in voxels.

    Returns
    -------
    ndarray of float32
        As many voxels along each axis as there are blocks.
    """
    width = [(0, -n % factor) for n, factor in zip(image.shape, factors, strict=True)]
    padded = np.pad(image, width, mode="edge") if any(after for _, after in width) else image
    total = np.zeros([n // f for n, f in zip(padded.shape, factors, strict=True)], np.float32)
    # One plane after another, so that it stays in the cache while its blocks are summed.
    for index, plane in enumerate(total):
        for offset in itertools.product(*(range(factor) for factor in factors)):
            block_yx = padded[index * factors[0] + offset[0]]
            np.add(plane, block_yx[offset[1] :: factors[1], offset[2] :: factors[2]], out=plane)
    total *= np.float32(1.0 / np.prod(factors))
    return total


def gaussian(image: NDArray[np.float32], sigmas: tuple[float, ...]) -> NDArray[np.float32]:
    """Smooth along every axis; the border goes on beyond itself.

    Parameters
    ----------
    image : ndarray of float32
        Of any number of axes.
    sigmas : tuple of float
        Standard deviation along each axis in voxels; an axis with less than 0.3 is left alone.
    """
    for axis, sigma in enumerate(sigmas):
        if sigma < 0.3:
            continue
        radius = int(np.ceil(3.0 * sigma))
        taps = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
        taps = (taps / (taps[0] + 2.0 * taps[1:].sum())).astype(np.float32)
        padded = _padded(image, axis, radius)
        count = image.shape[axis]
        smooth = image * taps[0]
        pair = np.empty_like(smooth)
        for step in range(1, radius + 1):
            before = _part(padded, axis, radius - step, radius - step + count)
            after = _part(padded, axis, radius + step, radius + step + count)
            np.add(before, after, out=pair)
            pair *= taps[step]
            smooth += pair
        image = smooth
    return image


def box_maximum(image: NDArray[Scalar], radii: tuple[int, ...]) -> NDArray[Scalar]:
    """Return the largest value of the box around each voxel; of a mask, its dilation.

    Parameters
    ----------
    image : ndarray
        Of any number of axes.
    radii : tuple of int
        Half the box along each axis, in voxels, its centre not counted.
    """
    for axis, radius in enumerate(radii):
        if radius == 0:
            continue
        image = _padded(image, axis, radius)
        covered = 1
        while covered < 2 * radius + 1:
            step = min(covered, 2 * radius + 1 - covered)
            count = image.shape[axis]
            image = np.maximum(_part(image, axis, 0, count - step), _part(image, axis, step, count))
            covered += step
    return image


def box_minimum(image: NDArray[np.uint8], radii: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the smallest value of the box around each voxel, as `box_maximum` the largest."""
    return ~box_maximum(~image, radii)


def voxels(length_mm: float, spacing_mm: tuple[float, ...], at_least: int = 0) -> tuple[int, ...]:
    """Return a length as a number of voxels along each axis."""
    return tuple(max(at_least, round(length_mm / mm)) for mm in spacing_mm)


def _padded(image: NDArray[Scalar], axis: int, radius: int) -> NDArray[Scalar]:
    width = [(radius, radius) if other == axis else (0, 0) for other in range(image.ndim)]
    return np.pad(image, width, mode="edge")


def _part(image: NDArray[Scalar], axis: int, start: int, stop: int) -> NDArray[Scalar]:
    return image[(*(slice(None),) * axis, slice(start, stop))]
