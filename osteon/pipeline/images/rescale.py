"""Stored values of CT pixels as Hounsfield units.

Stored values of a frame, its rescale and its padding enter, Hounsfield units leave: int16 wherever
it holds them, in place where that is asked for. `volume.py` calls it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

AIR_HU = -1024  # the lowest value that a 12-bit CT scale holds; stands for padding
HU_MIN, HU_MAX = np.iinfo(np.int16).min, np.iinfo(np.int16).max


def to_hu(
    stored: NDArray[Any],
    slope: float,
    intercept: float,
    padding: tuple[int, int] | None,
    out: NDArray[np.int16] | None = None,
    bounds: tuple[int, int] | None = None,
) -> NDArray[np.int16] | NDArray[np.float32]:
    """Rescale stored values to Hounsfield units; padding becomes air.

    Parameters
    ----------
    stored : ndarray of integers
        Stored values, any shape.
    slope, intercept : float
        Rescale Slope and Rescale Intercept (PS3.3 C.11.1.1.2).
    padding : tuple of int, optional
        Lowest and highest stored value that become `AIR_HU`.
    out : ndarray of int16, optional
        Where the result goes if int16 can hold it; `stored` may be a view of it.
    bounds : tuple of int, optional
        What no stored value but padding is below or above, where that is known.

    Returns
    -------
    ndarray of int16 or float32
        int16 where slope and intercept are integers and every value fits, else float32.
    """
    padded = None
    if padding is not None:
        padded = (stored >= padding[0]) & (stored <= padding[1])
        if not padded.any():
            padded = None
    hu: NDArray[np.int16] | NDArray[np.float32]
    known = bounds is not None and _fit_int16(*bounds, slope, intercept)
    if known or _fits_int16(stored, slope, intercept, padded):
        hu = np.empty(stored.shape, np.int16) if out is None else out
        # Modulo 2**16 is exact here, since every result is known to fit.
        if not _is_same_memory(stored, hu):
            np.copyto(hu, stored, casting="unsafe")
        if slope != 1:
            hu *= np.int16(slope)
        if intercept != 0:
            hu += np.int16(intercept)
    else:
        hu = (stored * np.float64(slope) + intercept).astype(np.float32)
    if padded is not None:
        hu[padded] = AIR_HU
    return hu


def _is_same_memory(stored: NDArray[Any], hu: NDArray[np.int16]) -> bool:
    first, other = (array.__array_interface__["data"][0] for array in (stored, hu))
    return stored.itemsize == hu.itemsize and first == other


def _fits_int16(
    stored: NDArray[Any], slope: float, intercept: float, padded: NDArray[np.bool_] | None
) -> bool:
    measured = stored if padded is None else stored[~padded]
    if measured.size == 0:
        return _fit_int16(0, 0, slope, intercept)
    return _fit_int16(int(measured.min()), int(measured.max()), slope, intercept)


def _fit_int16(low: int, high: int, slope: float, intercept: float) -> bool:
    """Say whether all rescaled values between two stored ones are integers that int16 holds."""
    if not (slope.is_integer() and intercept.is_integer()):
        return False
    if not (HU_MIN <= slope <= HU_MAX and HU_MIN <= intercept <= HU_MAX):
        return False
    ends = (low * slope + intercept, high * slope + intercept)
    return min(ends) >= HU_MIN and max(ends) <= HU_MAX
