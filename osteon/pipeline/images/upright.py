"""A volume of a tilted gantry set upright, for what looks at several slices at once.

A `Volume` enters whose slices are moved sideways, each a little further than the one before; the
same slices leave on a rectangular grid, and labels made there go back to the source grid. Called
by the stations prediction and boneseg; results always refer to the source frames.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osteon.errors import ModelError
from osteon.pipeline.images.geometry import Geometry
from osteon.pipeline.images.rescale import AIR_HU
from osteon.pipeline.volume import Volume

# A stack whose last slice is less than a pixel off stands as upright as its pixels can tell.
SHIFT_PIXELS_MIN = 1.0


@dataclass(frozen=True, eq=False)
class Shear:
    """How the slices of a tilted volume are moved within their planes to stand upright.

    Attributes
    ----------
    offsets_yx : ndarray of float64, shape (slices, 2)
        Rows and columns by which each slice is moved; never negative.
    shape_zyx : tuple of int
        Slices, rows and columns of the upright grid, which holds every slice whole.
    geometry : Geometry
        The upright grid; its voxels are as large as those of the source grid.
    """

    offsets_yx: NDArray[np.float64]
    shape_zyx: tuple[int, int, int]
    geometry: Geometry

    def volume(self, source: Volume) -> Volume:
        """Return the upright volume; what no slice showed is air.

        Slices are interpolated linearly, each within its own plane: nothing is blurred across
        them.

        Parameters
        ----------
        source : Volume
            The volume that this shear was made for.
        """
        hu_zyx = np.full(self.shape_zyx, AIR_HU, source.hu_zyx.dtype)
        for upright_yx, hu_yx, offset in zip(hu_zyx, source.hu_zyx, self.offsets_yx, strict=True):
            whole = np.floor(offset).astype(int)
            moved = hu_yx.astype(np.float32)
            for axis, part in enumerate(offset - whole):
                if part > 0:
                    moved = _moved(moved, axis, np.float32(part))
            if hu_zyx.dtype == np.int16:
                np.rint(moved, out=moved)
            row, column = whole
            upright_yx[row : row + moved.shape[0], column : column + moved.shape[1]] = moved
        return Volume(hu_zyx, self.geometry, source.frames)

    def labels(self, source_zyx: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return bytes of the source grid on the upright one, each moved by whole pixels."""
        upright_zyx = np.zeros(self.shape_zyx, np.uint8)
        for index, place in enumerate(self._places(source_zyx.shape)):
            upright_zyx[index][place] = source_zyx[index]
        return upright_zyx

    def back(self, upright_zyx: NDArray[np.uint8], shape_zyx: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return bytes of the upright grid on the source one, each from the nearest pixel.

        Parameters
        ----------
        upright_zyx : ndarray of uint8
            What a model returned for the upright volume.
        shape_zyx : tuple of int
            Shape of the source grid.

        Raises
        ------
        ModelError
            The model returned another shape than it was given, or no bytes.
        """
        if upright_zyx.shape != self.shape_zyx or upright_zyx.dtype != np.uint8:
            raise ModelError(
                f"the model returned {upright_zyx.dtype} of shape {upright_zyx.shape} for the "
                f"upright volume of {self.shape_zyx}"
            )
        source_zyx = np.empty(shape_zyx, np.uint8)
        for index, place in enumerate(self._places(shape_zyx)):
            source_zyx[index] = upright_zyx[index][place]
        return source_zyx

    def _places(self, shape_zyx: tuple[int, ...]) -> list[tuple[slice, slice]]:
        corners = np.rint(self.offsets_yx).astype(int)
        rows, columns = shape_zyx[1:]
        return [
            (slice(row, row + rows), slice(column, column + columns)) for row, column in corners
        ]


def shear_of(geometry: Geometry) -> Shear | None:
    """Say how a volume is set upright, or None where it stands so.

    Parameters
    ----------
    geometry : Geometry
        The source grid; slices ascend along their normal.

    References
    ----------
    DICOM PS3.3 C.8.2.1, Gantry/Detector Tilt: the table moves along the patient's axis while the
    slices lean, so that their corners move sideways along the slices.
    """
    affine = geometry.affine
    slices, rows, columns = geometry.shape_zyx
    # Pixels of sideways motion for each slice, along rows' and columns' index.
    along_yx = np.stack([affine[:3, 1], affine[:3, 0]])
    pixel_mm2 = np.sum(along_yx**2, axis=1)
    step_yx = along_yx @ affine[:3, 2] / pixel_mm2
    moved_yx = np.arange(slices)[:, None] * step_yx
    if np.abs(moved_yx[-1]).max() < SHIFT_PIXELS_MIN:
        return None
    first_yx = np.minimum(moved_yx.min(axis=0), 0.0)
    offsets_yx = moved_yx - first_yx
    more_yx = np.ceil(offsets_yx.max(axis=0)).astype(int)
    upright = affine.copy()
    upright[:3, 2] -= step_yx @ along_yx
    upright[:3, 3] += first_yx @ along_yx
    shape_zyx = (slices, rows + int(more_yx[0]), columns + int(more_yx[1]))
    grid = Geometry(upright, shape_zyx, geometry.spacing_zyx_mm, geometry.frame_of_reference_uid)
    return Shear(offsets_yx, shape_zyx, grid)


def stood_up(source: Volume, labels_zyx: NDArray[np.uint8]) -> tuple[Volume, NDArray[np.uint8]]:
    """Return a volume and its labels as a picture should show them: upright.

    Parameters
    ----------
    labels_zyx : ndarray of uint8, shape (slices, rows, columns)
        Labels on the source grid.
    """
    shear = shear_of(source.geometry)
    if shear is None:
        return source, labels_zyx
    return shear.volume(source), shear.labels(labels_zyx)


def _moved(plane_yx: NDArray[np.float32], axis: int, part: np.float32) -> NDArray[np.float32]:
    """Move a plane by part of a pixel along an axis, on which it becomes one pixel longer."""
    pad = [(0, 0), (0, 0)]
    pad[axis] = (1, 1)
    padded = np.pad(plane_yx, pad, constant_values=AIR_HU)
    before = padded.take(np.arange(padded.shape[axis] - 1), axis)
    after = padded.take(np.arange(1, padded.shape[axis]), axis)
    return np.asarray(before * part + after * (1 - part))
