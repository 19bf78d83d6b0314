"""Where the windows of a network lie in a volume, and when which planes are finished.

The shape of the network's grid and of its patch enter, the places of a slab leave that goes through
the volume plane by plane. Called by `osteon.pipeline.models.sliding`. Windows, weights and padding
are those of MONAI's ``sliding_window_inference``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

SIGMA_SCALE = 0.125  # The Gaussian's standard deviation, as a fraction of the patch.
WEIGHT_MIN = 1e-3  # No voxel counts for nothing: the outermost belong to one window alone.
PLANES_AT_ONCE = 8  # Of a 2D network: slices that are accumulated together.


Part = tuple[slice, slice]


@dataclass(frozen=True)
class Windows:
    """Where the windows of one axis begin, and by how much the axis is padded to hold one."""

    size: int
    starts: tuple[int, ...]
    before: int
    after: int

    @property
    def parts(self) -> list[slice]:
        """For each window what of the volume's axis, in the padded one, no later one reaches."""
        ends = (*self.starts[1:], self.size - self.after)
        return [slice(max(s, self.before), e) for s, e in zip(self.starts, ends, strict=True)]


def windows_of(length: int, patch: int, overlap: float) -> Windows:
    """Place the windows of one axis.

    Parameters
    ----------
    length : int
        Voxels of the volume along the axis.
    patch : int
        Voxels of the network's patch.
    overlap : float
        Share of a window that the next one covers again.
    """
    missing = max(0, patch - length)
    before = missing // 2
    padded = length + missing
    step = padded if padded == patch else max(1, int(patch * (1.0 - overlap)))
    starts = [0]
    while starts[-1] + patch < padded:
        starts.append(min(starts[-1] + step, padded - patch))
    return Windows(padded, tuple(starts), before, missing - before)


@dataclass(frozen=True)
class Step:
    """A place of the slab along the planes, and the windows that are there.

    Attributes
    ----------
    read : tuple of int
        First plane of the volume that the windows see, and the one after the last.
    padding : tuple of int
        Planes of zeros before and behind them.
    places : tuple of tuple of slice
        Planes, rows and columns of each window in the slab.
    parts : tuple of tuple of slice
        For each window, rows and columns of the slab that none after it reaches. Empty of a 2D
        network, whose windows see single planes of the slab.
    channels : tuple of tuple of int
        Of a 2D network: the planes that each window has as its channels, counted from `read`.
    first : int
        The first plane of the volume that is finished then.
    finished : slice
        Where these planes are in the slab.
    passed : int
        By how many planes the slab moves on.
    """

    read: tuple[int, int]
    padding: tuple[int, int]
    places: tuple[tuple[slice, ...], ...]
    parts: tuple[Part, ...]
    channels: tuple[tuple[int, ...], ...]
    first: int
    finished: slice
    passed: int


def steps_3d(
    planes: int,
    patch: tuple[int, ...],
    in_plane: Sequence[Windows],
    overlap: float,
) -> list[Step]:
    """Place the slab of a 3D network, as deep as its patch.

    Parameters
    ----------
    planes : int
        Of the network's grid.
    patch : tuple of int
        Slices, rows, columns.
    in_plane : sequence of Windows
        Along rows and columns.
    overlap : float
        As `windows_of`.
    """
    along, depth = windows_of(planes, patch[0], overlap), patch[0]
    places = tuple((slice(0, depth), *area) for area in _areas(patch[1:], in_plane))
    rows, columns = in_plane
    parts = tuple((y, x) for y in rows.parts for x in columns.parts)
    steps = []
    for start, following in zip(along.starts, (*along.starts[1:], along.size), strict=True):
        # Planes of the padded volume that the volume has.
        first, stop = max(0, start - along.before), min(planes, start + depth - along.before)
        above = max(0, along.before - start)
        padding = (above, depth - above - (stop - first))
        past = max(0, following - along.before - planes)
        finished = slice(above, following - start - past)
        steps.append(
            Step((first, stop), padding, places, parts, (), first, finished, following - start)
        )
    return steps


def steps_2d(
    planes: int, patch: tuple[int, ...], in_plane: Sequence[Windows], neighbours: int
) -> list[Step]:
    """Place the slab of a network that is run slice by slice: some slices at once.

    Parameters
    ----------
    planes : int
        Of the network's grid.
    patch : tuple of int
        Rows, columns.
    in_plane : sequence of Windows
        Along rows and columns.
    neighbours : int
        Slices on each side that are further channels; beyond the ends the last one is repeated.
    """
    areas, around = _areas(patch, in_plane), range(-neighbours, neighbours + 1)
    steps = []
    for start in range(0, planes, PLANES_AT_ONCE):
        stop = min(planes, start + PLANES_AT_ONCE)
        first, last = max(0, start - neighbours), min(planes, stop + neighbours)
        places, channels = [], []
        for plane in range(start, stop):
            seen = tuple(min(max(plane + offset, 0), planes - 1) - first for offset in around)
            for area in areas:
                places.append((slice(plane - start, plane - start + 1), *area))
                channels.append(seen)
        count = stop - start
        steps.append(
            Step(
                (first, last),
                (0, 0),
                tuple(places),
                (),
                tuple(channels),
                start,
                slice(0, count),
                count,
            )
        )
    return steps


def _areas(patch: Sequence[int], in_plane: Sequence[Windows]) -> list[tuple[slice, slice]]:
    """Return rows and columns of the windows of a plane."""
    rows, columns = in_plane
    return [
        (slice(y, y + patch[0]), slice(x, x + patch[1]))
        for y in rows.starts
        for x in columns.starts
    ]


def window_weights(patch: Sequence[int], blend: str, device: torch.device) -> torch.Tensor:
    """Return how much each voxel of a window counts where windows overlap.

    Parameters
    ----------
    blend : {"gaussian", "constant"}

    Returns
    -------
    Tensor of float32, shape `patch`
    """
    weights = torch.ones((), device=device)
    for length in patch:
        place = torch.arange(length, dtype=torch.float32, device=device) - (length - 1) / 2.0
        bell = torch.exp(place**2 / (-2.0 * (SIGMA_SCALE * length) ** 2))
        if blend == "constant":
            bell = torch.ones_like(bell)
        weights = weights[..., None] * bell
    return weights.clamp(min=max(float(weights.min()), WEIGHT_MIN))
