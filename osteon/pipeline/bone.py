"""``builtin:bone``: bone in CT from Hounsfield units alone, without weights.

Hounsfield units of slices enter, one byte of evidence per voxel leaves (`BoneModel.predict`); the
evidence of a whole volume enters, a bone mask leaves (`BoneModel.join`, done in
`osteon.pipeline.bonevolume`). Called by the stations prediction and boneseg.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

import fill_voids
import numpy as np
import torch
from numpy.typing import NDArray

from osteon.pipeline.bonevolume import (
    BODY,
    CANDIDATE,
    CERTAIN,
    METAL,
    BoneVolumeParameters,
    bone_mask,
)
from osteon.pipeline.modelspec import InputSpec, ModelSpec, SegmentSpec
from osteon.pipeline.volume import Volume

NAME = "builtin:bone"
# Raised whenever the same parameters would give another mask; it is part of the digest.
VERSION = "1"


@dataclass(frozen=True)
class BoneParameters:
    """What decides the evidence of a slice.

    Attributes
    ----------
    candidate_hu : float
        Where bone may begin: half way between muscle (about 50 HU) and cancellous bone
        (about 150 HU and more).
    certain_hu : float
        Above unenhanced soft tissue, blood and calcium-free fluid at any tube voltage.
    metal_hu : float
        Denser than enamel, the densest tissue.
    smoothing_mm : float
        Sigma of the in-plane Gaussian; it keeps noise from being taken for bone.
    tissue_hu : float
        Between air or foam and fat.
    table_mm : float
        A body is thicker than this everywhere, a table's shell is thinner.
    skin_mm : float
        How far the body may reach beyond its thick parts: ears, noses, folds of skin.
    """

    candidate_hu: float = 110.0
    certain_hu: float = 220.0
    metal_hu: float = 2500.0
    smoothing_mm: float = 0.7
    tissue_hu: float = -300.0
    table_mm: float = 9.0
    skin_mm: float = 8.0


class BoneModel:
    """The model ``builtin:bone``; it satisfies `osteon.pipeline.model.Model`."""

    name = NAME
    version = VERSION
    kind = "builtin"
    dimension: Literal["2d", "3d"] = "2d"
    segments: tuple[SegmentSpec, ...] = ()

    def __init__(
        self,
        slice_parameters: BoneParameters | None = None,
        volume_parameters: BoneVolumeParameters | None = None,
    ) -> None:
        self.slice_parameters = slice_parameters or BoneParameters()
        self.volume_parameters = volume_parameters or BoneVolumeParameters()

    @property
    def digest(self) -> str:
        """SHA-256 of the algorithm's version and of every parameter."""
        parameters = [VERSION, asdict(self.slice_parameters), asdict(self.volume_parameters)]
        return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()

    def predict(
        self, hu_zyx: NDArray[np.number[Any]], affine: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Return the evidence of each voxel, slice by slice."""
        row_mm, column_mm = in_plane_spacing_mm(affine)
        return np.stack(
            [slice_evidence(hu_yx, row_mm, column_mm, self.slice_parameters) for hu_yx in hu_zyx]
        )

    def join(self, prediction_zyx: NDArray[np.uint8], volume: Volume) -> NDArray[np.uint8]:
        """Return the bone mask, 0 or 1, of a whole volume."""
        return bone_mask(
            prediction_zyx, volume.hu_zyx, volume.geometry.spacing_zyx_mm, self.volume_parameters
        )


def bone_spec() -> ModelSpec:
    """Return the specification under which ``builtin:bone`` is listed."""
    return ModelSpec(
        name="builtin:bone",
        version=VERSION,
        kind="builtin",
        input=InputSpec(dimension="2d", hu_window=(-1024.0, 3071.0), patch=(512, 512)),
    )


def in_plane_spacing_mm(affine: NDArray[np.float64]) -> tuple[float, float]:
    """Return the distance between rows and between columns, as Pixel Spacing (0028,0030) does."""
    return float(np.linalg.norm(affine[:3, 1])), float(np.linalg.norm(affine[:3, 0]))


def slice_evidence(
    hu_yx: NDArray[np.number[Any]], row_mm: float, column_mm: float, parameters: BoneParameters
) -> NDArray[np.uint8]:
    """Say of each pixel of one slice whether it can be bone.

    Parameters
    ----------
    hu_yx : ndarray, shape (rows, columns)
        Hounsfield units of one slice.
    row_mm, column_mm : float
        Distance between rows and between columns.

    Returns
    -------
    ndarray of uint8, shape (rows, columns)
        Values of `osteon.pipeline.bonevolume`: 0 outside the body, BODY, CANDIDATE, CERTAIN, METAL.
    """
    hu = torch.from_numpy(np.ascontiguousarray(hu_yx, dtype=np.float32))[None, None]
    body = _body(hu, row_mm, column_mm, parameters)
    smooth = _gaussian(hu, parameters.smoothing_mm / row_mm, parameters.smoothing_mm / column_mm)
    evidence = body.to(torch.uint8) * BODY
    evidence[body & (smooth > parameters.candidate_hu)] = CANDIDATE
    evidence[body & (smooth > parameters.certain_hu)] = CERTAIN
    evidence[body & (hu > parameters.metal_hu)] = METAL
    return np.asarray(evidence[0, 0].numpy())


def _body(
    hu: torch.Tensor, row_mm: float, column_mm: float, parameters: BoneParameters
) -> torch.Tensor:
    """Tissue that is thicker than a table, and what lies within it; worked out at about 2 mm."""
    step = max(1, round(2.0 / max(row_mm, column_mm)))
    coarse = torch.nn.functional.avg_pool2d(hu, step, ceil_mode=True)
    tissue = (coarse > parameters.tissue_hu).float()
    widths = (row_mm * step, column_mm * step)
    thick = _dilate(
        _erode(tissue, parameters.table_mm / 2, widths), parameters.table_mm / 2, widths
    )
    reach = _dilate(thick, parameters.skin_mm, widths) * tissue
    solid = fill_voids.fill(np.ascontiguousarray(reach[0, 0].numpy() > 0))
    full = torch.from_numpy(np.asarray(solid, dtype=np.uint8)).repeat_interleave(step, 0)
    full = full.repeat_interleave(step, 1)[: hu.shape[2], : hu.shape[3]]
    return full[None, None] > 0


def _dilate(mask: torch.Tensor, radius_mm: float, widths_mm: tuple[float, float]) -> torch.Tensor:
    radii = [max(1, round(radius_mm / width)) for width in widths_mm]
    return torch.nn.functional.max_pool2d(
        mask, (2 * radii[0] + 1, 2 * radii[1] + 1), 1, (radii[0], radii[1])
    )


def _erode(mask: torch.Tensor, radius_mm: float, widths_mm: tuple[float, float]) -> torch.Tensor:
    # The border of the picture is no edge of the body: what max_pool2d pads counts as tissue here.
    return 1.0 - _dilate(1.0 - mask, radius_mm, widths_mm)


def _gaussian(image: torch.Tensor, row_sigma: float, column_sigma: float) -> torch.Tensor:
    for sigma, axis in ((row_sigma, 2), (column_sigma, 3)):
        radius = int(np.ceil(3.0 * sigma))
        if sigma < 0.3 or radius >= image.shape[axis]:
            continue
        taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
        shape = [1, 1, 1, 1]
        shape[axis] = 2 * radius + 1
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = torch.nn.functional.pad(image, pad, mode="replicate")
        image = torch.nn.functional.conv2d(padded, (taps / taps.sum()).reshape(shape))
    return image
