"""Models of the kind ``onnx``: a network in ONNX, run by ONNX Runtime.

A `ModelSpec` and its folder enter, a `Network` leaves. Called by `osteon.pipeline.models.model`; it
needs the extra ``osteon[onnx]``. The file is loaded from memory, so that it reaches no other file,
and it can name ONNX Runtime's own operators only.
"""

import logging
import re
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
import torch

from osteon.errors import ModelError, StageError
from osteon.pipeline.models.modelspec import ModelSpec
from osteon.pipeline.models.network import Network, averaged, checked, default_device, last_line
from osteon.pipeline.models.sliding import MEMORY_SHARE
from osteon.pipeline.models.weights import only_file, read_weights

log = logging.getLogger(__name__)
ONNX_ERRORS = (
    onnxruntime.capi.onnxruntime_pybind11_state.EPFail,
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
    RuntimeError,
)
# What its allocators, CUDA, cuDNN and cuBLAS say in any of these when memory does not suffice.
_IS_FULL = re.compile(
    r"Failed to allocate memory|Available memory of \d+ is smaller|out of memory|bad.alloc"
    r"|CU[A-Z]+_\w*ALLOC\w*_FAILED"
)
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def load(spec: ModelSpec, folder: Path) -> Network:
    """Load the network of a model folder.

    Raises
    ------
    ModelError
        The weights are missing, do not have the stated digest, are no ONNX model with one input of
        the shape that ``model.toml`` says, or keep tensors in another file.
    """
    assert spec.weights is not None
    path = folder / spec.weights
    content = only_file(read_weights(path, str(spec.sha256)), path)
    shape = (1, spec.input.channels, *spec.input.patch)
    network = OnnxNetwork(content, path, spec, _provided(default_device()))
    network.check_shape(shape)
    return averaged([network], spec.run.mirror)


class OnnxNetwork:
    """A network that ONNX Runtime runs.

    Parameters
    ----------
    content : bytes
        The ONNX file.
    path : Path
        Where it was read, for messages.
    spec : ModelSpec
        What ``model.toml`` says.
    device : torch.device
        Where it computes.

    Raises
    ------
    ModelError
        It is no ONNX model, or does not take one tensor of floating point values.
    MemoryError, torch.OutOfMemoryError
        It does not fit into the memory of the host or the GPU.
    """

    def __init__(self, content: bytes, path: Path, spec: ModelSpec, device: torch.device) -> None:
        self.device = device
        self._content, self._path, self._spec = content, path, spec
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # What goes wrong is raised; its log would say it twice.
        # It takes what it needs and no more, so that what it needs can be seen.
        how = {"device_id": device.index or 0, "arena_extend_strategy": "kSameAsRequested"}
        cuda = [("CUDAExecutionProvider", how)]
        providers: list[Any] = [*(cuda if device.type == "cuda" else []), "CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
        except ONNX_ERRORS as error:
            _raise_if_full(error, device)
            raise ModelError(f"{path}: no ONNX model: {last_line(error)}") from error
        self._works = False
        self._patch_bytes: dict[tuple[int, ...], int] = {}  # by shape: what one more takes
        self._largest = 0  # patches that it has run at once
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in FLOATS:
            kinds = ", ".join(f"{one.name} {one.type}" for one in inputs)
            raise ModelError(f"{path}: takes {kinds}, not one tensor of floating point values")
        self._input = inputs[0]

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse patches that the model's file says it does not take.

        Raises
        ------
        ModelError
            It takes another number of axes, or another size along one.
        """
        said = self._input.shape
        fixed = [n if isinstance(n, int) and n > 0 else None for n in said]
        if len(fixed) != len(shape) or any(
            n is not None and n != wanted for n, wanted in zip(fixed, shape, strict=True)
        ):
            raise ModelError(
                f"{self._path}: the network takes {self._input.name} of shape {said}, "
                f"model.toml says patches of shape {shape}"
            )

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the logits of some patches, as `osteon.pipeline.models.network.Network` says."""
        batch = self._input.shape[0]
        if isinstance(batch, int) and batch == 1 and len(patches) > 1:
            return torch.cat([self(patch[None]) for patch in patches])
        values = patches.cpu().numpy().astype(FLOATS[self._input.type], copy=False)
        try:
            first = self._session.run(None, {self._input.name: values})[0]
        except ONNX_ERRORS as error:
            _raise_if_full(error, self.device)
            if self._works:
                raise StageError(
                    f"{self._spec.name}: the network failed: {last_line(error)}"
                ) from error
            raise ModelError(
                f"{self._spec.name}: the network does not take patches of shape "
                f"{tuple(patches.shape)}: {last_line(error)}"
            ) from error
        self._works, self._largest = True, max(self._largest, len(patches))
        logits = torch.from_numpy(np.asarray(first)).to(self.device)
        return checked(logits, patches, self._spec.name)

    def at_once(self, shape: tuple[int, ...], most: int) -> int:
        """Return how many patches fit, as `osteon.pipeline.models.network.OutsideTorch` says.

        What ONNX Runtime has taken once it keeps and uses again; a batch larger than any before
        takes all its memory anew.
        """
        if self._input.shape[0] == 1:
            return 1
        if self.device.type == "cpu":
            return most  # `osteon.pipeline.models.sliding` gives a CPU one at a time.
        if shape not in self._patch_bytes:
            self._patch_bytes[shape] = self._try_out(shape)
        room = int(MEMORY_SHARE * _free_bytes(self.device)) // self._patch_bytes[shape]
        return min(most, max(1, self._largest, room))

    def _try_out(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of the GPU that a patch takes at the most, at least 1.

        The first brings with it what the libraries take once and for all. What two take beyond it
        is one patch's memory where they find room in what the first had, and two patches' where
        they do not: it counts for one, so that a batch is rather too small than too large.
        """
        free = _free_bytes(self.device)
        self(torch.zeros(1, *shape))
        after_one = _free_bytes(self.device)
        try:
            self(torch.zeros(2, *shape))
        except torch.OutOfMemoryError:
            return max(1, after_one)  # One fits, and no second.
        more = after_one - _free_bytes(self.device)
        # Nothing, where the first had room for both: then all of that counts.
        cost = more if more > 0 else free - after_one
        if cost <= 0:
            log.warning("%s: what a patch takes of the GPU was not to be seen", self._spec.name)
        return max(1, cost)

    def to(self, device: torch.device) -> Self:
        """Return the same network on another device."""
        return type(self)(self._content, self._path, self._spec, device)


def _raise_if_full(error: Exception, device: torch.device) -> None:
    """Say in torch's and Python's own words that memory does not suffice."""
    if _IS_FULL.search(str(error)):
        full = MemoryError if device.type == "cpu" else torch.OutOfMemoryError
        raise full(last_line(error)) from error


def _free_bytes(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def _provided(device: torch.device) -> torch.device:
    """Return the device, or the CPU where this build of ONNX Runtime knows no GPU."""
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return device if has_cuda else torch.device("cpu")
