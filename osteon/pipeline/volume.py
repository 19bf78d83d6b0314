"""A CT series as one volume in Hounsfield units.

Part 10 files enter, a `Volume` on the source grid leaves; the worker calls it. Two passes: the
headers of all files go through the geometry gate, then the pixels of each are read in place, so
that a series which is no volume costs no decoding and memory holds one frame beside the volume.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from osteon.errors import VolumeError
from osteon.pipeline.geometry import FrameHeader, Geometry, SourceFrame, order_slices
from osteon.pipeline.header import SourceInstance, read_header
from osteon.pipeline.pixels import read_frames, to_hu

__all__ = ["Geometry", "SourceFrame", "Volume", "read_volume"]


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume on its source grid.

    Attributes
    ----------
    hu_zyx : ndarray of int16 or float32, shape (slices, rows, columns)
        Hounsfield units; int16 where every rescaled value is an integer in range. Pixel padding
        is -1024.
    geometry : Geometry
        Where the voxels are in the patient.
    frames : tuple of SourceFrame
        The source of each slice, in the order of the slices.
    """

    hu_zyx: NDArray[np.int16] | NDArray[np.float32]
    geometry: Geometry
    frames: tuple[SourceFrame, ...]


def read_volume(
    paths: Sequence[Path], *, on_frame: Callable[[int, int], None] | None = None
) -> Volume:
    """Read the instances of one CT series as one volume.

    Single-frame, enhanced and legacy converted enhanced CT images are taken. A constant gantry
    tilt is kept: the affine is then sheared (see `Geometry`), and labels made on `hu_zyx` are
    labels of the source pixels.

    Parameters
    ----------
    paths : sequence of Path
        Part 10 files in any order, each once.
    on_frame : callable, optional
        Called with (frames read, frames in all) after each frame.

    Returns
    -------
    Volume
        Slices ascend along the normal of their planes.

    Raises
    ------
    VolumeError
        The files are not one volume, or their pixels are damaged; the message says which and why.
    StageError
        A file cannot be read now.

    References
    ----------
    DICOM PS3.3 A.3 (CT), A.38.1 (Enhanced CT), A.70 (Legacy Converted Enhanced CT)
    """
    with warnings.catch_warnings():
        # pydicom warns of every invalid value; what matters of them is refused by the gate.
        warnings.simplefilter("ignore")
        instances = [read_header(path) for path in paths]
        geometry, ordered = order_slices([h for one in instances for h in one.frames])
        hu_zyx = _read_hu(instances, geometry, ordered, on_frame)
    return Volume(hu_zyx, geometry, tuple(header.source for header in ordered))


def _read_hu(
    instances: Sequence[SourceInstance],
    geometry: Geometry,
    ordered: Sequence[FrameHeader],
    on_frame: Callable[[int, int], None] | None,
) -> NDArray[np.int16] | NDArray[np.float32]:
    """Decode every frame into its place; the first that needs it makes the volume float32."""
    slice_of = {header.source: index for index, header in enumerate(ordered)}
    hu_zyx: NDArray[np.int16] | NDArray[np.float32] = np.empty(geometry.shape_zyx, np.int16)
    done = 0
    for instance in instances:
        frames = zip(instance.frames, instance.rescales, read_frames(instance.pixels), strict=True)
        for header, rescale, stored in frames:
            if rescale is None:
                raise VolumeError(
                    f"{instance.pixels.name} has no valid Rescale Slope and Rescale Intercept: "
                    "its grey values cannot be turned into Hounsfield units"
                )
            hu = to_hu(stored, *rescale, instance.pixels.padding)
            if hu.dtype == np.float32 and hu_zyx.dtype != np.float32:
                hu_zyx = hu_zyx.astype(np.float32)
            hu_zyx[slice_of[header.source]] = hu
            done += 1
            if on_frame is not None:
                on_frame(done, len(ordered))
    return hu_zyx
