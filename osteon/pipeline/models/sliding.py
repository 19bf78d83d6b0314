"""A network over a volume that is larger than its patch: windows that overlap, slab by slab.

Planes of the network's grid enter, finished parts of planes of logits leave; what stands in
memory between is one slab of logits, as deep as the patch. Called by
`osteon.pipeline.models.networkmodel`. Results are those of MONAI's ``sliding_window_inference``, so
that a network gives here what it gave where it was trained.

A network that keeps the processor's cores busy by itself runs in the caller's thread, as does one
on a GPU, which works in its own time: more threads would only take turns with it. Where the first
window leaves cores idle, three threads share the rest, each ahead of the next: one
brings planes to the network's grid and cuts windows, one runs the network, and the caller's adds
up what it said and makes use of what is finished. Then the network waits for the first slab
alone, and the caller for what the last window finishes.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

import torch

from osteon.errors import ModelError
from osteon.pipeline.models.beside import Beside
from osteon.pipeline.models.cores import BusyCores
from osteon.pipeline.models.heap import keep_freed
from osteon.pipeline.models.memory import empty
from osteon.pipeline.models.network import Network
from osteon.pipeline.models.windows import (
    Step,
    Windows,
    steps_2d,
    steps_3d,
    window_weights,
    windows_of,
)

PLANES_AT_ONCE = 8  # Of finished logits: so few stay in a processor's caches until they are labels.
VOXELS_AT_ONCE = 2**17  # More planes, where they are so small that the calls would cost more.
MEMORY_SHARE = 0.8  # Of the GPU's free memory: the rest is for what the first window did not show.
# Windows that are cut before the network takes them. They lie in planes that stand there anyway;
# and so a network that is faster than a slab's planes has some left while these are made.
CUT_AHEAD = 3

ReadPlanes = Callable[[int, int], torch.Tensor]
Finished = tuple[tuple[slice, slice, slice], torch.Tensor]


class Batches:
    """Runs a network on as many windows at once as the device's memory takes.

    The first window runs alone and shows what one costs: on a GPU memory, elsewhere the processor's
    time. A GPU that is out of memory all the same gets half as many, down to one.

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
    room_beside : bool
        Whether other threads find cores idle while the network runs; False before the first window
        and on a GPU.
    """

    def __init__(
        self, network: Network, most: int, on_done: Callable[[int, int], None] | None = None
    ) -> None:
        self._network = network
        self._most = most
        self._on_done = on_done
        self._done = self.expected = 0
        self.size = 0
        self.room_beside = False

    def expect(self, count: int) -> None:
        """Say how many windows there will be."""
        self._done, self.expected = 0, count

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._network.device

    def run(self, windows: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the logits of each window, shape (classes, *patch), in their order.

        Raises
        ------
        torch.OutOfMemoryError
            Not even one window fits.
        """
        coming = iter(windows)
        waiting: list[torch.Tensor] = []
        while True:
            waiting += islice(coming, max(0, max(1, self.size) - len(waiting)))
            if not waiting:
                return
            # Without a name here they are gone before the network needs the memory for the next.
            yield from self._some(waiting)

    def _some(self, waiting: list[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return the logits of the first of the windows that wait, and take these off the list."""
        if self.size == 0:
            logits = self._first(waiting[0])
        else:
            chosen = waiting[: self.size]
            try:
                logits = self._network(chosen[0][None] if len(chosen) == 1 else torch.stack(chosen))
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.size //= 2
                torch.cuda.empty_cache()
                return ()
        del waiting[: len(logits)]
        self._done += len(logits)
        if self._on_done is not None:
            self._on_done(self._done, self.expected)
        return logits.unbind()

    def _first(self, window: torch.Tensor) -> torch.Tensor:
        device = self._network.device
        if device.type != "cuda":
            self.size = 1
            keep_freed()
            busy = BusyCores()
            logits = self._network(window[None])
            self.room_beside = busy.leave_room
            return logits
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
) -> Generator[Finished, None, None]:
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
    place : tuple of slice
        Planes, rows and columns of the grid. Planes of the same rows and columns come in their
        order. A part begins with the last row and column of those before it, where there are any,
        so that what lies between two parts can be interpolated. Where no thread is beside the
        network, as on a GPU, whole planes come.
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
        steps = steps_3d(shape[0], patch, in_plane, overlap)
    else:
        steps = steps_2d(shape[0], patch, in_plane, neighbours)
    batches.expect(sum(len(step.places) for step in steps))
    weights = window_weights((*(1,) * (3 - len(patch)), *patch), blend, batches.device)
    with (
        closing(
            _apart(_cut(read_planes, steps, in_plane), "input grid", batches, CUT_AHEAD)
        ) as windows,
        closing(_apart(_run(steps, windows, batches), "network", batches)) as logits,
    ):
        yield from _finished(steps, logits, weights, in_plane, batches)


def _apart(
    items: Iterator[torch.Tensor], name: str, batches: Batches, ahead: int = 1
) -> Generator[torch.Tensor, None, None]:
    """Yield what an iterator yields: made by a thread once it is known that there is room for one.

    A GPU's memory so is left to one thread: what the first window costs, and what fits, is measured
    while nothing else takes any.
    """
    for item in items:
        if batches.room_beside:
            with closing(Beside(items, name, ahead)) as coming:
                yield item
                del item  # As below.
                yield from coming
            return
        yield item
        del item  # Not kept while the next is made: of many classes one is large.


def _cut(
    read_planes: ReadPlanes, steps: Sequence[Step], in_plane: Sequence[Windows]
) -> Iterator[torch.Tensor]:
    """Yield what the network sees of each window, shape (channels, *patch)."""
    rows, columns = in_plane
    for step in steps:
        planes = read_planes(*step.read)
        pad = [columns.before, columns.after, rows.before, rows.after, *step.padding]
        padded = torch.nn.functional.pad(planes, pad) if any(pad) else planes
        del planes
        for number, place in enumerate(step.places):
            if step.channels:
                yield padded[list(step.channels[number]), place[1], place[2]]
            else:
                yield padded[place][None]


def _run(
    steps: Sequence[Step], windows: Iterator[torch.Tensor], batches: Batches
) -> Iterator[torch.Tensor]:
    """Yield the logits of each window; no batch goes beyond a place of the slab."""
    for step in steps:
        yield from batches.run(islice(windows, len(step.places)))


def _finished(
    steps: Sequence[Step],
    logits: Iterator[torch.Tensor],
    weights: torch.Tensor,
    in_plane: Sequence[Windows],
    batches: Batches,
) -> Iterator[Finished]:
    """Add up the logits of the windows, and yield what no further window reaches.

    That is done window by window while the network runs beside it, so that little is left after
    the last one; else by whole planes, which lie together in memory.
    """
    whole = tuple(slice(w.before, w.size - w.after) for w in in_plane)
    depth = max(place[0].stop for place in steps[0].places)
    slab: _Slab | None = None
    for step in steps:
        for number, place in enumerate(step.places):
            of_window = next(logits)
            if slab is None:  # Not before, so that the network need not wait for it.
                slab = _Slab(weights, (depth, *(windows.size for windows in in_plane)))
            if number == 0:
                slab.count(step.places)
            slab.add(place, of_window)
            del of_window  # As in `_apart`.
            if batches.room_beside and step.parts:
                yield from _part(slab, step, step.parts[number], in_plane)
        assert slab is not None
        if not (batches.room_beside and step.parts):
            yield from _part(slab, step, whole, in_plane)
        if step is not steps[-1]:
            slab.move(step.passed)


def _part(
    slab: "_Slab", step: Step, part: Sequence[slice], in_plane: Sequence[Windows]
) -> Iterator[Finished]:
    """Yield what is finished of the planes of a step, and what was before it of the same planes."""
    before = [windows.before for windows in in_plane]
    wider = [
        slice(max(own.start - 1, lowest), own.stop)
        for own, lowest in zip(part, before, strict=True)
    ]
    rows, columns = (
        slice(w.start - offset, w.stop - offset) for w, offset in zip(wider, before, strict=True)
    )
    offset = step.first - step.finished.start
    area = math.prod(axis.stop - axis.start for axis in part)
    count = max(PLANES_AT_ONCE, VOXELS_AT_ONCE // area)
    for start in range(step.finished.start, step.finished.stop, count):
        planes = slice(start, min(start + count, step.finished.stop))
        if not torch.isfinite(slab.finish((planes, *part)).sum()):
            raise ModelError(
                "the network's logits are not finite (NaN or infinite): if run.precision is "
                "float16 take float32, else look at its weights and at the scaling in input"
            )
        there = slice(planes.start + offset, planes.stop + offset)
        yield (there, rows, columns), slab.finished((planes, *wider))


class _Slab:
    """The weighted sum of logits over the planes that windows still reach, and of the weights."""

    def __init__(self, weights: torch.Tensor, shape: Sequence[int]) -> None:
        self._weights = weights
        self._count = empty(shape, weights.device).zero_()
        self._total: torch.Tensor | None = None
        self._places: Sequence[tuple[slice, ...]] = ()
        self._of_step = empty(shape, weights.device).zero_()

    def count(self, places: Sequence[tuple[slice, ...]]) -> None:
        """Add the weights of the windows of a step, which are at the same places in most."""
        if places != self._places:
            self._places = places
            self._of_step.zero_()
            for place in places:
                self._of_step[place].add_(self._weights)
        self._count.add_(self._of_step)

    def add(self, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        """Add the logits of a window, shape (classes, *patch)."""
        if self._total is None:
            self._total = empty((len(logits), *self._count.shape), logits.device).zero_()
        if len(logits) != len(self._total):
            raise ModelError(f"the network returned {len(self._total)} classes, then {len(logits)}")
        there = self._total[:, *place]
        there.addcmul_(logits.view(there.shape), self._weights)

    def finish(self, place: tuple[slice, ...]) -> torch.Tensor:
        """Make sums to means, once each, and return them; they stay until the slab moves."""
        assert self._total is not None
        return self._total[:, *place].div_(self._count[place])

    def finished(self, place: tuple[slice, ...]) -> torch.Tensor:
        """Return means that `finish` made."""
        assert self._total is not None
        return self._total[:, *place]

    def move(self, count: int) -> None:
        """Drop the first planes and make room for as many."""
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
