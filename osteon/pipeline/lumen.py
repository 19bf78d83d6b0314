"""Contrast medium told from bone by shape and texture.

The density of a volume enters; a mask of the vessels, bowel, kidneys and bladder that contrast
medium fills leaves, so that `osteon.pipeline.bonevolume` takes them neither for walls nor for bone.

Contrast medium makes a plateau: its inside is flat to the noise and it borders soft tissue
directly. Cancellous bone is uneven, and a cortex stands around it.
"""

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.filters import box_maximum, voxels


@dataclass(frozen=True)
class LumenParameters:
    """What decides what is contrast medium.

    Attributes
    ----------
    flat_hu, flat_noise : float
        Range of a plateau in a box of 3 voxels a side: so much, plus so many times the noise.
    hu_max : float
        Denser is cortex; iodine in vessels seldom exceeds 600 HU.
    ml_min : float
        Smaller plateaus decide nothing.
    border_mm : float
        Width of the blurred edge around a plateau; beyond it its neighbour begins.
    soft_part_min : float
        At least so much of what lies beyond is soft tissue.
    """

    flat_hu: float = 40.0
    flat_noise: float = 4.0
    hu_max: float = 600.0
    ml_min: float = 0.5
    border_mm: float = 4.0
    soft_part_min: float = 0.6


def lumens(
    density_zyx: NDArray[np.float32],
    spacing_zyx_mm: tuple[float, float, float],
    soft_hu: float,
    bright_hu: float,
    noise_hu: float,
    parameters: LumenParameters,
) -> NDArray[np.bool_]:
    """Return the spaces that contrast medium fills, their blurred edge included.

    Parameters
    ----------
    density_zyx : ndarray of float32, shape (slices, rows, columns)
        Hounsfield units.
    soft_hu, bright_hu, noise_hu : float
        Density of soft tissue, the least density that may be taken for a wall, and the noise.

    Returns
    -------
    ndarray of bool, shape (slices, rows, columns)
    """
    flat_hu = parameters.flat_hu + parameters.flat_noise * noise_hu
    found = np.zeros(density_zyx.shape, bool)
    one = (1, 1, 1)
    plateau = (density_zyx > bright_hu) & (density_zyx < parameters.hu_max)
    spread = box_maximum(density_zyx, one) + box_maximum(-density_zyx, one)
    plateau &= spread < flat_hu
    components, count = cc3d.connected_components(
        plateau.view(np.uint8), connectivity=6, return_N=True
    )
    statistics = cc3d.statistics(components)
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000.0
    border = voxels(parameters.border_mm, spacing_zyx_mm, at_least=2)
    for label in range(1, count + 1):
        if statistics["voxel_counts"][label] * voxel_ml < parameters.ml_min:
            continue
        box = tuple(
            slice(max(0, side.start - edge - 1), side.stop + edge + 1)
            for side, edge in zip(statistics["bounding_boxes"][label], border, strict=True)
        )
        inside = components[box] == label
        density = density_zyx[box]
        level = float(density[inside].mean())
        near = box_maximum(inside, border)
        beyond = box_maximum(near, one) & ~near
        edge_hu = 0.5 * (level + soft_hu)
        if np.mean(density[beyond] < edge_hu) >= parameters.soft_part_min:
            found[box] |= near & (density < level + flat_hu)
    return found
