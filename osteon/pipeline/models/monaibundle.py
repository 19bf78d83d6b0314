"""Models of the kind ``monai-bundle``: a MONAI bundle, of which no expression is evaluated.

A `ModelSpec` and its folder enter, a `Network` leaves. Called by `osteon.pipeline.models.model`.

A bundle's configuration is a program: strings that begin with ``$`` are Python. Read here is what
is declarative: a TorchScript in ``models/model.ts``; or else class and arguments of ``network_def``
in ``configs/inference.json``, with references such as ``@channels`` to plain values of that file,
and the state dict in ``models/model.safetensors`` or ``models/model.pt``. The class is one of
``monai.networks.nets``, for which the extra ``osteon[monai]`` is needed.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

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
from osteon.pipeline.models.torchscript import script_of
from osteon.pipeline.models.weights import Files, load_state, read_tensors, read_weights

CONFIG = "configs/inference.json"
SCRIPT = "models/model.ts"
STATE_DICTS = ("models/model.safetensors", "models/model.pt")
NETS = "monai.networks.nets"
# Where training scripts put the network's state dict beside that of the optimizer.
STATE_KEYS = ("model", "state_dict", "network", "net")
DEPTH_MAX = 16


def load(spec: ModelSpec, folder: Path) -> Network:
    """Load the network of a model folder.

    Raises
    ------
    ModelError
        The bundle is missing, does not have the stated digest, lacks a file, or its network is not
        described without expressions.
    """
    assert spec.weights is not None
    path = folder / spec.weights
    files = read_weights(path, str(spec.sha256))
    device = default_device()
    if SCRIPT in files:
        module = script_of(files[SCRIPT], path / SCRIPT, device)
    else:
        module = _built(_network_definition(files, path), path)
        _load_state(module, files, path)
    network = TorchNetwork(ready(module, spec.run), spec.name, spec.run, device)
    return averaged([network], spec.run.mirror)


def read_config(files: Files, path: Path) -> dict[str, Any]:
    """Return the bundle's inference configuration, as it is written.

    Raises
    ------
    ModelError
        There is none, or it is no JSON object.
    """
    if CONFIG not in files:
        raise ModelError(f"{path}: no MONAI bundle: {CONFIG} is missing")
    try:
        config = json.loads(files[CONFIG])
    except ValueError as error:
        raise ModelError(f"{path / CONFIG}: no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path / CONFIG}: no JSON object")
    return config


def plain(value: Any, config: Mapping[str, Any], path: Path, depth: int = 0) -> Any:
    """Return a value of a configuration with its references resolved.

    Parameters
    ----------
    value : object
        As it stands in the JSON, ``"@key"`` for a reference.
    config : mapping
        The configuration that references are looked up in.
    path : Path
        The bundle, for messages.
    depth : int
        How many references and containers it lies in.

    Raises
    ------
    ModelError
        It is an expression or a macro, or refers to nothing, to itself or to an object.
    """
    if depth > DEPTH_MAX:
        raise ModelError(f"{path / CONFIG}: references go round in a circle")
    if isinstance(value, str) and value[:1] in {"$", "%"}:
        raise ModelError(
            f"{path / CONFIG}: {value!r} is an expression, and none is evaluated here: "
            "write its value there"
        )
    if isinstance(value, str) and value.startswith("@"):
        return plain(_referred(value, config, path), config, path, depth + 1)
    if isinstance(value, dict):
        if depth > 0 and "_target_" in value:
            raise ModelError(
                f"{path / CONFIG}: {value['_target_']!r} would be made inside of another object: "
                "only the network itself is"
            )
        return {key: plain(inner, config, path, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner, config, path, depth + 1) for inner in value]
    return value


def _referred(reference: str, config: Mapping[str, Any], path: Path) -> Any:
    value: Any = config
    for part in reference[1:].replace("#", "::").split("::"):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise ModelError(f"{path / CONFIG}: {reference!r} refers to nothing")
    return value


def _network_definition(files: Files, path: Path) -> dict[str, Any]:
    config = read_config(files, path)
    for key in ("network_def", "network"):
        if isinstance(config.get(key), dict):
            definition: dict[str, Any] = plain(config[key], config, path)
            return definition
    raise ModelError(
        f"{path / CONFIG}: no network_def with a _target_, and no {SCRIPT} beside it: "
        "export the network to TorchScript, or describe it"
    )


def _built(definition: dict[str, Any], path: Path) -> torch.nn.Module:
    arguments = {key: value for key, value in definition.items() if not key.startswith("_")}
    target = str(definition.get("_target_", ""))
    name = target.removeprefix(NETS + ".")
    kind = None if "." in name else getattr(import_module(NETS), name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise ModelError(f"{path / CONFIG}: {target!r} is no network of {NETS}")
    if arguments.get("pretrained"):
        raise ModelError(f"{path / CONFIG}: pretrained = true would download weights")
    try:
        return kind(**arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise_if_full(error)
        raise ModelError(f"{path / CONFIG}: {target} cannot be made: {last_line(error)}") from error


def _load_state(module: torch.nn.Module, files: Files, path: Path) -> None:
    name = next((name for name in STATE_DICTS if name in files), None)
    if name is None:
        raise ModelError(f"{path}: neither {SCRIPT} nor one of {', '.join(STATE_DICTS)}")
    state = read_tensors(files[name], str(path / name))
    load_state(module, _inner(state), path / name)


def _inner(state: Any) -> Any:
    for key in STATE_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            return state[key]
    return state
