"""The sliding window: MONAI's numbers, one slab of memory, and batches that fit."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from osteon.errors import ModelError, StageError
from osteon.pipeline.models import sliding
from osteon.pipeline.models.modelspec import RunSpec
from osteon.pipeline.models.network import Average, Network, TorchNetwork
from osteon.pipeline.models.sliding import Batches, slide
from osteon.pipeline.models.windows import window_weights, windows_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def network(module: torch.nn.Module) -> TorchNetwork:
    return TorchNetwork(module.eval(), "toy", RunSpec(), CPU)


def conv3d(classes: int = 3) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv3d(4, classes, 3, padding=1),
    )


def threads_left() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("network", "input grid"))]


def known(network: Network, *, room: bool) -> Batches:
    """Return batches whose first window is said to have left cores idle, or none."""
    batches = Batches(network, 4)
    batches.size, batches.room_beside = 1, room
    return batches


def slid(
    image: torch.Tensor,
    module: torch.nn.Module,
    patch: tuple[int, ...],
    batches: Batches | None = None,
    **options: object,
) -> torch.Tensor:
    """Return all logits, and check that each came once, and planes in their order."""
    whole, done = torch.empty(0), {}
    came = torch.zeros(image.shape, dtype=torch.int)
    batches = batches or Batches(network(module), 4)
    slabs = slide(lambda a, b: image[a:b], tuple(image.shape), patch, batches, **options)
    for (planes, rows, columns), logits in slabs:
        part = (rows.stop, columns.stop)
        assert planes.start == done.get(part, 0)
        done[part] = planes.stop
        if not whole.numel():
            whole = torch.full((len(logits), *image.shape), torch.nan)
        there = whole[:, planes, rows, columns]
        assert there.shape == logits.shape
        # The last row and column of the parts before it come again.
        again = there.isfinite()
        assert torch.equal(there[again], logits[again])
        there.copy_(logits)
        came[planes, rows, columns] += ~again[0]
    assert (came == 1).all()
    return whole


@pytest.mark.parametrize("room", [False, True])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("shape", "patch", "overlap"),
    [
        ((50, 40, 60), (16, 24, 24), 0.5),
        ((50, 40, 60), (16, 24, 24), 0.25),
        ((40, 24, 30), (16, 24, 24), 0.75),  # the slab moves by less than half of itself
        ((17, 24, 25), (16, 24, 24), 0.6),
        ((16, 24, 24), (16, 24, 24), 0.5),  # one window
        ((5, 11, 60), (16, 24, 24), 0.5),  # smaller than the patch
        ((40, 30, 9), (16, 24, 24), 0.0),
    ],
)
def test_it_gives_what_monai_gives(
    shape: tuple[int, ...], patch: tuple[int, ...], overlap: float, blend: str, room: bool
) -> None:
    monai = pytest.importorskip("monai.inferers", reason="the extra monai is not installed")
    module, image = conv3d(), torch.randn(shape)
    theirs = monai.sliding_window_inference(
        image[None, None], patch, 2, module, overlap=overlap, mode=blend
    )[0]
    batches = known(network(module), room=room)
    ours = slid(image, module, patch, batches, overlap=overlap, blend=blend)
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 1e-5


def test_a_2d_network_sees_each_slice_as_monai_shows_it() -> None:
    monai = pytest.importorskip("monai.inferers", reason="the extra monai is not installed")
    module, image = torch.nn.Conv2d(1, 2, 3, padding=1), torch.randn(19, 40, 21)
    theirs = monai.sliding_window_inference(
        image[:, None], (16, 24), 2, module, overlap=0.5, mode="gaussian"
    )
    ours = slid(image, module, (16, 24))
    assert float((ours - theirs.transpose(0, 1)).abs().max()) < 1e-5


def test_neighbouring_slices_are_channels_and_the_ends_are_repeated() -> None:
    class Neighbours(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image

    image = torch.arange(11.0)[:, None, None].expand(11, 16, 16)
    seen = slid(image, Neighbours(), (16, 16), neighbours=2)[:, :, 0, 0]
    wanted = [[min(max(z + offset, 0), 10) for z in range(11)] for offset in range(-2, 3)]
    assert torch.allclose(seen, torch.tensor(wanted, dtype=torch.float32), atol=1e-5)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.9])
def test_windows_cover_their_axis(length: int, overlap: float) -> None:
    windows = windows_of(length, 16, overlap)
    covered = np.zeros(windows.size, bool)
    for start in windows.starts:
        assert start + 16 <= windows.size
        covered[start : start + 16] = True
    assert covered.all()
    assert windows.size - windows.before - windows.after == length


def test_weights_are_highest_in_the_middle_and_nowhere_nothing() -> None:
    weights = window_weights((9, 8, 7), "gaussian", CPU)
    assert weights.shape == (9, 8, 7)
    assert float(weights.max()) == float(weights[4, 3, 3])
    assert float(weights.min()) >= 1e-3


class _Wide(torch.nn.Module):
    """A hundred classes for the price of none."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.expand(-1, 100, -1, -1, -1)


def test_only_one_slab_of_logits_stands_in_memory() -> None:
    image, patch = torch.rand(96, 48, 48), (16, 48, 48)
    of_slab = 100 * 16 * 48 * 48 * 4
    made: list[int] = []
    zeros = torch.zeros

    def counted(*args: object, **options: object) -> torch.Tensor:
        tensor = zeros(*args, **options)
        made.append(tensor.nbytes)
        return tensor

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "zeros", counted)
        slabs = slide(lambda a, b: image[a:b], (96, 48, 48), patch, Batches(network(_Wide()), 1))
        planes = {plane for (planes, *_), _ in slabs for plane in range(planes.start, planes.stop)}
    assert planes == set(range(96))
    assert sum(made) <= 1.031 * of_slab  # the sum, the count, and what a step adds to it


@pytest.mark.parametrize("patch", [(16, 24, 24), (24, 24)])
def test_threads_change_nothing(patch: tuple[int, ...]) -> None:
    image, ran_in = torch.randn(50, 40, 60), set()

    class Watched(TorchNetwork):
        def __call__(self, patches: torch.Tensor) -> torch.Tensor:
            ran_in.add(threading.current_thread().name)
            return super().__call__(patches)

    module = conv3d() if len(patch) == 3 else torch.nn.Conv2d(1, 2, 3, padding=1)
    watched = Watched(module, "toy", RunSpec(), CPU)
    alone = slid(image, module, patch, known(watched, room=False))
    assert ran_in == {threading.current_thread().name}
    assert torch.equal(slid(image, module, patch, known(watched, room=True)), alone)
    assert len(ran_in) == 2, "the first window in the caller's thread, the others in one of theirs"


def test_a_network_that_only_waits_has_threads_beside_it() -> None:
    class Waiting(_Full):
        def __call__(self, patches: torch.Tensor) -> torch.Tensor:
            time.sleep(0.02)
            return super().__call__(patches)

    batches = Batches(Waiting(room=4), 4)
    assert not batches.room_beside
    assert len(list(batches.run([torch.zeros(1, 8, 8)]))) == 1
    assert batches.room_beside


class _FailsAt:
    """A network that fails at one of its windows."""

    device = CPU

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise StageError("toy: the network failed")
        return patches

    def to(self, device: torch.device) -> "_FailsAt":
        return self


@pytest.mark.parametrize("room", [False, True])
@pytest.mark.parametrize("number", [1, 2, 7, 8])
def test_a_network_that_fails_is_heard_of_and_leaves_no_thread(number: int, room: bool) -> None:
    batches = known(_FailsAt(number), room=room)
    with pytest.raises(StageError, match="the network failed") as failure:
        list(slide(lambda a, b: torch.zeros(b - a, 24, 30), (40, 24, 30), (16, 24, 24), batches))
    assert failure.tb is not None, "which holds every frame on the way"
    assert not threads_left()


@pytest.mark.parametrize("room", [False, True])
def test_planes_that_cannot_be_made_are_heard_of_and_leave_no_thread(room: bool) -> None:
    def read(start: int, stop: int) -> torch.Tensor:
        if start:
            raise MemoryError("no room for planes")
        return torch.zeros(stop - start, 24, 30)

    batches = known(network(conv3d()), room=room)
    with pytest.raises(MemoryError, match="no room"):
        list(slide(read, (40, 24, 30), (16, 24, 24), batches))
    assert not threads_left()


@pytest.mark.parametrize("room", [False, True])
def test_whoever_stops_half_way_leaves_no_thread(room: bool) -> None:
    full = _Full(room=4)
    batches = known(full, room=room)
    slabs = slide(lambda a, b: torch.zeros(b - a, 24, 30), (400, 24, 30), (16, 24, 24), batches)
    next(slabs)
    slabs.close()
    assert not threads_left()
    assert len(full.sizes) <= 4, "of 98 windows, those that are not wanted are not computed"


def test_values_that_are_not_finite_are_refused() -> None:
    class Overflowing(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image / 0.0

    with pytest.raises(ModelError, match=r"not finite .*float32"):
        slid(torch.ones(16, 16, 16), Overflowing(), (16, 16, 16))


class _Full:
    """A device with room for three windows at once, as a GPU says it."""

    device = CPU

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(patches))
        if len(patches) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return patches

    def to(self, device: torch.device) -> "_Full":
        return self


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost() -> None:
    full = _Full(room=3)
    batches = Batches(full, 16)
    batches.size = 16
    windows = [torch.full((1, 8, 8), float(number)) for number in range(11)]
    answers = list(batches.run(windows))
    assert [float(answer.mean()) for answer in answers] == list(range(11))
    assert full.sizes == [11, 8, 4, 2, 2, 2, 2, 2, 1]


def test_it_says_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    batches = Batches(network(conv3d()), 4, lambda done, total: told.append((done, total)))
    list(slide(lambda a, b: torch.zeros(b - a, 24, 30), (40, 24, 30), (16, 24, 24), batches))
    assert told == [(number, 8) for number in range(1, 9)]


def test_one_window_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(Batches(_Full(room=0), 4).run([torch.zeros(1, 8, 8)]))


class _OnGpu(_Full):
    device = torch.device("cuda")


@pytest.mark.parametrize(("free", "size"), [(1000, 8), (10_000, 50), (10, 1)])
def test_the_first_window_on_a_gpu_says_how_many_fit(
    free: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window costs 100 bytes here; four fifths of what is free are used."""
    for name, value in {
        "reset_peak_memory_stats": None,
        "memory_allocated": 500,
        "max_memory_allocated": 600,
        "memory_reserved": 500,
        "mem_get_info": (free, 80_000),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    batches = Batches(_OnGpu(room=100), 50)
    assert len(list(batches.run([torch.zeros(1, 8, 8)]))) == 1
    assert batches.size == size


def test_mirrorings_and_folds_are_averaged() -> None:
    class Ramp(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + torch.arange(8.0)

    patches = torch.zeros(2, 1, 8, 8)
    mirrored = Average([network(Ramp())], mirror=(0, 1))(patches)
    assert torch.allclose(mirrored, torch.full_like(patches, 3.5))
    folds = Average([network(Ramp()), network(torch.nn.Identity())])(patches)
    assert torch.allclose(folds[0, 0, 0], torch.arange(8.0) / 2)


def test_a_gpu_is_left_to_one_thread() -> None:
    seen: set[str] = set()

    class Gpu(_Full):
        device = torch.device("cuda")

        def __call__(self, patches: torch.Tensor) -> torch.Tensor:
            seen.add(threading.current_thread().name)
            return super().__call__(patches)

    batches = Batches(Gpu(room=4), 4)
    batches.size = 4

    def read(start: int, stop: int) -> torch.Tensor:
        seen.add(threading.current_thread().name)
        return torch.zeros(stop - start, 24, 30)

    with pytest.MonkeyPatch.context() as patched:
        # The weights are made on the device of the network, of which there is none here.
        patched.setattr(sliding, "window_weights", lambda *_: torch.ones(16, 24, 24))
        list(slide(read, (40, 24, 30), (16, 24, 24), batches))
    assert seen == {threading.current_thread().name}
