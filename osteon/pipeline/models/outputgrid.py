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
        if self._kept is not None:
            kept_start, kept = self._kept
            start, logits = kept_start, torch.cat([kept, logits], 1)
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
        self._written = decided
        self._keep(start, logits, end)

    def _between(self, logits: torch.Tensor, start: int, first: int, last: int) -> torch.Tensor:
        """Return logits of some planes of the source grid."""
        if not self._resampled:
            return logits[:, first - start : last - start]
        lower = torch.from_numpy(self._lower[first:last] - start).to(logits.device)
        upper = torch.from_numpy(self._upper[first:last] - start).to(logits.device)
        weight = torch.from_numpy(self._weight[first:last]).to(logits.device)[:, None, None]
        return torch.lerp(logits[:, lower], logits[:, upper], weight)

    def _keep(self, start: int, logits: torch.Tensor, end: int) -> None:
        """Keep the planes that labels yet to be written lie between."""
        self._kept = None
        if self._written < len(self._labels):
            needed = int(self._lower[self._written])
            if needed < end:
                self._kept = (needed, logits[:, needed - start :].clone())


def best_class(logits: torch.Tensor) -> torch.Tensor:
    """Return the class of the highest logit, the first of equal ones, as uint8.

    Parameters
    ----------
    logits : Tensor, shape (classes, ...)
        With one class, a logit above 0 is class 1.
    """
    if len(logits) == 1:
        return (logits[0] > 0).to(torch.uint8)
    if logits.device.type == "cuda":
        return logits.argmax(0).to(torch.uint8)
    # Faster on a CPU than argmax over the first axis, which walks through memory in large steps.
    best, label = logits[0].clone(), torch.zeros(logits.shape[1:], dtype=torch.uint8)
    for number in range(1, len(logits)):
        label.masked_fill_(logits[number] > best, number)
        torch.maximum(best, logits[number], out=best)
    return label
