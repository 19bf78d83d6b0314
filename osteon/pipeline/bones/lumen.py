"""Contrast medium told from bone by shape and texture.

The density of a volume enters; a mask of the vessels, bowel, kidneys and bladder that contrast
medium fills leaves, so that `osteon.pipeline.bones.bonevolume` takes them neither for walls nor for
bone.

Contrast medium makes a plateau: its inside is flat to the noise and it borders soft tissue
directly. Cancellous bone is uneven, and a cortex stands around it.
"""

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.bones.evidence import HU_STEP, level
from osteon.pipeline.bones.filters import box_maximum, box_minimum, voxels
from osteon.pipeline.bones.tissue import Tissue


@dataclass(frozen=True)
class LumenParameters:
    """What decides what is contrast medium.

    Attributes
    ----------
    bright_hu : float
        Contrast medium is this much denser than soft tissue.
    flat_hu, flat_noise : float
        Range of a plateau in a box of 3 voxels a side: so much, plus so many times the grain.
    hu_max : float
        Denser is cortex; iodine in vessels seldom exceeds 600 HU.
    ml_min : float
        Smaller plateaus decide nothing.
    border_mm : float
        Width of the blurred edge around a plateau; beyond it its neighbour begins.
    soft_part_min : float
        At least so much of what lies beyond is soft tissue.
    """

    bright_hu: float = 70.0
    flat_hu: float = 40.0
    flat_noise: float = 4.0
    hu_max: float = 600.0
    ml_min: float = 0.5
    border_mm: float = 4.0
    soft_part_min: float = 0.6


def lumens(
    level_zyx: NDArray[np.uint8],
    spacing_zyx_mm: tuple[float, float, float],
    tissue: Tissue,
    parameters: LumenParameters,
) -> NDArray[np.bool_]:
    """Return the spaces that contrast medium fills, their blurred edge included.

    Parameters
    ----------
    level_zyx : ndarray of uint8, shape (slices, rows, columns)
        Densities in the units of `osteon.pipeline.bones.evidence`.

    Returns
    -------
    ndarray of bool, shape (slices, rows, columns)
    """
    flat = (parameters.flat_hu + parameters.flat_noise * tissue.grain_hu) / HU_STEP
    soft = level(tissue.soft_hu)
    found = np.zeros(level_zyx.shape, bool)
    one = (1, 1, 1)
    plateau = (level_zyx > soft + parameters.bright_hu / HU_STEP) & (
        level_zyx < level(parameters.hu_max)
    )
    plateau &= box_maximum(level_zyx, one) - box_minimum(level_zyx, one) < flat
    components = cc3d.connected_components(plateau.view(np.uint8), connectivity=6)
    statistics = cc3d.statistics(components)
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000.0
    border = voxels(parameters.border_mm, spacing_zyx_mm, at_least=2)
    for label, count in enumerate(statistics["voxel_counts"]):
        if label == 0 or count * voxel_ml < parameters.ml_min:
            continue
        box = tuple(
            slice(max(0, side.start - edge - 1), side.stop + edge + 1)
            for side, edge in zip(statistics["bounding_boxes"][label], border, strict=True)
        )
        inside = components[box] == label
        around = level_zyx[box]
        mean = float(around[inside].mean())
        near = box_maximum(inside, border)
        beyond = box_maximum(near, one) & ~near
        if np.mean(around[beyond] < 0.5 * (mean + soft)) >= parameters.soft_part_min:
            found[box] |= near & (around < mean + flat)
    return found
