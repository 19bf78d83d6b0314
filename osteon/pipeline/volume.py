"""A CT series as one volume in Hounsfield units.

Part 10 files enter, a `Volume` on the source grid leaves; the worker calls it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from osteon.errors import VolumeError
from osteon.pipeline.geometry import Geometry, SourceFrame

__all__ = ["Geometry", "SourceFrame", "Volume", "read_volume"]


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume on its source grid.

    Attributes
    ----------
    hu_zyx : ndarray of int16 or float32, shape (slices, rows, columns)
        Hounsfield units; int16 where every rescaled value is an integer in range.
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

    Parameters
    ----------
    paths : sequence of Path
        Part 10 files in any order.
    on_frame : callable, optional
        Called with (frames read, frames in all) after each frame.

    Returns
    -------
    Volume
        Slices sorted along their normal.

    Raises
    ------
    VolumeError
        The files are not one volume; the message says which slices and why.
    """
    datasets = [pydicom.dcmread(path) for path in paths]
    if len(datasets) < 3:
        raise VolumeError(f"{len(datasets)} slices are no volume: at least 3 are needed")
    orientation = np.array(datasets[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(*orientation)
    positions = np.array([ds.ImagePositionPatient for ds in datasets], float)
    order = np.argsort(positions @ normal)
    first, last = positions[order[0]], positions[order[-1]]
    step = (last - first) / (len(order) - 1)
    row_mm, column_mm = (float(value) for value in datasets[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = orientation[0] * column_mm
    affine[:3, 1] = orientation[1] * row_mm
    affine[:3, 2] = step
    affine[:3, 3] = first
    slices = []
    for done, index in enumerate(order, start=1):
        ds = datasets[index]
        slope, intercept = float(ds.RescaleSlope), float(ds.RescaleIntercept)
        slices.append(ds.pixel_array * slope + intercept)
        if on_frame is not None:
            on_frame(done, len(order))
    geometry = Geometry(
        affine=affine,
        shape_zyx=(len(order), datasets[0].Rows, datasets[0].Columns),
        spacing_zyx_mm=(float(step @ normal), row_mm, column_mm),
        frame_of_reference_uid=str(datasets[0].FrameOfReferenceUID),
    )
    frames = tuple(
        SourceFrame(paths[index], 1, datasets[index].SOPClassUID, datasets[index].SOPInstanceUID)
        for index in order
    )
    return Volume(np.stack(slices).astype(np.int16), geometry, frames)
