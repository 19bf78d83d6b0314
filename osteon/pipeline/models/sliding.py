"""A network over a volume that is larger than its patch: windows that overlap, slab by slab.

Planes of the network's grid enter, finished planes of logits leave in their order; what stands in
memory between is one slab of logits, as deep as the patch. Called by
`osteon.pipeline.models.networkmodel`. Windows, weights and padding are those of MONAI's
``sliding_window_inference``, so that a network gives here what it gave where it was trained.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from osteon.errors import ModelError
from osteon.pipeline.models.network import Network

SIGMA_SCALE = 0.125  # The Gaussian's standard deviation, as a fraction of the patch.
WEIGHT_MIN = 1e-3  # No voxel counts for nothing: the outermost belong to one window alone.
PLANES_AT_ONCE = 8  # Of a 2D network: slices that are accumulated together.
MEMORY_SHARE = 0.8  # Of the GPU's free memory: the rest is for what the first window did not show.

ReadPlanes = Callable[[int, int], torch.Tensor]
Finished = tuple[int, torch.Tensor]


@dataclass(frozen=True)
class Windows:
    """Where the windows of one axis begin, and by how much the axis is padded to hold one."""

    size: int
    starts: tuple[int, ...]
    before: int
    after: int


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


class Batches:
    """Runs a network on as many windows at once as the device's memory takes.

    The first window runs alone and shows what one costs. A GPU that is out of memory all the same
    gets half as many, down to one.

    Parameters
    ----------
    most : int
        Windows at once on a GPU. A CPU takes one: more give its cores nothing to do.
    on_done : callable, optional
        Called with (windows done, windows in all) after each batch.

    Attributes
    ----------
    size : int
        Windows at once; 0 before the first.
    expected : int
        Windows in all.
    """

    def __init__(
        self, network: Network, most: int, on_done: Callable[[int, int], None] | None = None
    ) -> None:
        self._network = network
        self._most = most
        self._on_done = on_done
        self._done = self.expected = 0
        self.size = 0

    def expect(self, count: int) -> None:
        """Say how many windows there will be."""
        self._done, self.expected = 0, count

    def run(self, windows: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the logits of each window, shape (classes, *patch), in their order.

        Raises
        ------
        torch.OutOfMemoryError
            Not even one window fits.
        """
        done = 0
        while done < len(windows):
            if self.size == 0:
                logits = self._first(windows[0])
            else:
                try:
                    chosen = windows[done : done + self.size]
                    batch = chosen[0][None] if len(chosen) == 1 else torch.stack(list(chosen))
                    logits = self._network(batch)
                except torch.OutOfMemoryError:
                    if self.size == 1:
                        raise
                    self.size //= 2
                    torch.cuda.empty_cache()
                    continue
            yield from logits
            done += len(logits)
            self._done += len(logits)
            if self._on_done is not None:
                self._on_done(self._done, self.expected)

    def _first(self, window: torch.Tensor) -> torch.Tensor:
        device = self._network.device
        if device.type != "cuda":
            self.size = 1
            return self._network(window[None])
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        logits = self._network(window[None])
        cost = max(1, torch.cuda.max_memory_allocated(device) - before)
        # What the process holds and does not use is free for it.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + idle
        self.size = max(1, min(self._most, int(MEMORY_SHARE * free) // cost))
        return logits


def slide(
    read_planes: ReadPlanes,
    shape: tuple[int, ...],
    patch: tuple[int, ...],
    batches: Batches,
    *,
    overlap: float = 0.5,
    blend: str = "gaussian",
    neighbours: int = 0,
) -> Iterator[Finished]:
    """Run a network over a volume.

    Parameters
    ----------
    read_planes : callable
        Returns planes ``start`` to ``stop`` of the network's grid, shape (planes, rows, columns).
    shape : tuple of int
        Slices, rows and columns of that grid.
    patch : tuple of int
        Three numbers for a 3D network; two for one that is run slice by slice.
    neighbours : int
        Of a 2.5D network: slices on each side that are further channels; beyond the ends of the
        volume the last slice is repeated.

    Yields
    ------
    start : int
        The first plane.
    logits : Tensor of float32, shape (classes, planes, rows, columns)
        Valid until the next is asked for: the memory is used again.

    Raises
    ------
    ModelError
        Logits are not finite, or their classes change.
    torch.OutOfMemoryError
        A slab of logits or one window does not fit into the device's memory.
    """
    in_plane = [windows_of(n, p, overlap) for n, p in zip(shape[1:], patch[-2:], strict=True)]
    if len(patch) == 3:
        slabs = _slide_3d(read_planes, shape, patch, batches, in_plane, overlap, blend)
    else:
        slabs = _slide_2d(read_planes, shape, patch, batches, in_plane, blend, neighbours)
    rows, columns = (slice(w.before, w.size - w.after) for w in in_plane)
    for start, logits in slabs:
        if not torch.isfinite(logits.sum()):
            raise ModelError(
                "the network's logits are not finite: run.precision may have to be float32"
            )
        yield start, logits[:, :, rows, columns]


def _slide_3d(
    read_planes: ReadPlanes,
    shape: tuple[int, ...],
    patch: tuple[int, ...],
    batches: Batches,
    in_plane: Sequence[Windows],
    overlap: float,
    blend: str,
) -> Iterator[Finished]:
    along = windows_of(shape[0], patch[0], overlap)
    batches.expect(math.prod(len(axis.starts) for axis in (along, *in_plane)))
    depth = patch[0]
    slab: _Slab | None = None
    for number, start in enumerate(along.starts):
        # Planes of the padded volume that the volume has.
        first = max(0, start - along.before)
        planes = read_planes(first, min(shape[0], start + depth - along.before))
        above = max(0, along.before - start)
        padded = _padded(planes, in_plane, (above, depth - above - len(planes)))
        if slab is None:
            slab = _Slab(window_weights(patch, blend, padded.device), padded.shape)
        places = [
            (slice(0, depth), slice(y, y + patch[1]), slice(x, x + patch[2]))
            for y in in_plane[0].starts
            for x in in_plane[1].starts
        ]
        windows = [padded[place][None] for place in places]
        for place, logits in zip(places, batches.run(windows), strict=True):
            slab.add(place, logits)
        is_last = number + 1 == len(along.starts)
        count = depth if is_last else along.starts[number + 1] - start
        finished = slab.take(count)
        past = start + count - along.before - shape[0]
        yield first, finished[:, above : count - max(0, past)]


def _slide_2d(
    read_planes: ReadPlanes,
    shape: tuple[int, ...],
    patch: tuple[int, ...],
    batches: Batches,
    in_plane: Sequence[Windows],
    blend: str,
    neighbours: int,
) -> Iterator[Finished]:
    batches.expect(shape[0] * math.prod(len(axis.starts) for axis in in_plane))
    slab: _Slab | None = None
    for start in range(0, shape[0], PLANES_AT_ONCE):
        stop = min(shape[0], start + PLANES_AT_ONCE)
        first, last = max(0, start - neighbours), min(shape[0], stop + neighbours)
        padded = _padded(read_planes(first, last), in_plane, (0, 0))
        if slab is None:
            size = (min(PLANES_AT_ONCE, shape[0]), *padded.shape[1:])
            slab = _Slab(window_weights((1, *patch), blend, padded.device), size)
        places, windows = [], []
        for plane in range(start, stop):
            channels = [
                min(max(plane + offset, 0), shape[0] - 1) - first
                for offset in range(-neighbours, neighbours + 1)
            ]
            chosen = padded[channels] if neighbours else padded[plane - first, None]
            for y in in_plane[0].starts:
                for x in in_plane[1].starts:
                    area = (slice(y, y + patch[0]), slice(x, x + patch[1]))
                    places.append((slice(plane - start, plane - start + 1), *area))
                    windows.append(chosen[:, *area])
        for place, logits in zip(places, batches.run(windows), strict=True):
            slab.add(place, logits[:, None])
        yield start, slab.take(stop - start)


class _Slab:
    """The weighted sum of logits over the planes that windows still reach, and of the weights."""

    def __init__(self, weights: torch.Tensor, shape: Sequence[int]) -> None:
        self._weights = weights
        self._count = torch.zeros(tuple(shape), device=weights.device)
        self._total: torch.Tensor | None = None
        self._taken = 0

    def add(self, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        if self._total is None:
            shape = (len(logits), *self._count.shape)
            self._total = torch.zeros(shape, device=logits.device)
        self._advance()
        if len(logits) != len(self._total):
            raise ModelError(f"the network returned {len(self._total)} classes, then {len(logits)}")
        self._total[:, *place].addcmul_(logits, self._weights)
        self._count[place] += self._weights

    def take(self, count: int) -> torch.Tensor:
        """Return the mean logits of the first planes; they leave the slab when it is added to."""
        assert self._total is not None
        self._taken = count
        return self._total[:, :count].div_(self._count[:count])

    def _advance(self) -> None:
        count, self._taken = self._taken, 0
        if count == 0:
            return
        assert self._total is not None
        depth = len(self._count)
        # In steps of what is free, so that no plane is written over before it is copied.
        for start in range(0, depth - count, count):
            length = min(count, depth - count - start)
            kept = slice(start + count, start + count + length)
            self._total[:, start : start + length] = self._total[:, kept]
            self._count[start : start + length] = self._count[kept]
        self._total[:, depth - count :] = 0.0
        self._count[depth - count :] = 0.0


def _padded(
    planes: torch.Tensor, in_plane: Sequence[Windows], along: tuple[int, int]
) -> torch.Tensor:
    rows, columns = in_plane
    pad = [columns.before, columns.after, rows.before, rows.after, *along]
    return torch.nn.functional.pad(planes, pad) if any(pad) else planes
