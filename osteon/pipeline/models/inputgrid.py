"""The volume as a network wants it: turned, on the network's own spacing, grey values scaled.

Hounsfield units on the source grid enter; planes of the network's grid leave, made when they are
asked for, so that the whole volume never stands there a second time. Called by
`osteon.pipeline.models.networkmodel`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from osteon.errors import ModelError
from osteon.pipeline.models.memory import empty
from osteon.pipeline.models.modelspec import AXIS_OF, InputSpec

# Directions in which a patient coordinate grows (PS3.3 C.7.6.2.1.1).
GROWS = frozenset("LPS")
PLANES_AT_ONCE = 64  # Of the source, on a GPU.
PLANES_AT_ONCE_CPU = 4  # So few stay in a processor's caches until they are resampled.


@dataclass(frozen=True)
class Turn:
    """How a (slice, row, column) array is turned: the order of its axes, then which to flip."""

    order: tuple[int, ...] = (0, 1, 2)
    flips: tuple[int, ...] = ()

    def view(self, array_zyx: NDArray[Any]) -> NDArray[Any]:
        """Return the turned array; what is written to it is written to the array."""
        return np.flip(array_zyx.transpose(self.order), self.flips)


def turn_to(affine: NDArray[np.float64], orientation: str) -> Turn:
    """Say how to turn a volume to an orientation.

    Parameters
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel (column, row, slice) to patient millimetres.
    orientation : str
        The patient directions of column, row and slice index, such as ``"RAS"``.

    Raises
    ------
    ModelError
        Two axes of the volume run along the same patient axis: it is too oblique.
    """
    # Each array axis runs along the patient axis that its affine column is nearest to.
    columns = [affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (2, 1, 0)]
    patient_axis = [int(np.argmax(np.abs(column))) for column in columns]
    if sorted(patient_axis) != [0, 1, 2]:
        raise ModelError("the volume is too oblique to be turned to the model's orientation")
    order, flips = [], []
    for axis, letter in enumerate(reversed(orientation)):
        source = patient_axis.index(AXIS_OF[letter])
        order.append(source)
        if (columns[source][AXIS_OF[letter]] > 0) != (letter in GROWS):
            flips.append(axis)
    return Turn(tuple(order), tuple(flips))


class InputGrid:
    """One volume on the grid of a network.

    Parameters
    ----------
    hu_zyx : ndarray of int16 or float32, shape (slices, rows, columns)
        Hounsfield units on the source grid.
    affine : ndarray of float64, shape (4, 4)
        Voxel (column, row, slice) to patient millimetres.
    spec : InputSpec
        What the network takes.
    device : torch.device
        Where the planes are made.

    Attributes
    ----------
    turn : Turn
        How the source grid was turned.
    turned_shape : tuple of int
        Slices, rows and columns of the turned source grid.
    shape : tuple of int
        Slices, rows and columns of the network's grid.
    """

    def __init__(
        self,
        hu_zyx: NDArray[np.number[Any]],
        affine: NDArray[np.float64],
        spec: InputSpec,
        device: torch.device,
    ) -> None:
        if spec.zscore is not None:
            self._clip_hu = spec.zscore.clip_hu
            self._offset, self._scale = spec.zscore.mean_hu, spec.zscore.std_hu
        else:
            assert spec.hu_window is not None
            self._clip_hu = lower, upper = spec.hu_window
            self._offset, self._scale = lower, upper - lower
        self.turn = turn_to(affine, spec.orientation) if spec.orientation else Turn()
        # torch takes neither read-only arrays nor negative strides: flips are done plane by plane.
        whole = torch.from_numpy(np.require(hu_zyx, requirements=["C", "W"])).to(device)
        self._source = whole.permute(self.turn.order)
        self.turned_shape = tuple(int(n) for n in self._source.shape)
        spacing_mm = [float(np.linalg.norm(affine[:3, 2 - axis])) for axis in self.turn.order]
        self.shape = _shape_on(self.turned_shape, spacing_mm, spec.spacing_mm)
        self._made: tuple[int, torch.Tensor] | None = None

    def planes(self, start: int, stop: int) -> torch.Tensor:
        """Return planes of the network's grid; those of the last call are not made again.

        Returns
        -------
        Tensor of float32, shape (stop - start, rows, columns)
        """
        planes = empty((stop - start, *self.shape[1:]), self._source.device)
        fresh = start
        if self._made is not None:
            made_start, made = self._made
            if made_start <= start < made_start + len(made):
                kept = made[start - made_start :][: stop - start]
                planes[: len(kept)] = kept
                fresh += len(kept)
        if fresh < stop:
            self._make(fresh, stop, planes[fresh - start :])
        self._made = (start, planes)
        return planes

    def _make(self, start: int, stop: int, out: torch.Tensor) -> None:
        lower, upper, weight = planes_between(start, stop, self.turned_shape[0], self.shape[0])
        source = self._resampled_in_plane(int(lower.min()), int(upper.max()) + 1)
        near: dict[int, torch.Tensor] = {}
        for number, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True)):
            while high not in near:
                index, plane = next(source)
                near[index] = plane
            near = {index: plane for index, plane in near.items() if index >= low}
            torch.lerp(near[low], near[high], float(weight[number]), out=out[number])

    def _resampled_in_plane(self, start: int, stop: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield numbered source planes, scaled and with the network's rows and columns."""
        at_once = PLANES_AT_ONCE if self._source.device.type == "cuda" else PLANES_AT_ONCE_CPU
        for first in range(start, stop, at_once):
            planes = self._clipped(first, min(first + at_once, stop))
            if self.shape[1:] != self.turned_shape[1:]:
                planes = torch.nn.functional.interpolate(
                    planes[None], self.shape[1:], mode="bilinear", align_corners=False
                )[0]
            yield from enumerate(planes.sub_(self._offset).div_(self._scale), first)

    def _clipped(self, start: int, stop: int) -> torch.Tensor:
        """Return source planes, turned and clipped; they are scaled when they are resampled."""
        count = self.turned_shape[0]
        if 0 in self.turn.flips:
            start, stop = count - stop, count - start
        planes = self._source[start:stop]
        if self.turn.flips:
            planes = planes.flip(self.turn.flips)
        planes = planes.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        return planes.clamp_(*self._clip_hu)


def _shape_on(
    shape: tuple[int, ...], spacing_mm: list[float], wanted_mm: tuple[float, ...] | None
) -> tuple[int, ...]:
    """Return the shape of a grid of another spacing; in 2D the slices stay as they come."""
    if wanted_mm is None:
        return shape
    kept = len(shape) - len(wanted_mm)
    resampled = zip(shape[kept:], spacing_mm[kept:], wanted_mm, strict=True)
    return shape[:kept] + tuple(max(1, round(n * mm / new)) for n, mm, new in resampled)


def planes_between(
    start: int, stop: int, n_from: int, n_to: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Say where planes of one grid lie between those of another, the outer edges being the same.

    Parameters
    ----------
    start, stop : int
        Planes of the grid of `n_to` planes.
    n_from : int
        Planes of the grid that is interpolated.

    Returns
    -------
    lower, upper : ndarray of int64, shape (stop - start,)
        The planes on both sides; the same one where a plane meets it.
    weight : ndarray of float32, shape (stop - start,)
        The share of the upper one.
    """
    place = (np.arange(start, stop) + 0.5) * (n_from / n_to) - 0.5
    place = place.clip(0.0, n_from - 1.0)
    lower = np.floor(place).astype(np.int64)
    weight = (place - lower).astype(np.float32)
    return lower, np.minimum(lower + (weight > 0), n_from - 1), weight
