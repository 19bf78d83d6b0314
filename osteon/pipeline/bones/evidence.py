"""What one CT slice says about bone by itself: the evidence that ``builtin:bone`` predicts.

Hounsfield units of one slice and its pixel spacing enter; one byte per pixel leaves. No neighbour
slice is looked at, so a slice can be worked on the moment it arrives. Called by
`osteon.pipeline.bones.bone`; read back by `osteon.pipeline.bones.bonevolume`.

A byte is 0 outside the body (air, table, clothes), 255 in metal, and otherwise the smoothed
density: ``hu = HU_STEP * byte + HU_OFFSET``.
"""

from dataclasses import dataclass
from typing import Any

import fill_voids
import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.bones.filters import box_maximum, gaussian, shrunk, voxels

OUTSIDE, METAL = 0, 255
# 1 is -250 HU (lung, bowel gas and below), 254 is 1015 HU (dense cortex and above).
HU_STEP, HU_OFFSET = 5.0, -255.0


def level(hu: float) -> float:
    """Return a density in the units of the evidence."""
    return (hu - HU_OFFSET) / HU_STEP


@dataclass(frozen=True)
class EvidenceParameters:
    """What decides the evidence of a slice.

    Attributes
    ----------
    smoothing_mm : float
        Sigma of the in-plane Gaussian: about half a cortex, so that noise shrinks and cortex stays.
    metal_hu : float
        Denser than enamel, the densest tissue.
    tissue_hu : float
        Between fat on one side, air and foam on the other.
    table_mm, shell_hu : float
        A body is thicker than this or, as a skull, this dense; the shell of a table or of a head
        rest is neither.
    skin_mm : float
        How far the body may reach beyond its thick parts: ears, noses, folds of skin.
    grid_mm : float
        Pixel size at which the body is told from the table.
    """

    smoothing_mm: float = 0.7
    metal_hu: float = 2500.0
    tissue_hu: float = -300.0
    table_mm: float = 9.0
    shell_hu: float = 600.0
    skin_mm: float = 8.0
    grid_mm: float = 2.0


def slice_evidence(
    hu_yx: NDArray[np.number[Any]],
    spacing_yx_mm: tuple[float, float],
    parameters: EvidenceParameters,
) -> NDArray[np.uint8]:
    """Return the evidence of one slice.

    Parameters
    ----------
    hu_yx : ndarray, shape (rows, columns)
        Hounsfield units.
    spacing_yx_mm : tuple of float
        Distance between rows and between columns: Pixel Spacing (0028,0030).

    Returns
    -------
    ndarray of uint8, shape (rows, columns)
        As the module describes.
    """
    density_yx = hu_yx.astype(np.float32)
    body_yx = _body(density_yx, spacing_yx_mm, parameters)
    metal_yx = density_yx > parameters.metal_hu
    smooth_yx = gaussian(density_yx, tuple(parameters.smoothing_mm / mm for mm in spacing_yx_mm))
    smooth_yx -= HU_OFFSET - 0.5 * HU_STEP
    smooth_yx *= 1.0 / HU_STEP
    evidence_yx = np.clip(smooth_yx, 1.0, 254.0, out=smooth_yx).astype(np.uint8)
    evidence_yx[metal_yx] = METAL
    evidence_yx[~body_yx] = OUTSIDE
    return evidence_yx


def _body(
    density_yx: NDArray[np.float32],
    spacing_yx_mm: tuple[float, float],
    parameters: EvidenceParameters,
) -> NDArray[np.bool_]:
    """Tissue that is thicker than a table or as dense as a skull, and all that lies within it."""
    step = max(1, round(parameters.grid_mm / max(spacing_yx_mm)))
    rows, columns = density_yx.shape
    coarse_yx = shrunk(density_yx[None], (1, step, step))[0]
    tissue_yx = coarse_yx > parameters.tissue_hu
    grid_mm = (spacing_yx_mm[0] * step, spacing_yx_mm[1] * step)
    half = voxels(parameters.table_mm / 2.0, grid_mm, at_least=1)
    thick_yx = box_maximum(~box_maximum(~tissue_yx, half), half)
    thick_yx |= coarse_yx > parameters.shell_hu
    reach_yx = box_maximum(thick_yx, voxels(parameters.skin_mm, grid_mm, at_least=1)) & tissue_yx
    solid_yx = np.asarray(fill_voids.fill(reach_yx), bool)
    return solid_yx.repeat(step, axis=0).repeat(step, axis=1)[:rows, :columns]
