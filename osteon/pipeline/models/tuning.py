"""How a network runs fastest on this machine and still gives the same labels.

A network's own patches and a loader enter; what each precision and memory format costs leaves, how
far its labels differ from those of float32, and which one is best. Called by ``osteon models
verify --tune``; `osteon.pipeline.models.runsection` writes the answer down.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, product

import torch

from osteon.errors import StageError, WorkerLostError
from osteon.pipeline.models.modelspec import Precision, RunSpec
from osteon.pipeline.models.network import Network

DIFFER_MAX = 0.001  # Of the voxels that either run calls anything but background.
FASTER_MIN = 1.1  # What is gained by less is noise, and a change of the model's digest costs more.
PATCHES_MAX = 3
FIRST_SHARE = 4  # Of the time, as its part, for the first way, which all others are compared to.
# After a first one that is not counted; short ones are many, since what is beside them counts more.
RUNS_MIN, RUNS_MAX, RUNS_S = 5, 200, 0.5
# A first run that takes so many times as long decides by itself, but for one that was short.
SLOWER_MAX, FIRST_RUN_S = 4.0, 2.0

Load = Callable[[RunSpec], Network]
Way = tuple[Precision, bool]


class Listening:
    """A network that keeps the patches which show most, and answers as the one within.

    Attributes
    ----------
    patches : list of Tensor, shape (channels, *patch)
        Those whose grey values vary most, on the CPU.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._kept: list[tuple[float, torch.Tensor]] = []

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self._network.device

    @property
    def patches(self) -> list[torch.Tensor]:
        """The patches, those that vary most first."""
        return [patch for _, patch in self._kept]

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the logits of some patches, as `Network` says."""
        for patch in patches:
            kept = (float(patch.std()), patch)
            if len(self._kept) < PATCHES_MAX or kept[0] > self._kept[-1][0]:
                self._kept.append((kept[0], patch.detach().cpu().clone()))
                self._kept.sort(key=lambda one: -one[0])
                del self._kept[PATCHES_MAX:]
        return self._network(patches)

    def to(self, device: torch.device) -> "Listening":
        """Return the same on another device, with what it has kept."""
        moved = Listening(self._network.to(device))
        moved._kept = self._kept
        return moved


@dataclass(frozen=True)
class Measured:
    """One way to run a network, and what came of it.

    Attributes
    ----------
    patch_ms : float, optional
        Median time of one patch; None where it was not measured.
    differ : float, optional
        Voxels whose label is another than in float32, as a fraction of those that either calls
        anything but background.
    why_not : str
        What speaks against it; "" where nothing does.
    """

    precision: Precision
    channels_last: bool
    patch_ms: float | None = None
    differ: float | None = None
    why_not: str = ""

    @property
    def way(self) -> Way:
        """Precision, and whether channels come last."""
        return self.precision, self.channels_last


@dataclass(frozen=True)
class Tuned:
    """What was measured, and the best of it.

    Attributes
    ----------
    now : Measured
        What ``model.toml`` says.
    best : Measured
        The fastest that gives the same labels; `now` where the gain would be too small.
    batch : int
        Patches at once.
    """

    rows: tuple[Measured, ...]
    now: Measured
    best: Measured
    batch: int

    @property
    def gain(self) -> float | None:
        """How many times as fast the best one is as what is in use; None where nobody knows."""
        if self.now.patch_ms is None or self.best.patch_ms is None:
            return None
        return self.now.patch_ms / self.best.patch_ms


def precisions_of(device: torch.device) -> tuple[Precision, ...]:
    """Return the precisions in which a device can compute."""
    if device.type != "cuda":
        return ("float32", "bfloat16")
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return ("float32", "float16", "bfloat16") if has_bfloat16 else ("float32", "float16")


def tune(
    load: Load,
    run: RunSpec,
    patches: Sequence[torch.Tensor],
    *,
    device: torch.device,
    batch: int,
    limit_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuned:
    """Measure each precision with each memory format.

    Parameters
    ----------
    load : callable
        Returns the network, run as it is told.
    run : RunSpec
        What ``model.toml`` says now.
    patches : sequence of Tensor, shape (channels, *patch)
        What the network is measured on; `Listening` kept them.
    device : torch.device
        Where the network is.
    batch : int
        How many patches it is given at once.
    limit_s : float
        No further way is begun after so many seconds; float32 is always measured.

    Raises
    ------
    StageError, ModelError, WorkerLostError
        The network cannot be loaded, or does not even run in float32.
    """
    end = clock() + limit_s
    ways = list(product(precisions_of(device), (False, True)))
    trial, first = _begun(load, _run_by(ways[0], run), patches, device, batch, clock, end)
    rows = [first]
    for number, way in enumerate(ways[1:], 1):
        left_s = end - clock()
        if left_s <= 0:
            rows.append(Measured(*way, why_not="no time was left"))
            continue
        rows.append(trial.of(load, _run_by(way, run), clock() + left_s / (len(ways) - number)))
    return _decided(rows, (run.precision, run.channels_last), trial.batch)


def _run_by(way: Way, run: RunSpec) -> RunSpec:
    return run.model_copy(update={"precision": way[0], "channels_last": way[1]})


def _begun(
    load: Load,
    run: RunSpec,
    patches: Sequence[torch.Tensor],
    device: torch.device,
    batch: int,
    clock: Callable[[], float],
    end: float,
) -> "tuple[_Trial, Measured]":
    """Measure the first way, with fewer patches at once where memory does not suffice."""
    while True:
        trial = _Trial(patches, device, batch, clock)
        try:
            return trial, trial.of(load, run, clock() + (end - clock()) / FIRST_SHARE)
        except torch.OutOfMemoryError as error:
            if batch == 1:
                raise WorkerLostError("out of GPU memory with one patch: free some") from error
            batch //= 2


class _Trial:
    """The same patches for one way after the other; the first one is what others are compared to.

    Parameters
    ----------
    patches, device, batch, clock
        As of `tune`.
    """

    def __init__(
        self,
        patches: Sequence[torch.Tensor],
        device: torch.device,
        batch: int,
        clock: Callable[[], float],
    ) -> None:
        self.batch = batch
        self._device, self._clock = device, clock
        count = -(-len(patches) // batch) * batch
        shown = list(islice(cycle(patches), count))
        self._batches = [
            torch.stack(shown[first : first + batch]).to(device) for first in range(0, count, batch)
        ]
        self._reference: tuple[float, list[torch.Tensor]] | None = None

    def of(self, load: Load, run: RunSpec, until: float) -> Measured:
        """Measure one way; after a time of the clock nothing is begun that is not needed."""
        way: Way = (run.precision, run.channels_last)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            with torch.inference_mode():
                return self._measured(way, load(run), until)
        except (StageError, torch.OutOfMemoryError) as error:
            if self._reference is None:
                raise
            full = isinstance(error, torch.OutOfMemoryError)
            return Measured(*way, why_not="out of GPU memory" if full else str(error))

    def _measured(self, way: Way, network: Network, until: float) -> Measured:
        labels: list[torch.Tensor] = []
        for patches in self._batches:
            patch_s, logits = self._run(network, patches)
            labels.append(_labels_of(logits))
            as_slow_s = SLOWER_MAX * self._reference[0] if self._reference else float("inf")
            if patch_s > as_slow_s and patch_s * self.batch > FIRST_RUN_S:
                return Measured(*way, patch_s * 1000, why_not="far slower")
            if self._clock() >= until:
                break
        patch_s = self._timed(network, until)
        if self._reference is None:
            self._reference = (patch_s, labels)
        return self._compared(Measured(*way, patch_s * 1000), labels)

    def _timed(self, network: Network, until: float) -> float:
        """Return the median time of a patch."""
        runs_s: list[float] = []
        enough = min(until, self._clock() + RUNS_S)
        while not runs_s or (
            len(runs_s) < RUNS_MAX
            and self._clock() < (enough if len(runs_s) >= RUNS_MIN else until)
        ):
            runs_s.append(self._run(network, self._batches[0])[0])
        return statistics.median(runs_s)

    def _run(self, network: Network, patches: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return how long a network takes for one of some patches, and their logits."""
        began = self._clock()
        logits = network(patches)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return (self._clock() - began) / len(patches), logits

    def _compared(self, found: Measured, labels: Sequence[torch.Tensor]) -> Measured:
        """Say how far the labels of a way are those of the first one."""
        assert self._reference is not None
        differing = labelled = 0
        for ours, theirs in zip(labels, self._reference[1], strict=False):
            differing += int((ours != theirs).sum())
            labelled += int(((ours > 0) | (theirs > 0)).sum())
        differ = differing / max(1, labelled)
        why_not = ""
        if differ > DIFFER_MAX:
            why_not = "its labels are others"
        elif labelled == 0 and found.precision != "float32":
            why_not = "nothing was found in the phantom that could be compared"
        return replace(found, differ=differ, why_not=why_not)


def _labels_of(logits: torch.Tensor) -> torch.Tensor:
    """Return the class of each voxel, shape (batch, *patch), on the CPU.

    Raises
    ------
    StageError
        The logits are not finite.
    """
    if not torch.isfinite(logits).all():
        raise StageError("its logits are not finite")
    labels = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)
    return labels.to(torch.uint8).cpu()


def _decided(rows: Sequence[Measured], in_use: Way, batch: int) -> Tuned:
    """Choose the fastest of those with the same labels, if it is worth a change."""
    now = next((row for row in rows if row.way == in_use), None)
    if now is None:  # Such as float16 where there is no GPU: it runs in float32 then.
        now = next(row for row in rows if row.way == ("float32", in_use[1]))
        now = replace(now, precision=in_use[0])
    fit = [row for row in rows if not row.why_not]
    best = min(fit, key=lambda row: row.patch_ms or 0.0)
    if not now.why_not and (now.patch_ms or 0.0) < FASTER_MIN * (best.patch_ms or 0.0):
        best = now
    return Tuned(tuple(rows), now, best, batch)
