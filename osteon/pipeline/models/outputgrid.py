"""From logits on the network's grid to labels on the source grid, as they come.

Finished parts of planes of logits enter; labels are written into one array as soon as the logits on
all sides are there. Logits are interpolated and compared then, not labels: borders stay
where the network saw them. Called by `osteon.pipeline.models.networkmodel`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from osteon.errors import ModelError
from osteon.pipeline.models.bilinear import Plane
from osteon.pipeline.models.inputgrid import planes_between

CLASSES_MAX = 256  # Labels are bytes.
CHUNK_BYTES = 2**28  # Of interpolated logits at once on a GPU; a CPU's caches like less.
CHUNK_BYTES_CPU = 2**22


class OutputGrid:
    """Writes labels on the source grid.

    Parameters
    ----------
    labels : ndarray of uint8, shape (slices, rows, columns)
        What is written to: the source grid, turned as the network's grid is.
    shape : tuple of int
        Slices, rows and columns of the network's grid.
    """

    def __init__(self, labels: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
        self._labels = labels
        lower, upper, weight = planes_between(0, len(labels), shape[0], len(labels))
        self._lower, self._upper, self._weight = lower, upper, weight
        self._resampled = shape[0] != len(labels)
        self._in_plane = shape[1:]
        self._plane = Plane(shape[1:], labels.shape[1:])
        self._parts: dict[tuple[int, int], _Part] = {}

    def add(self, place: tuple[slice, slice, slice], logits: torch.Tensor) -> None:
        """Take logits and write every label that they decide.

        Parameters
        ----------
        place : tuple of slice
            Planes, rows and columns of the network's grid, as `sliding.slide` says: planes of the
            same rows and columns go on where the last ones ended. On a GPU, whole planes.
        logits : Tensor of float32, shape (classes, planes, rows, columns)
            With one class, a logit above 0 is class 1.

        Raises
        ------
        ModelError
            There are more classes than a label has values.
        """
        if len(logits) > CLASSES_MAX:
            raise ModelError(f"the network returns {len(logits)} classes; labels hold 256")
        if not self._parts:
            # The kernel finds the memory of all labels now, while the network goes on, and not
            # after its last window.
            self._labels[...] = 0
        if len(logits) == 2:
            logits = (
                logits[1:] - logits[:1]
            )  # What is interpolated linearly may be subtracted first.
        planes, rows, columns = place
        part = self._parts.setdefault((rows.stop, columns.stop), _Part())
        decided = int(np.searchsorted(self._upper, planes.stop))
        there = self._plane.inside(rows, columns)
        limit = CHUNK_BYTES if logits.device.type == "cuda" else CHUNK_BYTES_CPU
        area = math.prod(axis.stop - axis.start for axis in there)
        chunk = max(1, limit // max(1, 4 * len(logits) * area))
        for first in range(part.written, decided, chunk):
            last = min(first + chunk, decided)
            between = self._between(logits, planes.start, part, slice(first, last))
            self._labels[first:last, *there] = (
                best_class(self._resized(between, rows, columns)).cpu().numpy()
            )
        part.written = decided
        self._keep(part, logits, planes)

    def _resized(self, logits: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        """Return logits with the rows and columns of the source grid."""
        if logits.device.type != "cuda":
            return self._plane.between(logits, rows, columns)
        shape = self._labels.shape[1:]
        if shape == self._in_plane:
            return logits
        return torch.nn.functional.interpolate(logits, shape, mode="bilinear", align_corners=False)

    def _between(
        self, logits: torch.Tensor, start: int, part: "_Part", planes: slice
    ) -> torch.Tensor:
        """Return logits of some planes of the source grid."""
        if not self._resampled:
            return logits[:, planes.start - start : planes.stop - start]

        def plane(number: int) -> torch.Tensor:
            """Return one plane of the network's grid: of these logits, or of what was kept."""
            if number >= start:
                return logits[:, number - start]
            assert part.kept is not None
            kept_start, kept = part.kept
            return kept[:, number - kept_start]

        shape = (len(logits), planes.stop - planes.start, *logits.shape[2:])
        between = torch.empty(shape, device=logits.device)
        for number, index in enumerate(range(planes.start, planes.stop)):
            lower, upper = plane(int(self._lower[index])), plane(int(self._upper[index]))
            torch.lerp(lower, upper, float(self._weight[index]), out=between[:, number])
        return between

    def _keep(self, part: "_Part", logits: torch.Tensor, planes: slice) -> None:
        """Keep the planes that labels yet to be written lie between."""
        left = part.written < len(self._labels)
        needed = int(self._lower[part.written]) if left else planes.stop
        if needed >= planes.stop:
            part.kept = None
        elif needed >= planes.start:
            part.kept = (needed, logits[:, needed - planes.start :].clone())


@dataclass
class _Part:
    """Some rows and columns: how many planes of labels are written, and what is needed of logits.

    Attributes
    ----------
    kept : tuple of int and Tensor, optional
        The first plane, and logits of it and those after it.
    """

    written: int = 0
    kept: tuple[int, torch.Tensor] | None = None


def best_class(logits: torch.Tensor) -> torch.Tensor:
    """Return the class of the highest logit, the first of equal ones, as uint8.

    Parameters
    ----------
    logits : Tensor, shape (classes, ...)
        With one class, a logit above 0 is class 1.
    """
    if len(logits) == 1:
        return (logits[0] > 0).view(torch.uint8)
    if logits.device.type == "cuda":
        return logits.argmax(0).to(torch.uint8)
    # Faster on a CPU than argmax over the first axis, which walks through memory in large steps.
    best, label = logits[0].clone(), torch.zeros(logits.shape[1:], dtype=torch.uint8)
    for number in range(1, len(logits)):
        label.masked_fill_(logits[number] > best, number)
        torch.maximum(best, logits[number], out=best)
    return label
