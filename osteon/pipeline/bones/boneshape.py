"""The shape of the bones on a coarse grid: walls, marrow between them, and what is no bone.

Densities on a grid of about 1.5 mm enter, a `Shape` leaves. Called by
`osteon.pipeline.bones.bonevolume`, which works out the surface on the source grid.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import cc3d
import fill_voids
import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.bones.enclosure import framed, leakage, wall_hits
from osteon.pipeline.bones.evidence import HU_STEP, METAL, level
from osteon.pipeline.bones.filters import box_maximum, box_minimum, voxels
from osteon.pipeline.bones.lumen import LumenParameters, lumens
from osteon.pipeline.bones.tissue import Tissue, measure_tissue

Spacing = tuple[float, float, float]
Mask = NDArray[np.bool_]
Level = NDArray[np.uint8]


@dataclass(frozen=True)
class BoneVolumeParameters:
    """What decides the mask. HU stand above the densest soft tissue unless a name says ``_min``.

    Attributes
    ----------
    grid_mm : float
        Finer grids are averaged to about this; a cortex is 1 to 5 mm thick.
    depth_smoothing_mm : float
        Sigma of the Gaussian across slices, as the evidence has it within them.
    wall_hu, wall_noise : float
        A wall is this much denser than soft tissue, plus so many times the noise.
    sheet_hu, sheet_noise : float
        A thin cortex that slices blur is a wall from this density, or so many times the noise, on
    sheet_contrast_hu, sheet_contrast_noise, sheet_mm : float
        if it stands out by this from what is left without structures thinner than twice sheet_mm.
    faint_contrast_hu, faint_contrast_noise, faint_conductance : float
        The cortex of an osteopenic bone, no denser than muscle but denser than the fatty marrow in
        it and the fat around it by this, is no wall, but lets so little of the outside through.
    ray_mm, rays_min : float, int
        How far a wall is looked for (a vertebral body, the widest marrow space, is about 50 mm
        wide), and how many rays of 26 meet one in whatever may be marrow, or a cortex around it.
    leak_mm, leak_max : float
        How far the outside spreads into such a space, and how much of it marrow bears.
    marrow_hu_min : float
        Less dense than fat: air, which is no marrow.
    core_ml_min : float
        A bone has at least so much of marrow and of the cortex around it.
    bone_hu : float
        Density that may be bone at all.
    thin_ml_min, thin_hu : float
        What encloses nothing, as a rib in thick slices, is bone if it is this large and its mean
        is this dense.
    surface_hu, surface_part, surface_mm : float
        The surface of a bone lies at this density, or at this part of the way to the densest
        cortex within surface_mm.
    hole_mm2 : float
        Holes in a slice of a bone up to this area are closed; the spinal canal is larger.
    smoothing_mm : float
        Sigma with which the surface is smoothed.
    metal_mm : float
        How far the blooming of metal hides what is beside it: metal in or on a bone is bone, but
        what blooms is no sign of one.
    streak_mm, streak_part : float
        How far the streaks of metal reach within a slice; there only this part of the density
        above soft tissue is believed.
    haze_mm, haze_factor : float
        How far their haze reaches; there what is no marrow has to be so many times as far above
        soft tissue as bone_hu.
    """

    grid_mm: float = 1.5
    depth_smoothing_mm: float = 0.7
    wall_hu: float = 85.0
    wall_noise: float = 1.75
    sheet_hu: float = 40.0
    sheet_noise: float = 2.5
    sheet_contrast_hu: float = 80.0
    sheet_contrast_noise: float = 5.5
    sheet_mm: float = 3.0
    faint_contrast_hu: float = 60.0
    faint_contrast_noise: float = 4.0
    faint_conductance: float = 0.02
    ray_mm: float = 40.0
    rays_min: int = 20
    leak_mm: float = 20.0
    leak_max: float = 0.55
    marrow_hu_min: float = -200.0
    core_ml_min: float = 0.5
    bone_hu: float = 115.0
    thin_ml_min: float = 1.0
    thin_hu: float = 130.0
    surface_hu: float = 85.0
    surface_part: float = 0.22
    surface_mm: float = 4.0
    hole_mm2: float = 80.0
    smoothing_mm: float = 1.0
    metal_mm: float = 1.0
    streak_mm: float = 25.0
    streak_part: float = 0.6
    haze_mm: float = 35.0
    haze_factor: float = 2.0
    lumen: LumenParameters = field(default_factory=LumenParameters)


class Shape(NamedTuple):
    """What the coarse grid says, each of shape (slices, rows, columns).

    Attributes
    ----------
    near : ndarray of bool
        Bone and its surroundings, where the surface is to be looked for.
    marrow : ndarray of bool
        Bone whatever its density.
    threshold : ndarray of uint8
        The level above which what is near is bone.
    """

    near: Mask
    marrow: Mask
    threshold: Level


def bone_shape(
    level_zyx: Level, metal_zyx: Mask, grid_mm: Spacing, parameters: BoneVolumeParameters
) -> Shape:
    """Find the bones.

    Parameters
    ----------
    level_zyx : ndarray of uint8, shape (slices, rows, columns)
        Densities in the units of `osteon.pipeline.bones.evidence`; it is changed.
    metal_zyx : ndarray of bool
        Where there is metal.
    grid_mm : tuple of float
        Distance between slices, rows and columns.

    Returns
    -------
    Shape
    """
    tissue = measure_tissue(level_zyx, grid_mm[2])
    # Before streaks are damped: damped cortex would look like contrast medium.
    lumen = lumens(level_zyx, grid_mm, tissue, parameters.lumen)
    streaks = _damp_streaks(level_zyx, metal_zyx, grid_mm, tissue, parameters)
    level_zyx[lumen] = np.minimum(level_zyx[lumen], round(level(tissue.soft_hu)))
    bone, marrow = _bone(level_zyx, lumen, metal_zyx, grid_mm, tissue, parameters)
    threshold = _surface(level_zyx, grid_mm, tissue, parameters)
    threshold[streaks] = _undamped(tissue, parameters)[threshold[streaks]]
    return Shape(box_maximum(bone, (1, 1, 1)) & ~lumen, marrow, threshold)


def _damp_streaks(
    level_zyx: Level,
    metal_zyx: Mask,
    grid_mm: Spacing,
    tissue: Tissue,
    parameters: BoneVolumeParameters,
) -> Mask:
    """Believe less of what is bright beside metal; return where."""
    if not metal_zyx.any():
        return metal_zyx
    reach = voxels(parameters.streak_mm, grid_mm, at_least=1)
    soft = level(tissue.soft_hu)
    streaks = box_maximum(metal_zyx, (1, reach[1], reach[2])) & ~metal_zyx & (level_zyx > soft)
    damped = soft + parameters.streak_part * (np.arange(METAL + 1) - soft)
    level_zyx[streaks] = np.rint(damped.clip(0, METAL)).astype(np.uint8)[level_zyx[streaks]]
    return streaks


def _undamped(tissue: Tissue, parameters: BoneVolumeParameters) -> Level:
    """Return for each damped level what it was."""
    soft = level(tissue.soft_hu)
    levels = soft + (np.arange(METAL + 1) - soft) / parameters.streak_part
    undamped: Level = np.rint(levels.clip(0, METAL - 1)).astype(np.uint8)
    return undamped


def _bone(
    level_zyx: Level,
    lumen: Mask,
    metal_zyx: Mask,
    grid_mm: Spacing,
    tissue: Tissue,
    parameters: BoneVolumeParameters,
) -> tuple[Mask, Mask]:
    """Find the bone on the coarse grid, and the marrow in it."""
    wall_hu = tissue.soft_hu + parameters.wall_hu + parameters.wall_noise * tissue.noise_hu
    contrast = _contrast(level_zyx, grid_mm, parameters)
    wall = (level_zyx > level(wall_hu)) | _sheets(level_zyx, contrast, tissue, parameters)
    enclosed = wall_hits(wall, grid_mm, parameters.ray_mm) >= parameters.rays_min
    closed = enclosed & ~wall
    # The denser a space is, the more bone is in it and the less it conducts.
    scale = (level(wall_hu) - np.arange(METAL + 1)) / (level(wall_hu) - level(tissue.soft_hu))
    conductance = scale.clip(0.05, 1.0).astype(np.float32)[level_zyx]
    conductance[_faint(level_zyx, contrast, tissue, parameters)] *= parameters.faint_conductance
    del contrast
    leak = leakage(closed, ~wall & ~closed, conductance, grid_mm, parameters.leak_mm)
    tissue_like = level_zyx > level(parameters.marrow_hu_min)
    marrow = closed & (leak < parameters.leak_max) & tissue_like
    del conductance, leak
    marrow |= framed(wall | marrow) & tissue_like & ~lumen
    dense, doubtful = _dense(level_zyx, metal_zyx, grid_mm, tissue, parameters)
    core = (enclosed & wall & ~doubtful) | marrow
    bone = _kept(core | dense, core, lumen, metal_zyx, level_zyx, grid_mm, tissue, parameters)
    filled = np.asarray(fill_voids.fill(bone), bool) & tissue_like
    # A wall among walls is bone too, even where a denser cortex nearby raises the threshold.
    return bone | filled, (core & bone) | (filled & ~bone)


def _dense(
    level_zyx: Level,
    metal_zyx: Mask,
    grid_mm: Spacing,
    tissue: Tissue,
    parameters: BoneVolumeParameters,
) -> tuple[Mask, Mask]:
    """Tell what is bone by its density alone from what the haze of metal may have made dense."""
    dense = level_zyx > level(tissue.soft_hu + parameters.bone_hu)
    if not metal_zyx.any():
        return dense, metal_zyx
    reach = voxels(parameters.haze_mm, grid_mm)
    haze = box_maximum(metal_zyx, (1, reach[1], reach[2]))
    beyond_hu = tissue.soft_hu + parameters.haze_factor * parameters.bone_hu
    doubtful = dense & haze & (level_zyx <= level(beyond_hu))
    return dense & ~doubtful, doubtful


def _contrast(level_zyx: Level, grid_mm: Spacing, parameters: BoneVolumeParameters) -> Level:
    """Return by how much each voxel stands out from what is left without thin structures."""
    radii = voxels(parameters.sheet_mm, grid_mm, at_least=1)
    return level_zyx - box_maximum(box_minimum(level_zyx, radii), radii)


def _sheets(
    level_zyx: Level, contrast: Level, tissue: Tissue, parameters: BoneVolumeParameters
) -> Mask:
    """Find thin bright sheets that stand out from darker surroundings."""
    noise_hu = tissue.noise_hu
    contrast_hu = max(parameters.sheet_contrast_hu, parameters.sheet_contrast_noise * noise_hu)
    least_hu = tissue.soft_hu + max(parameters.sheet_hu, parameters.sheet_noise * noise_hu)
    return (level_zyx > level(least_hu)) & (contrast > contrast_hu / HU_STEP)


def _faint(
    level_zyx: Level, contrast: Level, tissue: Tissue, parameters: BoneVolumeParameters
) -> Mask:
    """Find thin sheets that may be the cortex of an osteopenic bone."""
    noise_hu = parameters.faint_contrast_noise * tissue.noise_hu
    contrast_hu = max(parameters.faint_contrast_hu, noise_hu)
    return (level_zyx > level(tissue.soft_hu)) & (contrast > contrast_hu / HU_STEP)


def _kept(
    bone: Mask,
    core: Mask,
    lumen: Mask,
    metal_zyx: Mask,
    level_zyx: Level,
    grid_mm: Spacing,
    tissue: Tissue,
    parameters: BoneVolumeParameters,
) -> Mask:
    """Keep components that have a core, or are large, dense and no branch of a vessel."""
    components, count = cc3d.connected_components(
        bone.view(np.uint8), connectivity=26, return_N=True
    )
    bloom = box_maximum(metal_zyx, voxels(parameters.metal_mm, grid_mm, at_least=1))
    telling = bone & ~bloom
    label = components[telling]
    size = np.bincount(label, minlength=count + 1)
    voxel_ml = float(np.prod(grid_mm)) / 1000.0
    core_ml = np.bincount(label[core[telling]], minlength=count + 1) * voxel_ml
    mean = np.bincount(label, level_zyx[telling], minlength=count + 1) / np.maximum(size, 1)
    thin = size * voxel_ml >= parameters.thin_ml_min
    thin &= mean > level(tissue.soft_hu + parameters.thin_hu)
    thin[np.unique(components[box_maximum(lumen, (1, 1, 1))])] = False
    keep = (core_ml >= parameters.core_ml_min) | thin
    keep[0] = False
    kept: Mask = keep[components]
    return kept


def _surface(
    level_zyx: Level, grid_mm: Spacing, tissue: Tissue, parameters: BoneVolumeParameters
) -> Level:
    """Return the level at which bone begins."""
    densest = box_maximum(level_zyx, voxels(parameters.surface_mm, grid_mm, at_least=1))
    soft = level(tissue.soft_hu)
    above = parameters.surface_part * (np.arange(METAL + 1) - soft)
    levels = soft + np.maximum(parameters.surface_hu / HU_STEP, above)
    threshold: Level = levels.astype(np.uint8)[densest]
    return threshold
