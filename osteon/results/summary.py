"""What is told of the segments beside the Segmentation: plain JSON for a program that reads no SEG.

Segments, their label map and the affine of its grid enter; one object a segment leaves. The encode
stage keeps it with the job, and ``predict``, ``osteon jobs show`` and ``osteon run`` show it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from osteon.results.bits import LabelMap
from osteon.results.box import boxes_of
from osteon.results.segment import Segment


def summary_of(
    segments: Sequence[Segment], labels_zyx: LabelMap, affine: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Say of every segment what and how large it is, where it lies, and how it is coded.

    Parameters
    ----------
    segments : sequence of Segment
        Numbered 1..n in this order.
    labels_zyx : ndarray of uint8 or uint16, shape (slices, rows, columns)
        Their label map on the source grid; 0 is background.
    affine : ndarray of float64, shape (4, 4)
        Maps a voxel (column, row, slice, 1) of the source grid to patient millimetres in LPS.

    Returns
    -------
    list of dict
        In their order: ``number`` in the Segmentation, ``label``, ``volume_ml``, ``box``
        (``first_zyx``, ``last_zyx``, ``min_xyz_mm``, ``max_xyz_mm``), ``rgb``, and the codes
        ``category``, ``type`` and ``laterality``, the last of which is None where there is none.

    Raises
    ------
    EncodingError
        Label map and segments do not fit each other.

    References
    ----------
    DICOM PS3.3 C.8.20.4 (Segment Description Macro)
    """
    told = []
    for segment, box in zip(segments, boxes_of(labels_zyx, len(segments)), strict=True):
        min_xyz_mm, max_xyz_mm = box.extent_mm(affine)
        told.append(
            {
                "number": segment.number,
                "label": segment.label,
                "volume_ml": round(segment.volume_ml, 3),
                "box": {
                    "first_zyx": list(box.first_zyx),
                    "last_zyx": list(box.last_zyx),
                    "min_xyz_mm": min_xyz_mm.round(3).tolist(),
                    "max_xyz_mm": max_xyz_mm.round(3).tolist(),
                },
                "rgb": list(segment.rgb),
                "category": asdict(segment.category),
                "type": asdict(segment.type),
                "laterality": None if segment.modifier is None else asdict(segment.modifier),
            }
        )
    return told
