"""From logits on the network's grid to labels on the source grid, as they come.

Finished planes of logits enter in their order; labels are written into one array as soon as the
planes on both sides are there. Logits are interpolated and compared then, not labels: borders stay
where the network saw them. Called by `osteon.pipeline.models.networkmodel`.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from osteon.errors import ModelError
from osteon.pipeline.models.inputgrid import planes_between

CLASSES_MAX = 256  # Labels are bytes.
CHUNK_BYTES = 2**28  # Of interpolated logits at once on a GPU; a CPU's caches like less.
CHUNK_BYTES_CPU = 2**24


class OutputGrid:
    """Writes labels on the source grid.

    Parameters
    ----------
    labels : ndarray of uint8, shape (slices, rows, columns)
        What is written to: the source grid, turned as the network's grid is.
    planes : int
        Planes of the network's grid.
    """

    def __init__(self, labels: NDArray[np.uint8], planes: int) -> None:
        self._labels = labels
        lower, upper, weight = planes_between(0, len(labels), planes, len(labels))
        self._lower, self._upper, self._weight = lower, upper, weight
        self._resampled = planes != len(labels)
        self._written = 0
        self._kept: tuple[int, torch.Tensor] | None = None

    def add(self, start: int, logits: torch.Tensor) -> None:
        """Take planes of logits and write every label that they decide.

        Parameters
        ----------
        start : int
            The first plane; each call goes on where the last one ended.
        logits : Tensor of float32, shape (classes, planes, rows, columns)
            With one class, a logit above 0 is class 1.

        Raises
        ------
        ModelError
            There are more classes than a label has values.
        """
        if len(logits) > CLASSES_MAX:
            raise ModelError(f"the network returns {len(logits)} classes; labels hold 256")
        if len(logits) == 2:
            logits = (
                logits[1:] - logits[:1]
            )  # What is interpolated linearly may be subtracted first.
        end = start + logits.shape[1]
        decided = int(np.searchsorted(self._upper, end))
        rows, columns = self._labels.shape[1:]
        limit = CHUNK_BYTES if logits.device.type == "cuda" else CHUNK_BYTES_CPU
        chunk = max(1, limit // (4 * len(logits) * rows * columns))
        for first in range(self._written, decided, chunk):
            last = min(first + chunk, decided)
            planes = self._between(logits, start, first, last)
            if tuple(planes.shape[2:]) != (rows, columns):
                planes = torch.nn.functional.interpolate(
                    planes, (rows, columns), mode="bilinear", align_corners=False
                )
            self._labels[first:last] = best_class(planes).cpu().numpy()
        if self._written == 0:
            # The kernel finds the memory of all other labels now, while the network goes on, and
            # not after its last window.
            self._labels[decided:] = 0
        self._written = decided
        self._keep(start, logits, end)

    def _between(self, logits: torch.Tensor, start: int, first: int, last: int) -> torch.Tensor:
        """Return logits of some planes of the source grid."""
        if not self._resampled:
            return logits[:, first - start : last - start]

        def plane(number: int) -> torch.Tensor:
            """Return one plane of the network's grid: of these logits, or of what was kept."""
            if number >= start:
                return logits[:, number - start]
            assert self._kept is not None
            kept_start, kept = self._kept
            return kept[:, number - kept_start]

        shape = (len(logits), last - first, *logits.shape[2:])
        between = torch.empty(shape, device=logits.device)
        for index in range(first, last):
            lower, upper = plane(int(self._lower[index])), plane(int(self._upper[index]))
            weight = float(self._weight[index])
            torch.lerp(lower, upper, weight, out=between[:, index - first])
        return between

    def _keep(self, start: int, logits: torch.Tensor, end: int) -> None:
        """Keep the planes that labels yet to be written lie between."""
        needed = int(self._lower[self._written]) if self._written < len(self._labels) else end
        if needed >= end:
            self._kept = None
        elif needed >= start:
            self._kept = (needed, logits[:, needed - start :].clone())


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
