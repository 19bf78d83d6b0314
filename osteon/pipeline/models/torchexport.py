"""Models of the kind ``torch-export``: a program saved by ``torch.export.save``, a ``.pt2`` file.

A `ModelSpec` and its folder enter, a `Network` leaves. Called by `osteon.pipeline.models.model`.

Loading such a file can run code in four ways: pickled tensors and sample inputs, compiled
libraries, expressions of sizes and guards that are evaluated as Python, and operators named by any
path under ``torch``. A program of tensors and ATen operators needs none of them, so each is refused
here, and what is loaded is an archive written anew from the members that were looked at.
"""

import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from osteon.errors import ModelError
from osteon.pipeline.models.modelspec import ModelSpec
from osteon.pipeline.models.network import (
    Network,
    TorchNetwork,
    averaged,
    default_device,
    first_of,
    last_line,
    raise_if_full,
)
from osteon.pipeline.models.weights import only_file, read_tensors, read_weights

SAMPLES = "data/sample_inputs/model.pt"
PROGRAM = "models/model.json"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
MEMBERS = re.compile(
    r"models/model\.json|data/(weights|constants)/(model_(weights|constants)_config\.json"
    r"|(weight|tensor)_\d+)|data/sample_inputs/model\.pt|archive_format|archive_version"
    r"|byteorder|\.data/(version|serialization_id)|version"
)
OPERATOR = re.compile(
    r"torch\.ops\.aten\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+|_operator\.(add|sub|mul|floordiv|mod|getitem)"
    r"|torch\.sym_(int|float|max|min)"
)
WORDS = frozenset(
    {
        *("Symbol", "Integer", "positive", "nonnegative", "integer", "True", "False"),
        *("Add", "Mul", "Max", "Min", "FloorDiv", "CleanDiv", "Mod", "PythonMod"),
    }
)
EXPRESSION = re.compile(r"[A-Za-z0-9_ ,=()'+*/<>-]*")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SIZE_SYMBOL = re.compile(r"[su]\d+")


def load(spec: ModelSpec, folder: Path) -> Network:
    """Load the network of a model folder.

    Raises
    ------
    ModelError
        The weights are missing, do not have the stated digest, are no exported program, or could
        run code when they are loaded.
    """
    assert spec.weights is not None
    path = folder / spec.weights
    content = only_file(read_weights(path, str(spec.sha256)), path)
    device = default_device()
    module = _module(content, path, (1, spec.input.channels, *spec.input.patch), device)
    network = TorchNetwork(module, spec.name, spec.run, device)
    return averaged([network], spec.run.mirror)


class _OneByOne(torch.nn.Module):
    """A program that was exported for one patch at a time."""

    def __init__(self, program: torch.nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the logits of some patches, as `osteon.pipeline.models.network.Network` says."""
        return torch.cat([first_of(self.program(patch[None])) for patch in patches])


def _module(
    content: bytes, path: Path, shape: tuple[int, ...], device: torch.device
) -> torch.nn.Module:
    harmless = _inspected(content, path)
    said = logging.getLogger("torch.export")
    level = said.level
    try:
        said.setLevel(logging.CRITICAL)  # It logs a traceback before it raises.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(harmless))
            module: torch.nn.Module = _moved(program.module(), device)
            takes = _input_shape(program)
    except (RuntimeError, ValueError, KeyError, AssertionError, TypeError, AttributeError) as error:
        raise_if_full(error)
        raise ModelError(f"{path}: no exported program: {last_line(error)}") from error
    finally:
        said.setLevel(level)
    if len(takes) != len(shape) or any(
        n is not None and n != wanted for n, wanted in zip(takes, shape, strict=True)
    ):
        allowed = tuple("any" if n is None else n for n in takes)
        raise ModelError(
            f"{path}: the network takes patches of shape {allowed}, model.toml says {shape}"
        )
    return module if takes[0] is None else _OneByOne(module)


def _input_shape(program: torch.export.ExportedProgram) -> list[int | None]:
    """Return the shape of the only input, with None where any size will do."""
    [name] = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    return [n if isinstance(n, int) else None for n in node.meta["val"].shape]


def _moved(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    if device.type == "cpu":
        return module
    # Constants of the graph name the device they were exported on; weights are moved by `to`.
    graph = getattr(module, "graph", None)
    for node in () if graph is None else graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
    if isinstance(module, torch.fx.GraphModule):
        module.recompile()
    return module.to(device)


def _inspected(content: bytes, path: Path) -> bytes:
    """Return the archive with nothing in it that runs when it is loaded."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        prefix = next(iter(members), "").partition("/")[0]
        inner = {str(PurePosixPath(name).relative_to(prefix)): members[name] for name in members}
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise ModelError(f"{path}: no exported program: {error}") from error
    strange = [name for name in inner if not MEMBERS.fullmatch(name)]
    if strange or PROGRAM not in inner:
        what = f"it holds {strange[0]}" if strange else f"it has no {PROGRAM}"
        raise ModelError(f"{path}: no exported program of tensors and operators alone: {what}")
    if SAMPLES in inner:
        read_tensors(inner[SAMPLES], f"{path}: {SAMPLES}", wanted="sample inputs")
    try:
        for name in CONFIGS:
            _check_payloads(json.loads(inner.get(name, b'{"config": {}}')), path)
        program = json.loads(inner[PROGRAM])
        _check_program(program, path)
        program["guards_code"] = []  # Python source, which only says again what sizes it takes.
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(f"{path}: no exported program: {error!r}") from error
    inner[PROGRAM] = json.dumps(program).encode()
    harmless = io.BytesIO()
    with zipfile.ZipFile(harmless, "w") as archive:
        for name, member in inner.items():
            archive.writestr(f"model/{name}", member)
    return harmless.getvalue()


def _check_payloads(config: dict[str, Any], path: Path) -> None:
    for name, payload in config["config"].items():
        if payload.get("use_pickle") or not re.fullmatch(
            r"(weight|tensor)_\d+", payload["path_name"]
        ):
            raise ModelError(
                f"{path}: {name} is pickled, which could run code: not loaded; save the program "
                "anew with plain tensors"
            )


def _check_program(program: dict[str, Any], path: Path) -> None:
    for key, value in _pairs(program):
        if key == "target" and not OPERATOR.fullmatch(value):
            raise ModelError(f"{path}: operator {value!r} is none of ATen's: not loaded")
        if key == "expr_str" and not _is_plain(value):
            raise ModelError(f"{path}: the size {value!r} is no plain expression: not loaded")
        if key == "custom_obj_values" and value:
            raise ModelError(f"{path}: it holds objects other than tensors: not loaded")


def _is_plain(expression: str) -> bool:
    words = WORD.findall(expression)
    # Powers of powers would keep the reader busy for ever.
    return (
        bool(EXPRESSION.fullmatch(expression))
        and "**" not in expression
        and all(word in WORDS or SIZE_SYMBOL.fullmatch(word) for word in words)
    )


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _pairs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _pairs(inner)
