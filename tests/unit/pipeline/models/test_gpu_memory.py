"""A GPU that is full, in the words of each library: half as many windows, or the CPU; never a fault
of the model. The errors are real ones of TorchScript and ONNX Runtime; the GPU is a name.
"""

import io
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from osteon.errors import ModelError, WorkerLostError
from osteon.pipeline.models import model, networkmodel, onnxmodel, sliding, torchscript
from osteon.pipeline.models.inputgrid import InputGrid
from osteon.pipeline.models.modelspec import InputSpec, ModelSpec, RunSpec
from osteon.pipeline.models.network import (
    Average,
    Network,
    TorchNetwork,
    averaged,
    patches_at_once,
)
from osteon.pipeline.models.networkmodel import NetworkModel
from osteon.pipeline.models.sliding import Batches
from osteon.pipeline.models.windows import window_weights
from osteon.pipeline.prediction import predict_slices
from tests.model_folders import make

CPU, GPU = torch.device("cpu"), torch.device("cuda")
HU = np.arange(16**3, dtype=np.int16).reshape(16, 16, 16)
FULL = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
)
OTHER = (
    "the sizes differ",
    "CUDA error: device-side assert triggered",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
)


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch would say of the GPU; a window costs 100 bytes there."""
    for name, value in {
        "reset_peak_memory_stats": None,
        "memory_allocated": 500,
        "max_memory_allocated": 600,
        "memory_reserved": 500,
        "mem_get_info": (10_000_000_000, 80_000_000_000),
        "empty_cache": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    # What is made on the network's device is made on the CPU, since there is no other.
    monkeypatch.setattr(networkmodel, "InputGrid", lambda *args: InputGrid(*args[:3], CPU))
    monkeypatch.setattr(sliding, "window_weights", lambda *args: window_weights(*args[:2], CPU))


class Crowded(torch.nn.Module):
    """It has room for so many windows, and then says what it was told to."""

    def __init__(self, room: int, says: str) -> None:
        super().__init__()
        self.room, self.says = room, says

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        if len(patches) > self.room:
            raise RuntimeError(self.says)
        return patches - 0.5


class Script(TorchNetwork):
    """A script whose device is called a GPU; on the CPU there is room for every window."""

    def to(self, device: torch.device) -> "Script":
        if device.type == "cpu":
            return scripted(Crowded(1000, ""), CPU)
        return self


def scripted(module: torch.nn.Module, device: torch.device, **run: object) -> Script:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        saved = io.BytesIO()
        torch.jit.save(torch.jit.script(module), saved)
    script = torchscript.script_of(saved.getvalue(), Path("network.ts"), CPU)
    network = Script(script, "toy", RunSpec(**run), CPU)
    network.device = device
    return network


def model_of(network: Network, **run: object) -> NetworkModel:
    spec = ModelSpec(
        name="toy",
        version="1",
        kind="builtin",
        input=InputSpec(dimension="3d", hu_window=(0.0, 4096.0), patch=(8, 16, 16)),
        run=RunSpec(**run),
    )
    return NetworkModel(spec, network)


@pytest.mark.parametrize("says", FULL)
def test_a_script_that_does_not_fit_gets_half_as_many_windows(says: str) -> None:
    batches = Batches(scripted(Crowded(3, says), GPU), 16)
    windows = [torch.full((1, 8, 8), float(number)) for number in range(40)]
    answers = list(batches.run(windows))
    assert [float(answer.mean()) for answer in answers] == [n - 0.5 for n in range(40)]
    assert batches.size == 2


@pytest.mark.parametrize("says", FULL)
def test_a_script_that_never_fits_says_so_or_takes_the_cpu(says: str) -> None:
    with pytest.raises(WorkerLostError, match="out of GPU memory with one patch at a time"):
        predict_slices(model_of(scripted(Crowded(0, says), GPU)), HU, np.eye(4))
    may = model_of(scripted(Crowded(0, says), GPU), cpu_when_full=True)
    assert np.array_equal(predict_slices(may, HU, np.eye(4)), HU > 2048)
    assert may.network.device == GPU, "the next volume is tried there again"


@pytest.mark.parametrize("says", OTHER)
def test_what_else_a_script_says_on_a_gpu_is_its_own_fault(says: str) -> None:
    with pytest.raises(ModelError, match="does not take patches of shape"):
        scripted(Crowded(0, says), GPU)(torch.zeros(1, 1, 8, 8))


class _Quotes(torch.nn.Module):
    """Its source, which TorchScript quotes, has the words of an error that is not the present."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        if len(patches) > 0:
            raise RuntimeError("the sizes differ, no: CUDA out of memory")
        return patches


def test_words_of_the_source_that_torchscript_quotes_do_not_count() -> None:
    with pytest.raises(ModelError):
        scripted(_Quotes(), GPU)(torch.zeros(1, 1, 8, 8))


class _Vast(torch.nn.Module):
    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return patches + torch.empty([1_125_899_906_842_624], device=patches.device)[0]


def test_memory_of_the_host_is_never_halved() -> None:
    batches = Batches(scripted(_Vast(), CPU), 16)
    with pytest.raises(MemoryError, match="DefaultCPUAllocator"):
        list(batches.run([torch.zeros(1, 8, 8)]))


def _expanding(sizes: list[int]) -> onnxmodel.OnnxNetwork:
    """Return a network that repeats its patch until it has so many values."""
    onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    shape = onnx.numpy_helper.from_array(np.array(sizes, np.int64), "shape")
    graph = helper.make_graph(
        [helper.make_node("Expand", ["patch", "shape"], ["logits"])],
        "toy",
        [helper.make_tensor_value_info("patch", floats, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", floats, None)],
        [shape],
    )
    opset = [helper.make_opsetid("", 17)]
    content = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    spec = ModelSpec(
        name="toy",
        version="1",
        kind="builtin",
        input=InputSpec(dimension="2d", hu_window=(0.0, 1.0), patch=(8, 8)),
    )
    return onnxmodel.OnnxNetwork(content, Path("toy.onnx"), spec, CPU)


class Memory:
    """What a GPU has free when ONNX Runtime runs there: its arena grows and never shrinks.

    Parameters
    ----------
    fixed, patch : int
        Bytes that its libraries take at the first run, and that each patch of a batch takes.
    """

    def __init__(self, free: int, fixed: int, patch: int) -> None:
        self.free, self._fixed, self._patch = free, fixed, patch
        self.batches: list[int] = []

    def run(self, session: Any, outputs: None, values: dict[str, Any]) -> list[Any]:
        (patches,) = values.values()
        needed = self._fixed + self._patch * len(patches) * (len(patches) > self._largest)
        if needed > self.free:
            raise RuntimeError("Available memory of 5 is smaller than requested bytes of 6")
        self.free -= needed
        self._fixed = 0
        self.batches.append(len(patches))
        return [patches - 0.5]

    @property
    def _largest(self) -> int:
        return max(self.batches, default=0)


def on_gpu(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> onnxmodel.OnnxNetwork:
    """A network of ONNX Runtime whose device is called a GPU of which so much is free."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (memory.free, 80 * 10**9))
    network = _expanding([1, 1, 8, 8])
    network.device = GPU
    network._session = SimpleNamespace(run=lambda *args: memory.run(network, *args))
    elsewhere = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor,
        "to",
        lambda self, *to, **how: self if GPU in to else elsewhere(self, *to, **how),
    )
    return network


@pytest.mark.parametrize(
    ("free", "most", "fits"),
    [
        (10_000, 64, 25),  # 6,300 are left after one and two, of which 80 %, 200 for each
        (10_000, 16, 16),
        (3_900, 64, 2),  # two fit, and after them not one more
        (3_600, 64, 1),  # no second one fits
    ],
)
def test_onnx_runtime_gets_as_many_windows_as_the_free_memory_takes(
    free: int, most: int, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(free, fixed=3_400, patch=100)
    network = on_gpu(memory, monkeypatch)
    assert network.at_once((1, 8, 8), most) == fits
    network(torch.zeros(fits, 1, 8, 8))
    tried = len(memory.batches)
    # For the next volume it has what it has taken already, and nothing is tried out again.
    assert network.at_once((1, 8, 8), most) == min(most, max(memory.batches))
    assert len(memory.batches) == tried


def test_onnx_runtime_for_which_no_window_fits_is_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        on_gpu(Memory(3_000, 3_400, 100), monkeypatch).at_once((1, 8, 8), 64)


def test_windows_at_once_are_chosen_before_the_first_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = Memory(10_000_000, fixed=0, patch=100_000)
    network = on_gpu(memory, monkeypatch)
    made = model_of(averaged([network], ()), batch_max=512)
    made.spec = made.spec.model_copy(
        update={"input": InputSpec(dimension="2d", hu_window=(0.0, 4096.0), patch=(8, 8))}
    )
    assert np.array_equal(made.predict(HU, np.eye(4)), HU > 2048)
    assert made.ran is not None
    assert made.ran.batch == 38  # 80 % of 9.7 MB, 0.2 MB each; 512 would not have fitted.
    assert max(memory.batches) <= 38


def test_on_a_cpu_and_for_torch_nothing_is_tried_out() -> None:
    assert patches_at_once(_expanding([1, 1, 8, 8]), (1, 8, 8), 64) == 64
    script = scripted(Crowded(0, "must not run"), GPU)
    assert patches_at_once(Average([script, script]), (1, 8, 8), 64) == 64


def test_onnx_runtime_that_cannot_allocate_is_out_of_memory_at_its_first_call_too() -> None:
    network = _expanding([2**32, 1, 8, 8])
    patches = torch.zeros(1, 1, 8, 8)
    with pytest.raises(MemoryError, match="Failed to allocate memory for requested buffer"):
        network(patches)
    network.device = GPU
    with pytest.raises(torch.OutOfMemoryError, match="Failed to allocate memory") as failure:
        network(patches)
    assert "ONNXRuntimeError" in str(failure.value.__cause__)


def test_what_else_onnx_runtime_says_on_a_gpu_is_a_fault_of_the_model() -> None:
    network = _expanding([1, 1, 8, 8])
    network.device = GPU
    with pytest.raises(ModelError, match="does not take patches of shape"):
        network(torch.zeros(1, 1, 9, 9))


LOADS = [("torchscript", "torch.jit.load"), ("torch-export", "torch.export.load")]


@pytest.mark.parametrize(("kind", "loads"), LOADS)
@pytest.mark.parametrize("says", FULL)
def test_weights_that_do_not_fit_now_may_fit_later(
    says: str, kind: str, loads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError(says)

    make(kind, tmp_path)
    monkeypatch.setattr(loads, full)
    with pytest.raises(WorkerLostError, match=f"{kind}: out of GPU memory while it was"):
        model.load_model(kind, tmp_path)


@pytest.mark.parametrize(("kind", "loads"), LOADS)
def test_so_may_weights_that_do_not_fit_into_the_hosts_memory(
    kind: str, loads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> torch.Tensor:
        return torch.empty(2**50)

    make(kind, tmp_path)
    monkeypatch.setattr(loads, full)
    with pytest.raises(MemoryError, match="DefaultCPUAllocator"):
        model.load_model(kind, tmp_path)
