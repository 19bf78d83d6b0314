"""How far two Segmentations of one series agree: Dice of all that is segmented, and by segment.

Two files enter, an `Overlap` leaves. Called where a shadow model's result is compared with the
first's. Frames are taken one slice at a time, so that memory does not grow with the segments.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from osteon.errors import EncodingError
from osteon.results.source import UNREADABLE

Place = tuple[str, int | None]  # SOP Instance UID and, in a multi-frame source, the frame.


@dataclass(frozen=True)
class Overlap:
    """Agreement of two Segmentations.

    Attributes
    ----------
    dice : float
        Of the union of all segments, 0 to 1; 1 where both are empty.
    segments : mapping of str to float
        Segment Label → Dice, of every segment of either; 0 where one lacks it.
    """

    dice: float
    segments: Mapping[str, float]


@dataclass(frozen=True)
class _Segmentation:
    """A BINARY Segmentation as its bits: which frames lie where."""

    shape: tuple[int, int]
    packed: NDArray[np.uint8]
    frames: Mapping[Place, Mapping[int, str]]  # place → frame index → Segment Label
    labels: frozenset[str]

    def masks_at(self, place: Place) -> dict[str, NDArray[np.bool_]]:
        """Return the mask of each segment in a slice; segments of one label become one."""
        found: dict[str, NDArray[np.bool_]] = {}
        size = self.shape[0] * self.shape[1]
        for frame, label in self.frames.get(place, {}).items():
            start, stop = frame * size, (frame + 1) * size
            bits = np.unpackbits(self.packed[start // 8 : (stop + 7) // 8], bitorder="little")
            mask = bits[start % 8 : start % 8 + size].astype(bool)
            found[label] = found[label] | mask if label in found else mask
        return found


def compare_segmentations(first: Path, second: Path) -> Overlap:
    """Compare two Segmentations of the same series, voxel by voxel.

    Parameters
    ----------
    first, second : Path
        Part 10 files of BINARY Segmentations.

    Raises
    ------
    EncodingError
        One cannot be read, is not BINARY, or they are not of the same frames.

    References
    ----------
    Dice, Measures of the amount of ecologic association between species, Ecology 26 (1945)
    """
    a, b = _read(first), _read(second)
    if a.shape != b.shape:
        raise EncodingError(f"the frames are {a.shape} in {first} and {b.shape} in {second}")
    sizes: Counter[str | None] = Counter()
    common: Counter[str | None] = Counter()
    for place in {*a.frames, *b.frames}:
        masks_a, masks_b = a.masks_at(place), b.masks_at(place)
        for masks in (masks_a, masks_b):
            sizes.update({label: int(mask.sum()) for label, mask in masks.items()})
        common.update({n: int((masks_a[n] & masks_b[n]).sum()) for n in masks_a.keys() & masks_b})
        all_a, all_b = _union(masks_a, a.shape), _union(masks_b, b.shape)
        sizes[None] += int(all_a.sum()) + int(all_b.sum())
        common[None] += int((all_a & all_b).sum())
    labels = sorted(a.labels | b.labels)
    return Overlap(
        _dice(common[None], sizes[None]),
        {label: _dice(common[label], sizes[label]) for label in labels},
    )


def _union(masks: Mapping[str, NDArray[np.bool_]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    union = np.zeros(shape[0] * shape[1], bool)
    for mask in masks.values():
        union |= mask
    return union


def _dice(common: int, size: int) -> float:
    return 2 * common / size if size else 1.0


def _read(path: Path) -> _Segmentation:
    with disable_value_validation():
        try:
            dataset = pydicom.dcmread(path)
            return _parse(dataset)
        except (AttributeError, *UNREADABLE, OSError, InvalidDicomError) as error:
            raise EncodingError(f"{path} is not a readable Segmentation: {error}") from error


def _parse(dataset: Dataset) -> _Segmentation:
    if dataset.SegmentationType != "BINARY":
        raise EncodingError(f"a Segmentation of type {dataset.SegmentationType} is not compared")
    labels = {int(s.SegmentNumber): str(s.SegmentLabel) for s in dataset.SegmentSequence}
    frames: dict[Place, dict[int, str]] = {}
    for frame, (place, number) in enumerate(_places(dataset)):
        frames.setdefault(place, {})[frame] = labels[number]
    return _Segmentation(
        shape=(int(dataset.Rows), int(dataset.Columns)),
        packed=np.frombuffer(dataset.PixelData, np.uint8),
        frames=frames,
        labels=frozenset(labels.values()),
    )


def _places(dataset: Dataset) -> Iterator[tuple[Place, int]]:
    """Yield which source frame and which segment each frame belongs to (PS3.3 C.7.6.16.2)."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        frame = source.get("ReferencedFrameNumber")
        holder = groups if "SegmentIdentificationSequence" in groups else shared
        number = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        place = str(source.ReferencedSOPInstanceUID), None if frame is None else int(frame)
        yield place, number
