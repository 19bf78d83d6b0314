"""A CT series as one volume in Hounsfield units.

Part 10 files enter, a `Volume` on the source grid leaves; the worker calls it. Two passes: the
headers of all files go through the geometry gate, then the pixels of each are read in place, so
that a series which is no volume costs no decoding and memory holds one frame beside the volume.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osteon.errors import VolumeError
from osteon.pipeline.images.decoders import cores_here, decode, processes_for
from osteon.pipeline.images.geometry import FrameHeader, Geometry, SourceFrame, order_slices
from osteon.pipeline.images.header import SourceInstance, read_header
from osteon.pipeline.images.pixels import read_frames
from osteon.pipeline.images.rescale import to_hu

PAGE_BYTES = 4096
HU_ABS_MAX = 1e6  # Extended scales, made for metal, end at some 65,000.

__all__ = ["Geometry", "Slices", "SourceFrame", "Volume", "read_slices", "read_volume"]


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


@dataclass(frozen=True, eq=False)
class Slices:
    """The frames of one instance, read before its series was whole.

    Attributes
    ----------
    hu_yx : tuple of ndarray of int16 or float32, shape (rows, columns)
        Hounsfield units of each frame, in the order of the pixel data.
    """

    instance: SourceInstance
    hu_yx: tuple[NDArray[Any], ...]


def read_slices(path: Path) -> Slices:
    """Read one instance of a series that may still be arriving.

    Raises
    ------
    VolumeError, StageError
        As `read_volume`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # As in `read_volume`.
        instance = read_header(path)
        return Slices(instance, tuple(_decode(instance)))


def read_volume(
    paths: Sequence[Path],
    *,
    held: Mapping[Path, Slices] | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> Volume:
    """Read the instances of one CT series as one volume.

    Single-frame, enhanced and legacy converted enhanced CT images are taken. A constant gantry
    tilt is kept: the affine is then sheared (see `Geometry`), and labels made on `hu_zyx` are
    labels of the source pixels.

    Parameters
    ----------
    paths : sequence of Path
        Part 10 files in any order, each once.
    held : mapping of Path to Slices, optional
        What was read of some of them before.
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
        known = held or {}
        instances = [known[path].instance if path in known else read_header(path) for path in paths]
        geometry, ordered = order_slices([h for one in instances for h in one.frames])
        hu_zyx = _fill(geometry, ordered, instances, known, on_frame)
    return Volume(hu_zyx, geometry, tuple(header.source for header in ordered))


def _fill(
    geometry: Geometry,
    ordered: Sequence[FrameHeader],
    instances: Sequence[SourceInstance],
    known: Mapping[Path, Slices],
    on_frame: Callable[[int, int], None] | None,
) -> NDArray[np.int16] | NDArray[np.float32]:
    """Put every frame into its place; the first that needs it makes the volume float32."""
    slice_of = {header.source: index for index, header in enumerate(ordered)}
    hu_zyx: NDArray[np.int16] | NDArray[np.float32] = np.empty(geometry.shape_zyx, np.int16)
    # Files are read straight into it. A page that the kernel has to find while it copies a file
    # costs three to eight times what it costs here, where large pages are given.
    hu_zyx.reshape(-1)[:: PAGE_BYTES // hu_zyx.itemsize] = 0
    unread = [one.pixels for one in instances if one.pixels.path not in known]
    processes = processes_for(unread, cores_here())
    done = 0
    with closing(decode(unread, processes)) as elsewhere:
        for instance in instances:
            places = [hu_zyx[slice_of[header.source]] for header in instance.frames]
            held = known.get(instance.pixels.path)
            stored = next(elsewhere) if processes and held is None else None
            frames = _decode(instance, places, stored) if held is None else held.hu_yx
            for header, hu_yx in zip(instance.frames, frames, strict=True):
                if hu_yx.dtype == np.float32 and hu_zyx.dtype != np.float32:
                    hu_zyx = hu_zyx.astype(np.float32)
                place = hu_zyx[slice_of[header.source]]
                if not np.may_share_memory(place, hu_yx):
                    place[...] = hu_yx
                done += 1
                if on_frame is not None:
                    on_frame(done, len(ordered))
    return hu_zyx


def _decode(
    instance: SourceInstance,
    places: Sequence[NDArray[Any]] = (),
    stored: Iterable[NDArray[Any]] | None = None,
) -> Iterator[NDArray[Any]]:
    """Turn an instance frame by frame into Hounsfield units, in place where int16 holds them."""
    outs = [place if place.dtype == np.int16 else None for place in places]
    outs = outs or [None] * len(instance.frames)
    if stored is None:
        stored = read_frames(instance.pixels, (out for out in outs if out is not None))
    for rescale, stored_yx, out in zip(instance.rescales, stored, outs, strict=True):
        if rescale is None:
            raise VolumeError(
                f"{instance.pixels.name} has no valid Rescale Slope and Rescale Intercept: "
                "its grey values cannot be turned into Hounsfield units"
            )
        hu_yx = to_hu(stored_yx, *rescale, instance.pixels.padding, out, instance.pixels.bounds)
        if hu_yx.dtype == np.float32 and not np.abs(hu_yx).max() <= HU_ABS_MAX:
            raise VolumeError(
                f"{instance.pixels.name}: Rescale Slope {rescale[0]:g} and Rescale Intercept "
                f"{rescale[1]:g} give values beyond {HU_ABS_MAX:,.0f} HU"
            )
        yield hu_yx
