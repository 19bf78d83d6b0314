"""``builtin:bone``: bone in CT from Hounsfield units alone, without weights.

Hounsfield units of slices enter, one byte of evidence per voxel leaves (`BoneModel.predict`, done
in `osteon.pipeline.bones.evidence`); the evidence of a whole volume enters, a bone mask leaves
(`BoneModel.join`, done in `osteon.pipeline.bones.bonevolume`). Called by the stations
prediction and boneseg.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.bones.boneshape import BoneVolumeParameters
from osteon.pipeline.bones.bonevolume import bone_mask
from osteon.pipeline.bones.evidence import EvidenceParameters, slice_evidence
from osteon.pipeline.models.modelspec import InputSpec, ModelSpec, SegmentSpec
from osteon.pipeline.volume import Volume

NAME = "builtin:bone"
# Raised whenever the same parameters would give another mask; it is part of the digest.
VERSION = "2"


class BoneModel:
    """The model ``builtin:bone``; it satisfies `osteon.pipeline.models.model.Model`."""

    name = NAME
    version = VERSION
    kind = "builtin"
    dimension: Literal["2d", "3d"] = "2d"
    segments: tuple[SegmentSpec, ...] = ()

    def __init__(
        self,
        slice_parameters: EvidenceParameters | None = None,
        volume_parameters: BoneVolumeParameters | None = None,
    ) -> None:
        self.slice_parameters = slice_parameters or EvidenceParameters()
        self.volume_parameters = volume_parameters or BoneVolumeParameters()

    @property
    def digest(self) -> str:
        """SHA-256 of the algorithm's version and of every parameter."""
        parameters = [VERSION, asdict(self.slice_parameters), asdict(self.volume_parameters)]
        return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()

    def predict(
        self, hu_zyx: NDArray[np.number[Any]], affine: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        """Return the evidence of each voxel slice by slice, shaped as `Model.predict` says."""
        # Pixel Spacing (0028,0030): between rows, then between columns.
        spacing_yx_mm = (float(np.linalg.norm(affine[:3, 1])), float(np.linalg.norm(affine[:3, 0])))
        evidence_zyx = np.empty(hu_zyx.shape, np.uint8)
        for index, hu_yx in enumerate(hu_zyx):
            evidence_zyx[index] = slice_evidence(hu_yx, spacing_yx_mm, self.slice_parameters)
        return evidence_zyx

    def join(self, prediction_zyx: NDArray[np.uint8], volume: Volume) -> NDArray[np.uint8]:
        """Return the bone mask, 0 or 1, of a whole volume, shaped as `Model.join` says."""
        return bone_mask(prediction_zyx, volume.geometry.spacing_zyx_mm, self.volume_parameters)


def bone_spec() -> ModelSpec:
    """Return the specification under which ``builtin:bone`` is listed."""
    return ModelSpec(
        name=NAME,
        version=VERSION,
        kind="builtin",
        input=InputSpec(dimension="2d", hu_window=(-1024.0, 3071.0), patch=(512, 512)),
    )
