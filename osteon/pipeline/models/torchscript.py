"""Models of the kind ``torchscript``: a network saved by ``torch.jit.save``.

A `ModelSpec` and its folder enter, a `Network` leaves. Called by `osteon.pipeline.models.model`. A
TorchScript archive holds code, in a language of its own that reaches no file and no process; its
values are read by torch's own reader, which makes nothing but tensors and plain values.
"""

import io
import warnings
from pathlib import Path

import torch

from osteon.errors import ModelError
from osteon.pipeline.models.modelspec import ModelSpec
from osteon.pipeline.models.network import (
    Network,
    TorchNetwork,
    averaged,
    default_device,
    last_line,
    raise_if_full,
    ready,
)
from osteon.pipeline.models.weights import only_file, read_weights


def load(spec: ModelSpec, folder: Path) -> Network:
    """Load the network of a model folder.

    Raises
    ------
    ModelError
        The weights are missing, do not have the stated digest, or are no TorchScript archive.
    """
    assert spec.weights is not None
    path = folder / spec.weights
    content = only_file(read_weights(path, str(spec.sha256)), path)
    device = default_device()
    network = TorchNetwork(
        ready(script_of(content, path, device), spec.run), spec.name, spec.run, device
    )
    return averaged([network], spec.run.mirror)


def script_of(content: bytes, path: Path, device: torch.device) -> torch.nn.Module:
    """Return the script of a TorchScript archive.

    Raises
    ------
    ModelError
        It is none.
    torch.OutOfMemoryError
        It does not fit into the GPU's memory.
    MemoryError
        It does not fit into the host's.
    """
    with warnings.catch_warnings():
        # torch has deprecated TorchScript for new networks; folders with older ones remain.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            script: torch.nn.Module = torch.jit.load(  # type: ignore[no-untyped-call] # so it is
                io.BytesIO(content), map_location=device
            )
        except (RuntimeError, ValueError) as error:
            raise_if_full(error)
            # What follows torch's first sentence supposes that the file is damaged.
            said = last_line(error).partition(". ")[0]
            raise ModelError(
                f"{path}: no TorchScript archive, which torch.jit.save writes: {said}"
            ) from error
    return script
