"""What every network is to the node, whatever it was saved as: patches in, logits out.

Patches of scaled grey values enter, logits leave. The loaders of the model kinds make networks;
`osteon.pipeline.models.sliding` runs them over a volume.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch

from osteon.errors import ModelError, StageError
from osteon.pipeline.models.modelspec import RunSpec

# What a network of whatever kind raises when it cannot work on what it is given.
NETWORK_FAILURES = (
    RuntimeError, torch.jit.Error, AssertionError, ValueError, TypeError, IndexError
)  # fmt: skip
# What torch, cuDNN and cuBLAS say when a GPU has no memory left. Only what Python calls in torch
# raises `torch.OutOfMemoryError`; the interpreter of TorchScript says it in the last lines of a
# plain error, below a piece of the network's source, which begins no line with these words.
_GPU_IS_FULL = re.compile(
    r"^(?:[\w. ]+: )*(?:(?:CUDA |HIP )?out of memory|CU[A-Z]+_\w*ALLOC\w*_FAILED)", re.MULTILINE
)


class Network(Protocol):
    """A network on a device."""

    @property
    def device(self) -> torch.device:
        """Where it takes patches and returns logits."""

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the logits of some patches.

        Parameters
        ----------
        patches : Tensor of float32, shape (batch, channels, *patch)

        Returns
        -------
        Tensor of float32, shape (batch, classes, *patch)
            With one class, a logit above 0 is class 1.

        Raises
        ------
        ModelError
            The network does not take patches of this shape, or does not return logits of it.
        torch.OutOfMemoryError
            The device's memory does not suffice.
        StageError
            The device failed.
        """

    def to(self, device: torch.device) -> "Network":
        """Return the same network on another device."""


@runtime_checkable
class OutsideTorch(Protocol):
    """A network that takes its memory by other ways than torch, which so does not know of it."""

    def at_once(self, shape: tuple[int, ...], most: int) -> int:
        """Return how many patches its device has memory for at once, by trying one and two.

        Parameters
        ----------
        shape : tuple of int
            Of one patch, (channels, *patch).
        most : int
            More are not asked for.

        Returns
        -------
        int
            1 to `most`.

        Raises
        ------
        ModelError
            The network does not take patches of this shape.
        torch.OutOfMemoryError
            Not even one fits.
        """


class TorchNetwork:
    """A network that torch runs: a module, a script or an exported program.

    Parameters
    ----------
    module : callable
        An ``nn.Module`` in eval mode or something that is called in the same way.
    name : str
        Of the model, for messages.
    run : RunSpec
        Precision and memory format.
    device : torch.device
        Where the module is.
    """

    def __init__(
        self, module: torch.nn.Module, name: str, run: RunSpec, device: torch.device
    ) -> None:
        self.device = device
        self._name = name
        self._run = run
        self._works = False
        self._module = module.to(device)
        self._half = _half_of(run, device)

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the logits of some patches, as `Network` says."""
        if self._run.channels_last:
            patches = patches.contiguous(memory_format=_channels_last(patches.ndim))
        try:
            with torch.autocast(
                self.device.type, self._half or torch.bfloat16, enabled=self._half is not None
            ):
                logits = first_of(self._module(patches))
        except torch.OutOfMemoryError:
            raise
        except NETWORK_FAILURES as error:
            if self.device.type != "cpu" and _gpu_is_full(error):
                raise torch.OutOfMemoryError(last_line(error)) from error
            if isinstance(error, torch.AcceleratorError):
                raise StageError(f"{self._name}: the GPU failed: {error}") from error
            if _host_is_full(error):
                raise MemoryError(str(error)) from error
            if self._works:
                raise StageError(f"{self._name}: the network failed: {last_line(error)}") from error
            raise ModelError(
                f"{self._name}: the network does not take patches of shape {tuple(patches.shape)}: "
                f"{last_line(error)}"
            ) from error
        self._works = True
        return checked(logits, patches, self._name)

    def to(self, device: torch.device) -> Self:
        """Return the same network on another device; its weights are moved."""
        return type(self)(self._module, self._name, self._run, device)


class Average:
    """The mean of several networks, or of one network over mirrored patches.

    Parameters
    ----------
    networks : sequence of Network
        All on one device, such as the folds of a cross-validation.
    mirror : sequence of int
        Patch axes; patches are mirrored along each combination of them.
    """

    def __init__(self, networks: Sequence[Network], mirror: Sequence[int] = ()) -> None:
        self._networks = tuple(networks)
        self._mirror = tuple(mirror)
        axes = [axis + 2 for axis in self._mirror]
        self._flips = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self._networks[0].device

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the mean logits, as `Network` says."""
        total: torch.Tensor | None = None
        for network, axes in itertools.product(self._networks, self._flips):
            logits = network(patches.flip(axes)).flip(axes) if axes else network(patches)
            total = logits if total is None else total.add_(logits)
        assert total is not None
        return total.div_(len(self._networks) * len(self._flips))

    def at_once(self, shape: tuple[int, ...], most: int) -> int:
        """Return how many patches fit, as `OutsideTorch` says; they run one network after another.

        Where torch runs the networks, `most`: it tells itself what they take.
        """
        return min(patches_at_once(network, shape, most) for network in self._networks)

    def to(self, device: torch.device) -> Self:
        """Return the same mean on another device."""
        return type(self)([network.to(device) for network in self._networks], self._mirror)


def patches_at_once(network: Network, shape: tuple[int, ...], most: int) -> int:
    """Return how many patches a network may be given at once at the most, as `OutsideTorch` says.

    Of a network that torch runs this is `most`: what it takes is seen when its first window runs.
    """
    return network.at_once(shape, most) if isinstance(network, OutsideTorch) else most


def averaged(networks: Sequence[Network], mirror: Sequence[int]) -> Network:
    """Return one network for several, with mirroring, or the only one as it is."""
    return networks[0] if len(networks) == 1 and not mirror else Average(networks, mirror)


def default_device() -> torch.device:
    """Return the GPU of this process, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def ready(module: torch.nn.Module, run: RunSpec) -> torch.nn.Module:
    """Return a module for inference: in eval mode, without gradients, in its memory format."""
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        if run.channels_last and parameter.ndim in {4, 5}:
            form = _channels_last(parameter.ndim)
            parameter.data = parameter.data.contiguous(memory_format=form)
    return module


def first_of(answer: Any) -> Any:
    """Return the first of several outputs: that of full resolution under deep supervision."""
    return answer[0] if isinstance(answer, tuple | list) and answer else answer


def checked(logits: Any, patches: torch.Tensor, name: str) -> torch.Tensor:
    """Return what a network answered as float32 logits.

    Raises
    ------
    ModelError
        It is no tensor of shape (batch, classes, *patch).
    """
    wanted = (len(patches), *patches.shape[2:])
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"{name}: the network does not return a tensor but {type(logits)}")
    if logits.ndim != patches.ndim or (len(logits), *logits.shape[2:]) != wanted:
        raise ModelError(
            f"{name}: the network does not return (batch, classes, *patch) for "
            f"{tuple(patches.shape)} but {tuple(logits.shape)}"
        )
    return logits.float()


def raise_if_full(error: Exception) -> None:
    """Say in torch's and in Python's own words that weights do not fit into memory, if so.

    Raises
    ------
    torch.OutOfMemoryError
        A GPU's memory does not suffice.
    MemoryError
        The host's does not.
    """
    if _gpu_is_full(error):
        raise torch.OutOfMemoryError(last_line(error)) from error
    if _host_is_full(error):
        raise MemoryError(last_line(error)) from error


def last_line(error: Exception) -> str:
    """Return the line of a library's message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _gpu_is_full(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or bool(_GPU_IS_FULL.search(str(error)))


def _host_is_full(error: Exception) -> bool:
    """Return whether torch's allocator for the CPU got nothing; its class is any other's."""
    return "alloc" in str(error) and "memory" in str(error)


def _half_of(run: RunSpec, device: torch.device) -> torch.dtype | None:
    """Return the type that a network computes in by half precision; None for float32."""
    if run.precision == "bfloat16":
        return torch.bfloat16
    # A CPU has no float16 that would be faster, and for many operators none at all.
    return torch.float16 if run.precision == "float16" and device.type == "cuda" else None


def _channels_last(ndim: int) -> torch.memory_format:
    return torch.channels_last if ndim == 4 else torch.channels_last_3d
