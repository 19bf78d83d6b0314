"""``builtin:bone`` in three dimensions: from the evidence of all slices to one bone mask.

The evidence of a volume, its Hounsfield units and its spacing enter; a mask of 0 and 1 leaves.
Called by `osteon.pipeline.bone`.
"""

from dataclasses import dataclass
from typing import Any

import cc3d
import fill_voids
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the library's own short name
from numpy.typing import NDArray

# Evidence of a voxel, in rising order; 0 lies outside the body.
BODY, CANDIDATE, CERTAIN, METAL = 1, 2, 3, 4


@dataclass(frozen=True)
class BoneVolumeParameters:
    """What decides the mask.

    Attributes
    ----------
    part_ml_min : float
        Smaller pieces are calcifications, noise or streaks.
    closing_mm : float
        Half the widest gap in a cortex that is bridged before its marrow is filled.
    """

    part_ml_min: float = 0.5
    closing_mm: float = 3.0


def bone_mask(
    evidence_zyx: NDArray[np.uint8],
    hu_zyx: NDArray[np.number[Any]],
    spacing_zyx_mm: tuple[float, float, float],
    parameters: BoneVolumeParameters,
) -> NDArray[np.uint8]:
    """Return the bone of a volume.

    Parameters
    ----------
    evidence_zyx : ndarray of uint8, shape (slices, rows, columns)
        What `osteon.pipeline.bone.slice_evidence` says of each slice.
    hu_zyx : ndarray, shape (slices, rows, columns)
        Hounsfield units.

    Returns
    -------
    ndarray of uint8, shape (slices, rows, columns)
        1 is bone.
    """
    mask_zyx = np.zeros(evidence_zyx.shape, np.uint8)
    found = np.argwhere((evidence_zyx == CERTAIN).any(axis=(1, 2)))
    if found.size == 0:
        return mask_zyx
    components = cc3d.connected_components(
        ((evidence_zyx == CANDIDATE) | (evidence_zyx == CERTAIN)).view(np.uint8), connectivity=6
    )
    keep = np.zeros(int(components.max()) + 1, bool)
    keep[np.unique(components[evidence_zyx == CERTAIN])] = True
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000.0
    keep &= np.bincount(components.ravel()) * voxel_ml >= parameters.part_ml_min
    keep[0] = False
    bone = keep[components].astype(np.uint8)
    image = sitk.GetImageFromArray(bone)
    radius = [max(1, round(parameters.closing_mm / width)) for width in spacing_zyx_mm[::-1]]
    closed = sitk.GetArrayFromImage(sitk.BinaryMorphologicalClosing(image, radius, sitk.sitkBall))
    filled = np.asarray(fill_voids.fill(closed > 0), dtype=np.uint8)
    filled[(hu_zyx < -200) & (bone == 0)] = 0
    return filled
