"""``builtin:bone`` in three dimensions: from the evidence of all slices to one bone mask.

The evidence of a volume and its spacing enter, a mask of 0 and 1 leaves. Called by
`osteon.pipeline.bone`. Questions of shape are answered on a grid of about 1.5 mm; only the surface
is worked out on the source grid, slice by slice, so that memory stays near that of the evidence.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import cc3d
import fill_voids
import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.enclosure import leakage, wall_hits
from osteon.pipeline.evidence import HU_OFFSET, HU_STEP, METAL
from osteon.pipeline.filters import box_maximum, gaussian, shrunk, voxels
from osteon.pipeline.lumen import LumenParameters, lumens

Spacing = tuple[float, float, float]
Mask = NDArray[np.bool_]
Density = NDArray[np.float32]


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
    ray_mm, rays_min : float, int
        How far a wall is looked for (a vertebral body, the widest marrow space, is about 50 mm
        wide), and how many rays of 26 meet one in whatever may be marrow.
    leak_mm, leak_max : float
        How far the outside spreads into such a space, and how much of it marrow bears.
    marrow_hu_min : float
        Less dense than fat: air, which is no marrow.
    core_rays_min, core_ml_min : int, float
        Rays of 26 that meet a wall within a cortex that bounds marrow; a bone has at least so much
        of marrow and of such cortex.
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
        How far the blooming of metal hides what is beside it.
    streak_mm, streak_part : float
        How far the streaks of metal reach within a slice; there only this part of the density
        above soft tissue is believed.
    """

    grid_mm: float = 1.5
    depth_smoothing_mm: float = 0.7
    wall_hu: float = 70.0
    wall_noise: float = 1.25
    sheet_hu: float = 40.0
    sheet_noise: float = 2.5
    sheet_contrast_hu: float = 80.0
    sheet_contrast_noise: float = 4.5
    sheet_mm: float = 3.0
    ray_mm: float = 40.0
    rays_min: int = 20
    leak_mm: float = 30.0
    leak_max: float = 0.35
    marrow_hu_min: float = -200.0
    core_rays_min: int = 24
    core_ml_min: float = 0.5
    bone_hu: float = 90.0
    thin_ml_min: float = 1.0
    thin_hu: float = 130.0
    surface_hu: float = 85.0
    surface_part: float = 0.2
    surface_mm: float = 3.0
    hole_mm2: float = 80.0
    smoothing_mm: float = 1.0
    metal_mm: float = 1.0
    streak_mm: float = 25.0
    streak_part: float = 0.5
    lumen: LumenParameters = field(default_factory=LumenParameters)


class Tissue(NamedTuple):
    """What a volume's soft tissue is like."""

    soft_hu: float
    noise_hu: float


class _Shape(NamedTuple):
    """The coarse answer: bone, the part of it that is bone whatever its density, and the limits."""

    bone: Mask
    marrow: Mask
    blocked: Mask
    threshold: NDArray[np.uint8]


def bone_mask(
    evidence_zyx: NDArray[np.uint8], spacing_zyx_mm: Spacing, parameters: BoneVolumeParameters
) -> NDArray[np.uint8]:
    """Return the bone of a volume.

    Parameters
    ----------
    evidence_zyx : ndarray of uint8, shape (slices, rows, columns)
        What `osteon.pipeline.evidence.slice_evidence` says of each slice.
    spacing_zyx_mm : tuple of float
        Distance between slices, rows and columns.

    Returns
    -------
    ndarray of uint8, shape (slices, rows, columns)
        1 is bone.
    """
    mask_zyx = np.zeros(evidence_zyx.shape, np.uint8)
    rows = np.flatnonzero(evidence_zyx.any(axis=(0, 2)))
    columns = np.flatnonzero(evidence_zyx.any(axis=(0, 1)))
    if rows.size == 0:
        return mask_zyx
    box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    body_zyx, found_zyx = evidence_zyx[box], mask_zyx[box]
    _, rows_count, columns_count = body_zyx.shape
    factors = voxels(parameters.grid_mm, spacing_zyx_mm, at_least=1)
    shape = _shape(body_zyx, spacing_zyx_mm, factors, parameters)
    near_zyx = box_maximum(shape.bone, (1, 1, 1)) & ~shape.blocked

    for index, evidence_yx in enumerate(body_zyx):
        at = index // factors[0]
        if not near_zyx[at].any():
            continue
        near_yx, marrow_yx, threshold_yx = (
            plane_yx.repeat(factors[1], 0).repeat(factors[2], 1)[:rows_count, :columns_count]
            for plane_yx in (near_zyx[at], shape.marrow[at], shape.threshold[at])
        )
        bone_yx = near_yx & (evidence_yx > threshold_yx) & (evidence_yx < METAL)
        found_zyx[index] = _smooth(bone_yx | marrow_yx, spacing_zyx_mm[1:], parameters)
    return mask_zyx


def _shape(
    body_zyx: NDArray[np.uint8],
    spacing_zyx_mm: Spacing,
    factors: tuple[int, ...],
    parameters: BoneVolumeParameters,
) -> _Shape:
    grid_mm = (
        spacing_zyx_mm[0] * factors[0],
        spacing_zyx_mm[1] * factors[1],
        spacing_zyx_mm[2] * factors[2],
    )
    density = shrunk(body_zyx, factors)
    density *= HU_STEP
    density += HU_OFFSET
    density = gaussian(density, (parameters.depth_smoothing_mm / grid_mm[0], 0.0, 0.0))
    tissue = measure_tissue(density)
    metal = shrunk(body_zyx == METAL, factors) > 0
    streaks = _damp_streaks(density, metal, grid_mm, tissue, parameters)
    lumen = lumens(
        density,
        grid_mm,
        tissue.soft_hu,
        tissue.soft_hu + parameters.wall_hu,
        tissue.noise_hu,
        parameters.lumen,
    )
    density[lumen] = np.minimum(density[lumen], tissue.soft_hu)
    bone, marrow = _bone(density, grid_mm, tissue, lumen, parameters)
    threshold = _surface(density, grid_mm, tissue, parameters)
    undamped = (threshold[streaks] - tissue.soft_hu) / parameters.streak_part
    threshold[streaks] = tissue.soft_hu + undamped
    coded = np.clip((threshold - HU_OFFSET) / HU_STEP, 0, METAL - 1).astype(np.uint8)
    bloom = box_maximum(metal, voxels(parameters.metal_mm, grid_mm))
    return _Shape(bone, marrow & ~bloom, bloom | lumen, coded)


def measure_tissue(density_zyx: Density) -> Tissue:
    """Measure the densest soft tissue that fills much of the body, and the noise.

    Returns
    -------
    Tissue
        The highest of the peaks between 0 and 150 HU that reach a third of the largest one (the
        liver in the portal phase, muscle without contrast medium); and the robust standard
        deviation of second differences along rows.
    """
    counts, edges = np.histogram(density_zyx, 150, (0.0, 150.0))
    smooth = np.convolve(counts, np.ones(15) / 15.0, "same")
    peaks = [
        level
        for level in range(7, 143)
        if smooth[level] == smooth[max(0, level - 10) : level + 11].max()
        and smooth[level] > 0.3 * smooth.max()
    ]
    soft_hu = float(edges[peaks[-1]]) if peaks else 50.0
    middle = density_zyx[:, :, 1:-1]
    inside = np.abs(middle - 60.0) < 90.0
    second = density_zyx[:, :, 2:][inside] + density_zyx[:, :, :-2][inside] - 2.0 * middle[inside]
    # The median of the absolute value of a normal variable is 0.6745 sigma.
    noise_hu = float(np.median(np.abs(second))) / 0.6745 / 6.0**0.5 if second.size else 0.0
    return Tissue(soft_hu, noise_hu)


def _damp_streaks(
    density: Density,
    metal: Mask,
    grid_mm: Spacing,
    tissue: Tissue,
    parameters: BoneVolumeParameters,
) -> Mask:
    """Believe less of what is bright beside metal; return where."""
    if not metal.any():
        return metal
    reach = voxels(parameters.streak_mm, grid_mm, at_least=1)
    streaks = box_maximum(metal, (1, reach[1], reach[2])) & ~metal & (density > tissue.soft_hu)
    density[streaks] = tissue.soft_hu + parameters.streak_part * (density[streaks] - tissue.soft_hu)
    return streaks


def _bone(
    density: Density,
    grid_mm: Spacing,
    tissue: Tissue,
    lumen: Mask,
    parameters: BoneVolumeParameters,
) -> tuple[Mask, Mask]:
    """Find the bone on the coarse grid, and the marrow in it."""
    wall_hu = tissue.soft_hu + parameters.wall_hu + parameters.wall_noise * tissue.noise_hu
    wall = (density > wall_hu) | _sheets(density, grid_mm, tissue, parameters)
    hits = wall_hits(wall, grid_mm, parameters.ray_mm)
    closed = ~wall & (hits >= parameters.rays_min)
    # The denser a space is, the more bone is in it and the less it conducts.
    conductance = np.clip((wall_hu - density) / (wall_hu - tissue.soft_hu), 0.05, 1.0)
    leak = leakage(
        closed, ~wall & ~closed, conductance.astype(np.float32), grid_mm, parameters.leak_mm
    )
    marrow = closed & (leak < parameters.leak_max) & (density > parameters.marrow_hu_min)
    core = marrow | (wall & (hits >= parameters.core_rays_min))
    bone = core | (density > tissue.soft_hu + parameters.bone_hu)
    bone = _kept(bone, core, density - tissue.soft_hu, lumen, grid_mm, parameters)
    filled = np.asarray(fill_voids.fill(bone), bool) & (density > parameters.marrow_hu_min)
    return bone | filled, (marrow & bone) | (filled & ~bone)


def _sheets(
    density: Density, grid_mm: Spacing, tissue: Tissue, parameters: BoneVolumeParameters
) -> Mask:
    """Thin bright sheets that stand out from darker surroundings."""
    radii = voxels(parameters.sheet_mm, grid_mm, at_least=1)
    opened = box_maximum(-box_maximum(-density, radii), radii)
    contrast_hu = max(
        parameters.sheet_contrast_hu, parameters.sheet_contrast_noise * tissue.noise_hu
    )
    least_hu = tissue.soft_hu + max(parameters.sheet_hu, parameters.sheet_noise * tissue.noise_hu)
    return (density > least_hu) & (density - opened > contrast_hu)


def _kept(
    bone: Mask,
    core: Mask,
    above_soft_hu: Density,
    lumen: Mask,
    grid_mm: Spacing,
    parameters: BoneVolumeParameters,
) -> Mask:
    """Keep components that have a core, or are large, dense and no branch of a vessel."""
    components = cc3d.connected_components(bone.view(np.uint8), connectivity=26)
    flat = components.ravel()
    size = np.bincount(flat)
    voxel_ml = float(np.prod(grid_mm)) / 1000.0
    core_ml = np.bincount(flat[core.ravel()], minlength=size.size) * voxel_ml
    mean_hu = np.bincount(flat, above_soft_hu.ravel()) / np.maximum(size, 1)
    branch = np.zeros(size.size, bool)
    branch[np.unique(components[box_maximum(lumen, (1, 1, 1))])] = True
    thin = (size * voxel_ml >= parameters.thin_ml_min) & (mean_hu > parameters.thin_hu)
    keep = (core_ml >= parameters.core_ml_min) | (thin & ~branch)
    keep[0] = False
    kept: Mask = keep[components]
    return kept


def _surface(
    density: Density, grid_mm: Spacing, tissue: Tissue, parameters: BoneVolumeParameters
) -> Density:
    """Return the density at which bone begins."""
    densest = box_maximum(density, voxels(parameters.surface_mm, grid_mm, at_least=1))
    above = np.maximum(parameters.surface_hu, parameters.surface_part * (densest - tissue.soft_hu))
    threshold: Density = tissue.soft_hu + above
    return threshold


def _smooth(
    bone_yx: Mask, spacing_yx_mm: tuple[float, float], parameters: BoneVolumeParameters
) -> Mask:
    """Close small holes and round the surface."""
    holes = cc3d.connected_components((~bone_yx).view(np.uint8), connectivity=4)
    area_mm2 = np.bincount(holes.ravel()) * spacing_yx_mm[0] * spacing_yx_mm[1]
    small = area_mm2 <= parameters.hole_mm2
    small[0] = False
    closed_yx = (bone_yx | small[holes]).astype(np.float32)
    return gaussian(closed_yx, tuple(parameters.smoothing_mm / mm for mm in spacing_yx_mm)) > 0.5
