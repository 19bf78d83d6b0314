"""What a GPU does otherwise: memory that ends, half precision, and the same labels all the same."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from osteon.errors import WorkerLostError
from osteon.pipeline.models.model import load_model
from osteon.pipeline.models.modelspec import InputSpec, ModelSpec, RunSpec
from osteon.pipeline.models.network import TorchNetwork
from osteon.pipeline.models.networkmodel import NetworkModel
from osteon.pipeline.prediction import predict_slices
from tests.model_folders import KINDS, Bright, make

CPU = torch.device("cpu")
HU = np.random.default_rng(0).integers(-500, 1200, (40, 96, 96)).astype(np.int16)
Made = Callable[[torch.nn.Module], torch.nn.Module]
ROOM = 2**30  # What a test leaves free of the GPU's memory.

pytestmark = pytest.mark.usefixtures("gpu")


class Hungry(torch.nn.Module):
    """It needs so many bytes for each window."""

    def __init__(self, needs: int) -> None:
        super().__init__()
        self.needs = needs

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        size = [len(patches), self.needs]
        held = torch.empty(size, dtype=torch.uint8, device=patches.device)
        return patches + held[0, 0] * 0


def plain(module: torch.nn.Module) -> torch.nn.Module:
    return module


def scripted(module: torch.nn.Module) -> torch.nn.Module:
    """Return a script, whose interpreter says in a way of its own that memory does not suffice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


@pytest.fixture
def filled() -> Iterator[None]:
    """Leave a little of the GPU's memory and no more."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - ROOM, dtype=torch.uint8, device="cuda")
    yield
    del held
    torch.cuda.empty_cache()


def model_of(module: torch.nn.Module, device: torch.device, **run: object) -> NetworkModel:
    spec = ModelSpec(
        name="toy",
        version="1",
        kind="builtin",
        input=InputSpec(dimension="3d", hu_window=(0.0, 1000.0), patch=(16, 48, 48)),
        run=RunSpec(**run),
    )
    return NetworkModel(spec, TorchNetwork(module.eval(), "toy", spec.run, device))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gpu_and_cpu_give_the_same_labels(precision: str) -> None:
    on_cpu = predict_slices(model_of(Bright(), CPU), HU, np.eye(4))
    on_gpu = model_of(Bright(), torch.device("cuda"), precision=precision)
    found = predict_slices(on_gpu, HU, np.eye(4))
    assert on_gpu.ran.device == "cuda"
    assert np.count_nonzero(found != on_cpu) < 2e-3 * HU.size


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs(kind: str, tmp_path: Path) -> None:
    make(kind, tmp_path)
    assert predict_slices(load_model(kind, tmp_path), HU, np.eye(4)).any()


@pytest.mark.parametrize("made", [plain, scripted])
@pytest.mark.usefixtures("filled")
def test_a_batch_that_does_not_fit_is_halved(made: Made) -> None:
    model = model_of(made(Hungry(ROOM // 4)), torch.device("cuda"), batch_max=16)
    predict_slices(model, HU, np.eye(4))
    assert 1 <= model.ran.batch <= 3


@pytest.mark.parametrize("made", [plain, scripted])
@pytest.mark.usefixtures("filled")
def test_one_window_that_does_not_fit_is_said(made: Made) -> None:
    greedy = model_of(made(Hungry(2 * ROOM)), torch.device("cuda"))
    with pytest.raises(WorkerLostError, match="out of GPU memory with one patch at a time"):
        predict_slices(greedy, HU, np.eye(4))
