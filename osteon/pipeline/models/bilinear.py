"""Bilinear interpolation of a part of a plane: what that of the whole plane would give there.

The rows and columns of two grids with the same outer edges enter; a part of one on the other
leaves. Called by `osteon.pipeline.models.outputgrid` on a processor, where a part can be finished
before the rest of its plane is known. Values are those of torch's ``interpolate`` but for the last
bit, and with fused multiplication and addition the same, where a plane is not very small.
"""

import numpy as np
import torch


class Axis:
    """One axis of the two grids.

    Parameters
    ----------
    n_from, n_to : int
        Voxels along the axis of the grid that is interpolated, and of the other.
    """

    def __init__(self, n_from: int, n_to: int) -> None:
        self._same = n_from == n_to
        # torch computes places in single precision, and rounds after the subtraction only.
        scale = float(np.float32(n_from) / np.float32(n_to))
        place = (scale * (np.arange(n_to) + 0.5) - 0.5).astype(np.float32).clip(min=0.0)
        self._lower = np.minimum(place.astype(np.int64), n_from - 1)
        self._upper = self._lower if self._same else np.minimum(self._lower + 1, n_from - 1)
        weight = np.clip(place - self._lower.astype(np.float32), np.float32(0), np.float32(1))
        self._weight = torch.from_numpy(weight)[:, None]

    def inside(self, part: slice) -> slice:
        """Return the voxels of the other grid that lie between those of a part of the first."""
        start = np.searchsorted(self._lower, part.start)
        return slice(int(start), int(np.searchsorted(self._upper, part.stop)))

    def between(self, values: torch.Tensor, part: slice) -> torch.Tensor:
        """Interpolate along the second axis.

        Parameters
        ----------
        values : Tensor of float32, shape (planes, part, n)
            The part of the first grid.

        Returns
        -------
        Tensor of float32, shape (planes, inside, n)
            The voxels that `inside` names.
        """
        inside = self.inside(part)
        if self._same:
            return values[:, inside.start - part.start : inside.stop - part.start]
        lower, upper = (
            values.index_select(1, torch.from_numpy(index[inside] - part.start))
            for index in (self._lower, self._upper)
        )
        weight = self._weight[inside]
        return upper.mul_(weight).addcmul_(lower, 1.0 - weight)


class Plane:
    """Rows and columns of the two grids.

    Parameters
    ----------
    shape_from, shape_to : tuple of int
        Rows and columns of the grid that is interpolated, and of the other.
    """

    def __init__(self, shape_from: tuple[int, ...], shape_to: tuple[int, ...]) -> None:
        self._rows, self._columns = (
            Axis(*sizes) for sizes in zip(shape_from, shape_to, strict=True)
        )

    def inside(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Return rows and columns of the other grid that a part of the first decides.

        Parts that overlap by a row or a column decide all that lies between them.
        """
        return self._rows.inside(rows), self._columns.inside(columns)

    def between(self, values: torch.Tensor, rows: slice, columns: slice) -> torch.Tensor:
        """Interpolate a part.

        Parameters
        ----------
        values : Tensor of float32, shape (..., rows, columns)
            The part of the first grid.

        Returns
        -------
        Tensor of float32, shape (..., rows, columns)
            What `inside` names, of the other grid.
        """
        planes = values.reshape(-1, *values.shape[-2:])
        # Whole rows of memory are taken for each voxel of the second axis: columns are turned.
        turned = self._columns.between(planes.transpose(1, 2).contiguous(), columns)
        found = self._rows.between(turned.transpose(1, 2).contiguous(), rows)
        return found.view(*values.shape[:-2], *found.shape[1:])
