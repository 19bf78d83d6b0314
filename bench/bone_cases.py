"""Labelled CT and altered copies of it, as `train_bones` shows them to a network.

Folders of labelled series enter (`prepare`), and digital phantoms; patches of what a network may
see, with the label and how far it counts, leave.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from bones import builtin_bone, files_of, reference_of
from numpy.typing import NDArray
from torch.nn import functional

from osteon.pipeline.bones.boneshape import BoneVolumeParameters, Spacing
from osteon.pipeline.bones.bonevolume import bone_mask
from osteon.pipeline.bones.enclosure import RAYS, leakage, wall_hits
from osteon.pipeline.bones.evidence import METAL, EvidenceParameters, level, slice_evidence
from osteon.pipeline.bones.filters import box_maximum, box_minimum, gaussian, shrunk, voxels
from osteon.pipeline.bones.tissue import measure_tissue
from osteon.pipeline.phantoms.phantom import render_phantom
from osteon.pipeline.volume import read_volume

LABELLED = ("pelvis", "vertebra", "siemens")
FOLDERS = {
    "pelvis": "ts_pelvis_3mm",
    "vertebra": "tptbox_vertebra",
    "siemens": "ts_siemens_j2k",
    "ankle": "vhf_ankle_jpegll",
}
# The reference of this series leaves out vertebrae that the ends of the scan cut.
JUDGED = {"siemens": slice(4, 14)}
PATCH = (32, 64, 64)
PATCHES_OF_A_COPY = 3
SLICES_FEW = 30
# What is known of a voxel on the coarse grid of builtin:bone.
DENSITY, RAYS_MET, LEAK, BUILTIN, LABEL, WEIGHT = range(6)


@dataclass(frozen=True, eq=False)
class Case:
    """A labelled volume: Hounsfield units, bone, how far a voxel counts, and the spacing in mm."""

    hu_zyx: NDArray[np.float32]
    bone_zyx: NDArray[np.float32]
    weight_zyx: NDArray[np.float32]
    spacing_zyx_mm: Spacing


def load_case(path: Path) -> Case:
    """Read one series; bone of ``builtin:bone`` far from that of the reference is left undecided.

    The references leave out some bones: an elbow, vertebrae cut at the ends, a broken trochanter.
    """
    arrays = np.load(path)
    hu, bone = arrays["hu"].astype(np.float32), arrays["ref"].astype(np.float32)
    z_mm, y_mm, x_mm = (float(mm) for mm in arrays["sp"])
    spacing = (z_mm, y_mm, x_mm)
    weight = np.ones_like(hu)
    if path.stem in LABELLED:
        apart = box_maximum(bone > 0, voxels(4.0, spacing, at_least=1))
        weight[(builtin(hu, spacing) > 0) & ~apart] = 0.0
    if path.stem in JUDGED:
        outside = np.ones(len(hu), bool)
        outside[JUDGED[path.stem]] = False
        weight[outside] = 0.0
    return Case(hu, bone, weight, spacing)


def builtin(hu_zyx: NDArray[np.float32], spacing_zyx_mm: Spacing) -> NDArray[np.uint8]:
    """Return the bone that ``builtin:bone`` finds."""
    return bone_mask(evidence_of(hu_zyx, spacing_zyx_mm), spacing_zyx_mm, BoneVolumeParameters())


def evidence_of(hu_zyx: NDArray[np.float32], spacing_zyx_mm: Spacing) -> NDArray[np.uint8]:
    """Return the evidence of every slice."""
    parameters = EvidenceParameters()
    return np.stack([slice_evidence(hu_yx, spacing_zyx_mm[1:], parameters) for hu_yx in hu_zyx])


def phantom_case(rng: np.random.Generator) -> Case:
    """Render a phantom of any spacing, as a scan of part of a torso."""
    z_mm, yx_mm = float(rng.uniform(1.5, 4.0)), float(rng.uniform(1.3, 3.0))
    size = (int(rng.uniform(120, 240) / z_mm), int(370 / yx_mm), int(370 / yx_mm))
    hu, labels, _ = render_phantom(int(rng.integers(1 << 30)), size, (z_mm, yx_mm, yx_mm))
    bone = (labels > 0).astype(np.float32)
    return Case(hu.astype(np.float32), bone, np.ones_like(bone), (z_mm, yx_mm, yx_mm))


def deformed(case: Case, rng: np.random.Generator) -> Case:
    """Turn, stretch, bend, mirror and sample a case anew on another grid.

    A stack of few slices keeps its slices; it is changed within them.
    """
    size = np.array(case.hu_zyx.shape)
    deep = size[0] > SLICES_FEW
    free = np.array([float(deep), 1.0, 1.0])
    finest = np.maximum(1.0, 1.2 / np.array(case.spacing_zyx_mm))
    sampling = (finest * rng.uniform(0.8, 1.35, 3)) ** free
    shape = tuple(int(n) for n in np.maximum(8, np.rint(size / sampling)))
    extent_mm = size * case.spacing_zyx_mm
    angles = np.deg2rad(rng.normal(0, (8, 3, 3))) * (1.0, float(deep), float(deep))
    # Coordinates of grid_sample run from -1 to 1 and are those of x, y, z.
    matrix = (np.diag(1 / extent_mm) @ _turn(angles) @ np.diag(extent_mm))[::-1, ::-1].copy()
    matrix[:, 0] *= rng.choice([-1, 1])
    theta = torch.tensor(np.c_[matrix, np.zeros(3)], dtype=torch.float32)[None]
    grid = functional.affine_grid(theta, [1, 1, *shape], align_corners=False)
    knots = [max(3, int(mm / 35)) for mm in extent_mm]
    bend_mm = rng.normal(0, rng.uniform(0, 3.5), (1, 3, *knots)) * free[::-1, None, None, None]
    coarse = torch.tensor(bend_mm / (extent_mm[::-1, None, None, None] / 2), dtype=torch.float32)
    bend = functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
    grid += bend.permute(0, 2, 3, 4, 1)
    stack = torch.from_numpy(np.stack([case.hu_zyx + 1024, case.bone_zyx, case.weight_zyx]))[None]
    out = functional.grid_sample(stack, grid, "bilinear", "zeros", align_corners=False)[0].numpy()
    z_mm, y_mm, x_mm = (float(mm) for mm in extent_mm / np.array(shape) * rng.uniform(0.88, 1.14))
    return Case(out[0] - 1024, out[1], out[2], (z_mm, y_mm, x_mm))


def _turn(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation about the three axes, one after the other."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (other for other in range(3) if other != axis)
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return turn


def reimaged(case: Case, rng: np.random.Generator) -> Case:
    """Change densities, kernel and noise as other patients and scanners would."""
    hu = case.hu_zyx.copy()
    if rng.random() < 0.6:  # marrow from fatty to dense, by the place
        inside = box_minimum((case.bone_zyx > 0.9).view(np.uint8) * np.uint8(255), (1, 1, 1)) > 0
        field = torch.tensor(rng.normal(0, 60, (1, 1, 4, 4, 4)) + rng.uniform(-140, 60)).float()
        smooth = functional.interpolate(field, size=hu.shape, mode="trilinear")[0, 0].numpy()
        hu += np.where(inside & (hu < 350), smooth, 0)
    above = np.maximum(hu - 40, 0)
    hu += above * np.float32(rng.uniform(-0.3, 0.3)) + np.float32(rng.normal(0, 8))
    blur = rng.uniform(-0.6, 0.9)
    smooth = gaussian(hu, (abs(blur) * 0.5,) + (abs(blur),) * 2)
    hu = smooth if blur > 0 else hu + 0.7 * (hu - smooth)
    noise = gaussian(
        rng.standard_normal(hu.shape, np.float32), (0.0, *(rng.uniform(0.3, 1.0),) * 2)
    )
    hu += noise * np.float32(abs(rng.normal(0, 18)) / noise.std())
    return Case(np.clip(hu, -1024, 3071), case.bone_zyx, case.weight_zyx, case.spacing_zyx_mm)


def cropped(case: Case, rng: np.random.Generator) -> Case:
    """Show a part of the field of view."""
    if rng.random() < 0.5:
        return case
    box = []
    for count in case.hu_zyx.shape:
        keep = max(min(count, 12), int(count * rng.uniform(0.55, 1.0)))
        first = int(rng.integers(count - keep + 1))
        box.append(slice(first, first + keep))
    parts = [array[tuple(box)] for array in (case.hu_zyx, case.bone_zyx, case.weight_zyx)]
    return Case(parts[0], parts[1], parts[2], case.spacing_zyx_mm)


def seen(case: Case) -> tuple[NDArray[np.uint8], float]:
    """Return the channels on the coarse grid of ``builtin:bone``, and the mean spacing in mm."""
    parameters, spacing = BoneVolumeParameters(), case.spacing_zyx_mm
    evidence = evidence_of(case.hu_zyx, spacing)
    classical = bone_mask(evidence, spacing, parameters)
    factors = voxels(parameters.grid_mm, spacing, at_least=1)
    grid = tuple(mm * factor for mm, factor in zip(spacing, factors, strict=True))
    density = np.rint(shrunk(evidence, factors)).astype(np.uint8)
    tissue = measure_tissue(density, grid[2])
    wall_hu = tissue.soft_hu + parameters.wall_hu + parameters.wall_noise * tissue.noise_hu
    wall = density > level(wall_hu)
    hits = wall_hits(wall, (grid[0], grid[1], grid[2]), parameters.ray_mm)
    closed = ~wall & (hits >= parameters.rays_min)
    scale = (level(wall_hu) - np.arange(METAL + 1)) / (level(wall_hu) - level(tissue.soft_hu))
    conductance = scale.clip(0.05, 1.0).astype(np.float32)[density]
    leak = leakage(closed, ~wall & ~closed, conductance, (grid[0], grid[1], grid[2]), 20.0)
    parts = [shrunk(part, factors) * 255 for part in (classical, case.bone_zyx, case.weight_zyx)]
    channels = [density, hits * (255.0 / RAYS), leak * 255, *parts]
    return np.stack([np.rint(part).astype(np.uint8) for part in channels]), float(np.mean(grid))


def patch(channels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Cut or pad to the size of a patch, around bone for the most part."""
    size = channels.shape[1:]
    bone = np.flatnonzero(channels[LABEL] > 127)
    at = np.unravel_index(int(rng.choice(bone)), size) if bone.size else [n // 2 for n in size]
    out = np.zeros((len(channels), *PATCH), np.uint8)
    source, target = [], []
    for centre, count, want in zip(at, size, PATCH, strict=True):
        wished = centre + rng.integers(-want // 3, want // 3 + 1) - want // 2
        first = int(np.clip(wished, 0, max(0, count - want)))
        length = min(count, want)
        source.append(slice(first, first + length))
        target.append(slice(0, length))
    out[(slice(None), *target)] = channels[(slice(None), *source)]
    return out


def sample(task: tuple[str, str, int]) -> tuple[str, NDArray[np.uint8], float]:
    """Make patches of one altered copy of one series, or of a phantom."""
    arrays, name, seed = task
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, len(name)])
    case = phantom_case(rng) if name == "phantom" else load_case(Path(arrays) / f"{name}.npz")
    if name != "phantom":
        case = deformed(case, rng)
    channels, grid_mm = seen(cropped(reimaged(case, rng), rng))
    return name, np.stack([patch(channels, rng) for _ in range(PATCHES_OF_A_COPY)]), grid_mm


def prepare(data: Path, arrays: Path) -> None:
    """Write the labelled series as arrays; the ankle's label is what ``builtin:bone`` finds."""
    arrays.mkdir(parents=True, exist_ok=True)
    for name, folder in FOLDERS.items():
        volume = read_volume(files_of(data / folder))
        bone = reference_of(data / folder)
        bone = builtin_bone(volume) if bone is None else bone
        spacing = volume.geometry.spacing_zyx_mm
        hu = volume.hu_zyx.astype(np.int16)
        body = np.nonzero(evidence_of(hu.astype(np.float32), spacing))
        box = tuple(slice(int(at.min()), int(at.max()) + 1) for at in body)
        np.savez_compressed(arrays / name, hu=hu[box], ref=bone[box].astype(np.uint8), sp=spacing)
