"""``builtin:bone`` in three dimensions: from the evidence of all slices to one bone mask.

The evidence of a volume and its spacing enter, a mask of 0 and 1 leaves. Called by
`osteon.pipeline.bones.bone`. Questions of shape are answered on a coarse grid, in
`osteon.pipeline.bones.boneshape`; only the surface is worked out on the source grid, slice by
slice, so that memory stays near that of the evidence.
"""

import cc3d
import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.bones.boneshape import BoneVolumeParameters, Mask, Shape, Spacing, bone_shape
from osteon.pipeline.bones.evidence import METAL
from osteon.pipeline.bones.filters import Scalar, gaussian, shrunk, voxels


def bone_mask(
    evidence_zyx: NDArray[np.uint8], spacing_zyx_mm: Spacing, parameters: BoneVolumeParameters
) -> NDArray[np.uint8]:
    """Return the bone of a volume.

    Parameters
    ----------
    evidence_zyx : ndarray of uint8, shape (slices, rows, columns)
        What `osteon.pipeline.bones.evidence.slice_evidence` says of each slice.
    spacing_zyx_mm : tuple of float
        Distance between slices, rows and columns.

    Returns
    -------
    ndarray of uint8, shape (slices, rows, columns)
        1 is bone.
    """
    mask_zyx = np.zeros(evidence_zyx.shape, np.uint8)
    box_yx = _bounds(np.asarray(evidence_zyx.any(axis=0)))
    if box_yx is None:
        return mask_zyx
    body_zyx, found_zyx = evidence_zyx[(slice(None), *box_yx)], mask_zyx[(slice(None), *box_yx)]
    factors = voxels(parameters.grid_mm, spacing_zyx_mm, at_least=1)
    grid_mm = (
        spacing_zyx_mm[0] * factors[0],
        spacing_zyx_mm[1] * factors[1],
        spacing_zyx_mm[2] * factors[2],
    )
    mean_zyx = gaussian(
        shrunk(body_zyx, factors), (parameters.depth_smoothing_mm / grid_mm[0], 0.0, 0.0)
    )
    level_zyx = np.rint(mean_zyx, out=mean_zyx).astype(np.uint8)
    del mean_zyx
    metal_zyx = shrunk(body_zyx == METAL, factors) > 0
    shape = bone_shape(level_zyx, metal_zyx, grid_mm, parameters)
    for index, evidence_yx in enumerate(body_zyx):
        at = index // factors[0]
        coarse = Shape(shape.near[at], shape.marrow[at], shape.threshold[at])
        _fill_slice(
            found_zyx[index], evidence_yx, coarse, factors[1:], spacing_zyx_mm[1:], parameters
        )
    return mask_zyx


def _fill_slice(
    found_yx: NDArray[np.uint8],
    evidence_yx: NDArray[np.uint8],
    coarse: Shape,
    factors: tuple[int, ...],
    spacing_yx_mm: tuple[float, float],
    parameters: BoneVolumeParameters,
) -> None:
    """Work out the surface of the bones in one slice, and write it."""
    box = _bounds(coarse.near | coarse.marrow)
    if box is None:
        return
    fine = tuple(
        slice(side.start * factor, min(side.stop * factor, count))
        for side, factor, count in zip(box, factors, evidence_yx.shape, strict=True)
    )
    shown = evidence_yx[fine]
    size = shown.shape

    def grown(plane: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the box of a coarse plane in the pixels of the slice."""
        return plane[box].repeat(factors[0], 0).repeat(factors[1], 1)[: size[0], : size[1]]

    bone = grown(coarse.near) & (shown > grown(coarse.threshold))
    bone |= grown(coarse.marrow)
    holes = cc3d.connected_components((~bone).view(np.uint8), connectivity=4)
    area_mm2 = np.bincount(holes.ravel()) * spacing_yx_mm[0] * spacing_yx_mm[1]
    small = area_mm2 <= parameters.hole_mm2
    small[0] = False
    closed = (bone | small[holes]).astype(np.float32)
    sigmas = tuple(parameters.smoothing_mm / mm for mm in spacing_yx_mm)
    found_yx[fine] = gaussian(closed, sigmas) > 0.5


def _bounds(mask_yx: Mask) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask_yx.any(axis=1)), np.flatnonzero(mask_yx.any(axis=0))
    if rows.size == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
