"""Where the voxels of a CT series are in the patient.

Frame headers enter, the order of the slices and their affine leave; `volume.py` calls it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a source instance, as a result refers to it.

    Attributes
    ----------
    path : Path
        The Part 10 file.
    frame : int
        Frame number from 1; 1 for a single-frame instance.
    sop_class_uid, sop_instance_uid : str
        The instance that holds the frame.
    """

    path: Path
    frame: int
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, eq=False)
class Geometry:
    """The source grid: where each voxel is in the patient.

    Attributes
    ----------
    affine : ndarray of float64, shape (4, 4)
        Maps a voxel (column, row, slice, 1) to patient millimetres in LPS (PS3.3 C.7.6.2.1.1).
    shape_zyx : tuple of int
        (slices, rows, columns).
    spacing_zyx_mm : tuple of float
        Distance between slices along their normal, between rows, and between columns.
    frame_of_reference_uid : str
        Frame of Reference UID that all slices share.
    """

    affine: NDArray[np.float64]
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    frame_of_reference_uid: str
