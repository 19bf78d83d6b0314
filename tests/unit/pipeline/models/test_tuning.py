"""Which precision and memory format is best: measured under a clock that the test moves."""

from collections.abc import Iterator

import pytest
import torch

from osteon.errors import StageError, WorkerLostError
from osteon.pipeline.models import tuning
from osteon.pipeline.models.modelspec import RunSpec
from osteon.pipeline.models.network import Network, TorchNetwork
from osteon.pipeline.models.tuning import Listening, Measured, Tuned, tune

CPU = torch.device("cpu")
WAYS = [("float32", False), ("float32", True), ("bfloat16", False), ("bfloat16", True)]
PATCHES = [torch.linspace(-1, 1, 512).view(1, 8, 8, 8) * scale for scale in (3.0, 2.0, 1.0)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A network that takes its time by the clock, and calls so many voxels otherwise."""

    device = CPU

    def __init__(self, clock: Clock, cost_s: float, wrong: int = 0, fails: Exception | None = None):
        self.clock, self.cost_s, self.wrong, self.fails = clock, cost_s, wrong, fails
        self.batches: list[int] = []

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(patches))
        if self.fails is not None:
            raise self.fails
        self.clock.now += self.cost_s * len(patches)
        logits = patches.clone()
        logits.view(len(logits), -1)[:, : self.wrong] *= -1
        return logits

    def to(self, device: torch.device) -> Network:
        return self


def tuned(
    costs: dict[tuple[str, bool], dict[str, object]],
    now: tuple[str, bool] = WAYS[0],
    limit_s: float = 1000.0,
    patches: list[torch.Tensor] = PATCHES,
    batch: int = 1,
) -> Tuned:
    clock = Clock()
    networks = {way: Timed(clock, **costs.get(way, {"cost_s": 1.0})) for way in WAYS}
    return tune(
        lambda run: networks[run.precision, run.channels_last],
        RunSpec(precision=now[0], channels_last=now[1]),
        patches,
        device=CPU,
        batch=batch,
        limit_s=limit_s,
        clock=clock,
    )


def test_the_fastest_with_the_same_labels_is_best() -> None:
    found = tuned(
        {
            ("float32", True): {"cost_s": 0.8},
            ("bfloat16", False): {"cost_s": 0.2, "wrong": 5},
            ("bfloat16", True): {"cost_s": 0.5},
        }
    )
    assert [row.way for row in found.rows] == WAYS
    assert [round(row.patch_ms) for row in found.rows] == [1000, 800, 200, 500]
    assert [row.why_not for row in found.rows] == ["", "", "its labels are others", ""]
    assert found.best.way == ("bfloat16", True)
    assert found.now.way == ("float32", False)
    assert found.gain == pytest.approx(2.0)


def test_labels_are_compared_where_there_are_any() -> None:
    """256 of 512 voxels are labelled in each patch; 5 further ones are in one of two runs."""
    found = tuned({("bfloat16", False): {"cost_s": 0.2, "wrong": 5}})
    assert found.rows[2].differ == pytest.approx(5 / 261)
    assert tuning.DIFFER_MAX < 5 / 512
    # In a patch of background alone half precision cannot be judged, another format can.
    background = [-torch.ones(1, 8, 8, 8)]
    fast = {("float32", True): {"cost_s": 0.5}, ("bfloat16", True): {"cost_s": 0.1}}
    found = tuned(fast, patches=background)
    assert found.best.way == ("float32", True)
    assert found.rows[3].why_not.startswith("nothing was found in the phantom")


def test_a_small_gain_changes_nothing() -> None:
    found = tuned({("float32", True): {"cost_s": 0.95}})
    assert found.best is found.now
    found = tuned({("bfloat16", True): {"cost_s": 0.97}}, now=("bfloat16", True))
    assert found.best.way == ("bfloat16", True)


def test_what_is_in_use_and_changes_labels_is_given_up() -> None:
    found = tuned({("bfloat16", True): {"cost_s": 0.5, "wrong": 9}}, now=("bfloat16", True))
    assert found.best.way == ("float32", False)
    assert found.gain == pytest.approx(0.5)


def test_float16_without_a_gpu_is_float32() -> None:
    found = tuned({}, now=("float16", True))
    assert found.best is found.now
    assert found.now.way == ("float16", True)


def test_time_is_limited_and_float32_is_measured_all_the_same() -> None:
    found = tuned({("float32", True): {"cost_s": 100.0}}, limit_s=1.0)
    assert found.rows[0].patch_ms == 1000
    assert [row.why_not for row in found.rows[1:]] == ["no time was left"] * 3
    slow = tuned({("bfloat16", False): {"cost_s": 9.0}})
    assert slow.rows[2] == Measured("bfloat16", False, 9000.0, None, "far slower")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (StageError("no kernel for bfloat16"), "no kernel for bfloat16"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of GPU memory"),
    ],
)
def test_a_way_that_fails_is_left_out(error: Exception, says: str) -> None:
    found = tuned({("bfloat16", False): {"cost_s": 0.1, "fails": error}})
    assert (found.rows[2].why_not, found.best.way) == (says, ("float32", False))


def test_a_network_that_fails_in_float32_is_said() -> None:
    with pytest.raises(StageError, match="the network failed"):
        tuned({WAYS[0]: {"cost_s": 1.0, "fails": StageError("the network failed")}})
    full = {WAYS[0]: {"cost_s": 1.0, "fails": torch.OutOfMemoryError("full")}}
    with pytest.raises(WorkerLostError, match="out of GPU memory with one patch"):
        tuned(full, batch=8)


def test_patches_fill_a_batch() -> None:
    found = tuned({}, batch=4)
    assert found.batch == 4
    assert found.rows[0].patch_ms == 1000


def test_the_patches_that_show_most_are_kept() -> None:
    clock = Clock()
    listening = Listening(Timed(clock, 0.0))
    for scale in (1.0, 5.0, 2.0, 4.0, 3.0):
        patch = torch.linspace(-scale, scale, 64).view(1, 1, 4, 4, 4)
        assert torch.equal(listening(patch), patch)
        patch.zero_()
    assert [round(float(patch.max())) for patch in listening.patches] == [5, 4, 3]
    assert listening.to(CPU).patches == listening.patches


class _Sees(torch.nn.Module):
    """It notes what it computes in, and in which order its patches come."""

    seen: tuple[torch.dtype, bool] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv3d(2, 2, 3, padding=1)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        logits = self.convolution(patches)
        last = patches.is_contiguous(memory_format=torch.channels_last_3d)
        _Sees.seen = (logits.dtype, last)
        return logits


@pytest.fixture
def _without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.usefixtures("_without_gradients")
@pytest.mark.parametrize(
    ("precision", "computes"),
    [("float32", torch.float32), ("float16", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_a_cpu_computes_in_what_it_is_told(precision: str, computes: torch.dtype) -> None:
    run = RunSpec(precision=precision, channels_last=True)
    logits = TorchNetwork(_Sees().eval(), "toy", run, CPU)(torch.zeros(2, 2, 8, 8, 8))
    assert _Sees.seen == (computes, True)
    assert logits.dtype == torch.float32
