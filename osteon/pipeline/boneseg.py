"""The station boneseg: from evidence per voxel to one label map of named, measured segments.

A prediction and its `Volume` enter; the label map on the source grid and its `Segment` list leave
for the result encoders. Called by the worker.
"""

import cc3d
import numpy as np
from numpy.typing import NDArray

from osteon.errors import StageError
from osteon.pipeline.images.upright import shear_of
from osteon.pipeline.models.model import Model
from osteon.pipeline.models.modelspec import SegmentSpec
from osteon.pipeline.prediction import ask, checked_bytes
from osteon.pipeline.volume import Volume
from osteon.results.segment import Code, Segment

ANATOMICAL_STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
BONE = Code("272673000", "SCT", "Bone")
LATERALITY = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}

# The smallest part that is reported, and how many parts get a name of their own: a longer list
# helps nobody who reads it. What is smaller and stands alone is lost: calcifications and noise, but
# a pisiform or a phalanx of a toe as well.
#
# Parts are numbered and not named after anatomy. One part is often many bones: the spine, pelvis
# and femurs of a pelvis come as one. Its side of the body is not told either, since no position in
# the patient's coordinates says where the patient's middle is.
VOLUME_ML_MIN = 1.0
NAMED_MAX = 20

# Okabe and Ito's palette, readable with every colour vision, then its lighter and darker shades.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (255, 205, 102), (165, 216, 243), (84, 214, 179),
    (247, 240, 153), (77, 166, 214), (244, 151, 84), (226, 174, 203), (161, 111, 0),
    (34, 125, 176), (0, 97, 71), (176, 165, 24), (148, 65, 0), (156, 70, 118),
)  # fmt: skip
OTHER_RGB = (170, 170, 170)


def combine(
    model: Model, prediction_zyx: NDArray[np.uint8], volume: Volume
) -> tuple[NDArray[np.uint8], tuple[Segment, ...]]:
    """Join a prediction into one label map and say what its segments are.

    Parameters
    ----------
    prediction_zyx : ndarray of uint8, shape (slices, rows, columns)
        What `osteon.pipeline.prediction.predict` returned for this volume.

    Returns
    -------
    labels_zyx : ndarray of uint8, shape (slices, rows, columns)
        0 is background; a segment's number is its value. All 0 where nothing was found.
    segments : tuple of Segment
        By number, 1..n without gaps.

    Raises
    ------
    StageError
        The model failed; another attempt may succeed.
    ModelError
        The model's label map is not what its interface says.
    """
    if prediction_zyx.shape != volume.hu_zyx.shape:
        raise StageError(
            f"prediction of shape {prediction_zyx.shape} for a volume of {volume.hu_zyx.shape}"
        )
    joined_zyx = _joined(model, prediction_zyx, volume)
    voxel_ml = abs(float(np.linalg.det(volume.geometry.affine[:3, :3]))) / 1000.0
    if model.segments:
        return _named_by_model(joined_zyx, model.segments, voxel_ml)
    return _named_by_size(joined_zyx, voxel_ml)


def _joined(model: Model, prediction_zyx: NDArray[np.uint8], volume: Volume) -> NDArray[np.uint8]:
    """Join the prediction on upright slices, since shape is judged across them."""
    shear = shear_of(volume.geometry)
    if shear is not None:
        upright = shear.volume(volume)
        joined_zyx = _answer(model, shear.labels(prediction_zyx), upright)
        return shear.back(joined_zyx, prediction_zyx.shape)
    return _answer(model, prediction_zyx, volume)


def _answer(model: Model, prediction_zyx: NDArray[np.uint8], volume: Volume) -> NDArray[np.uint8]:
    joined_zyx = ask(model, "boneseg", model.join, prediction_zyx, volume)
    return checked_bytes(model, "joined", joined_zyx, volume.hu_zyx.shape)


def _named_by_model(
    joined_zyx: NDArray[np.uint8], specs: tuple[SegmentSpec, ...], voxel_ml: float
) -> tuple[NDArray[np.uint8], tuple[Segment, ...]]:
    counts = np.bincount(joined_zyx.ravel(), minlength=256)
    number_of_value = np.zeros(256, np.uint8)
    segments: list[Segment] = []
    for spec in sorted(specs, key=lambda spec: spec.value):
        if counts[spec.value] == 0:
            continue
        number_of_value[spec.value] = len(segments) + 1
        segments.append(
            Segment(
                number=len(segments) + 1,
                label=spec.label,
                category=spec.category.code(),
                type=spec.type.code(),
                modifier=LATERALITY[spec.laterality] if spec.laterality else None,
                rgb=spec.rgb,
                volume_ml=float(counts[spec.value]) * voxel_ml,
            )
        )
    return number_of_value[joined_zyx], tuple(segments)


def _named_by_size(
    mask_zyx: NDArray[np.uint8], voxel_ml: float
) -> tuple[NDArray[np.uint8], tuple[Segment, ...]]:
    labels_zyx = np.zeros(mask_zyx.shape, np.uint8)
    box = _bounds(mask_zyx)
    components_zyx = cc3d.connected_components(mask_zyx[box], connectivity=26)
    sizes = cc3d.statistics(components_zyx)["voxel_counts"].astype(np.int64)
    sizes[0] = 0
    # A stable sort: of two components of one size, the one that comes first in memory stays first.
    by_size = np.argsort(-sizes, kind="stable")
    kept = [int(component) for component in by_size if sizes[component] * voxel_ml >= VOLUME_ML_MIN]
    number_of_component = np.zeros(sizes.size, np.uint8)
    for rank, component in enumerate(kept):
        number_of_component[component] = min(rank, NAMED_MAX) + 1
    for index, plane_yx in enumerate(components_zyx):
        labels_zyx[box][index] = number_of_component[plane_yx]
    segments = [
        _bone(rank + 1, f"Bone {rank + 1}", PALETTE[rank], float(sizes[component]) * voxel_ml)
        for rank, component in enumerate(kept[:NAMED_MAX])
    ]
    if len(kept) > NAMED_MAX:
        others_ml = float(sizes[kept[NAMED_MAX:]].sum()) * voxel_ml
        segments.append(_bone(NAMED_MAX + 1, "Bone, other parts", OTHER_RGB, others_ml))
    return labels_zyx, tuple(segments)


def _bounds(mask_zyx: NDArray[np.uint8]) -> tuple[slice, slice, slice]:
    """Return the smallest box around the mask, or one voxel where it is empty."""
    sides = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask_zyx.any(axis=others))
        sides.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 1))
    return sides[0], sides[1], sides[2]


def _bone(number: int, label: str, rgb: tuple[int, int, int], volume_ml: float) -> Segment:
    return Segment(number, label, ANATOMICAL_STRUCTURE, BONE, None, rgb, volume_ml)
