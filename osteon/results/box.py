"""Where each segment lies: the box around its voxels, as indices and in the patient.

A label map enters, the box of each segment leaves. Called where the encode stage sums up what was
found (`osteon.results.summary`).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from osteon.results.bits import LabelMap, refuse_empty, refuse_unknown


@dataclass(frozen=True)
class Box:
    """The smallest box of whole voxels that holds a segment.

    Attributes
    ----------
    first_zyx, last_zyx : tuple of int
        Slice, row and column of its first and of its last voxels, from 0, both inside.
    """

    first_zyx: tuple[int, int, int]
    last_zyx: tuple[int, int, int]

    def extent_mm(
        self, affine: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how far the box reaches in the patient.

        The voxels count in full: a box of one voxel is as large as this voxel. On an oblique or
        tilted grid the box is none in the patient, and what is returned holds all of its corners.

        Parameters
        ----------
        affine : ndarray of float64, shape (4, 4)
            Maps the centre of a voxel (column, row, slice, 1) to patient millimetres in LPS.

        Returns
        -------
        min_xyz_mm, max_xyz_mm : ndarray of float64, shape (3,)
            Least and greatest x, y and z of the eight corners.

        References
        ----------
        DICOM PS3.3 C.7.6.2.1.1 (Image Position and Image Orientation)
        """
        sides_xyz = [
            (first - 0.5, last + 0.5)
            for first, last in zip(self.first_zyx[::-1], self.last_zyx[::-1], strict=True)
        ]
        corners = np.array([(*corner, 1.0) for corner in product(*sides_xyz)])
        corners_xyz_mm = corners @ affine[:3].T
        return corners_xyz_mm.min(axis=0), corners_xyz_mm.max(axis=0)


def boxes_of(labels_zyx: LabelMap, segment_count: int) -> tuple[Box, ...]:
    """Return the box of every segment of a label map, in one pass over its slices.

    Parameters
    ----------
    labels_zyx : ndarray of uint8 or uint16, shape (slices, rows, columns)
        Label map; 0 is background.
    segment_count : int
        Number of segments, which are numbered from 1.

    Returns
    -------
    tuple of Box
        By number.

    Raises
    ------
    EncodingError
        A label has no segment, or a segment has no voxel.
    """
    # What is where, by segment and index on each axis; row 0 of each is the background.
    found = [np.zeros((segment_count + 1, size), bool) for size in labels_zyx.shape]
    for z, plane in enumerate(labels_zyx):
        numbers, rows, columns = _runs(plane)
        refuse_unknown(int(numbers.max(initial=0)), segment_count)
        found[0][numbers, z] = True
        found[1][numbers, rows] = True
        for ends in columns:
            found[2][numbers, ends] = True
    refuse_empty(found[0][1:].T)
    firsts = np.stack([axis[1:].argmax(axis=1) for axis in found], axis=1)
    lasts = np.stack([axis.shape[1] - 1 - axis[1:, ::-1].argmax(axis=1) for axis in found], axis=1)
    return tuple(
        Box((z, y, x), (last_z, last_y, last_x))
        for (z, y, x), (last_z, last_y, last_x) in zip(firsts.tolist(), lasts.tolist(), strict=True)
    )


def _runs(
    plane: LabelMap,
) -> tuple[LabelMap, NDArray[np.intp], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return label, row, and first and last column of every run of one label within a row.

    The ends of runs are a small part of all voxels, and they alone can bound a segment: looking at
    every labelled voxel takes four times as long.
    """
    flat = plane.ravel()
    begins = np.empty(flat.size + 1, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:-1])
    begins[:: plane.shape[1]] = True
    bounds = np.flatnonzero(begins)
    labelled = flat[bounds[:-1]] > 0
    first, last = bounds[:-1][labelled], bounds[1:][labelled] - 1
    rows = first // plane.shape[1]
    start = rows * plane.shape[1]
    return flat[first], rows, (first - start, last - start)
