"""What the soft tissue of a volume is like: its density and its noise.

Densities enter, a `Tissue` leaves; every threshold of ``builtin:bone`` is measured from it, so that
tube voltage, contrast medium and dose need no setting. Called by
`osteon.pipeline.bones.bonevolume`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.bones.evidence import HU_OFFSET, HU_STEP, METAL, level


class Tissue(NamedTuple):
    """Soft tissue in Hounsfield units.

    Attributes
    ----------
    soft_hu : float
        The densest soft tissue that fills much of the body: muscle without contrast medium, the
        liver with it.
    noise_hu : float
        Standard deviation of the noise.
    grain_hu : float
        Of the part of it in which neighbours differ.
    """

    soft_hu: float
    noise_hu: float
    grain_hu: float


# Soft tissue lies between water and the densest enhanced organ.
SOFT_HU = (0.0, 150.0)
# Nearer peaks of the histogram are one tissue, and lower ones too little of it.
PEAK_APART_HU, PEAK_PART = 50.0, 0.3
# Neighbours agree where a soft kernel or a fine grid makes noise coarse. Voxels so far apart do
# not, but they also differ by anatomy: of their difference this part is taken for noise.
COARSE_MM, COARSE_PART = 3.5, 0.75


def measure_tissue(level_zyx: NDArray[np.uint8], column_mm: float) -> Tissue:
    """Measure soft tissue.

    Parameters
    ----------
    level_zyx : ndarray of uint8, shape (slices, rows, columns)
        Densities in the units of `osteon.pipeline.bones.evidence`.
    column_mm : float
        Distance between columns.

    Returns
    -------
    Tissue
        ``soft_hu`` is the densest peak of the histogram that reaches a third of the highest;
        ``grain_hu`` comes from the median second difference along rows, ``noise_hu`` where the
        noise is coarse from that between voxels further apart.
    """
    counts = np.bincount(level_zyx.reshape(-1), minlength=METAL + 1)
    smooth = np.convolve(counts, np.ones(3) / 3.0, "same")
    first, last = (round(level(hu)) for hu in SOFT_HU)
    apart = round(PEAK_APART_HU / 2.0 / HU_STEP)
    soft = smooth[first : last + 1]
    peaks = [
        value
        for value in range(first, last + 1)
        if smooth[value] == smooth[value - apart : value + apart + 1].max()
        and smooth[value] > PEAK_PART * soft.max()
    ]
    soft_level = peaks[-1] if peaks else round(level(50.0))
    grain_hu = _median_noise_hu(level_zyx, soft_level, 1)
    coarse_hu = _median_noise_hu(level_zyx, soft_level, max(1, round(COARSE_MM / column_mm)))
    noise_hu = max(grain_hu, COARSE_PART * coarse_hu)
    return Tissue(HU_STEP * soft_level + HU_OFFSET, noise_hu, grain_hu)


def _median_noise_hu(level_zyx: NDArray[np.uint8], soft_level: int, step: int) -> float:
    noises = [_noise(plane, soft_level, step) for plane in level_zyx]
    known = [noise for noise in noises if noise is not None]
    return HU_STEP * float(np.median(known)) if known else 0.0


def _noise(level_yx: NDArray[np.uint8], soft_level: int, step: int) -> float | None:
    lines = level_yx.astype(np.int16)
    before, middle, after = lines[:, : -2 * step], lines[:, step:-step], lines[:, 2 * step :]
    soft = [np.abs(part - soft_level) * HU_STEP < 75.0 for part in (before, middle, after)]
    second = (after + before - 2 * middle)[soft[0] & soft[1] & soft[2]]
    if second.size < 100:
        return None
    # A standard deviation is 1.2533 mean absolute values of a normal variable; of the second
    # difference of independent values it is the square root of 6 times theirs.
    return float(1.2533 / 6.0**0.5 * np.mean(np.abs(second)))
