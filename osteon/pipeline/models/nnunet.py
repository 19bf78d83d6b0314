"""Models of the kind ``nnunet``: a trained nnU-Net v2 folder, as TotalSegmentator's are.

A `ModelSpec` and its folder enter, a `Network` leaves: the mean of all folds that are there. Called
by `osteon.pipeline.models.model`; it needs the extra ``osteon[nnunet]``.

The folder is nnU-Net's ``TRAINER__PLANS__CONFIGURATION``: ``dataset.json``, ``plans.json`` and
``fold_X/checkpoint_final.pth``. Of the checkpoint only tensors, plain values and NumPy scalars are
read. Grid, grey values and patch stand in ``model.toml``, where ``osteon models init`` puts them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures import unet

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
from osteon.pipeline.models.weights import Files, load_state, read_tensors, read_weights

DATASET, PLANS = "dataset.json", "plans.json"
CHECKPOINT = re.compile(r"fold_(\d+|all)/checkpoint_final\.pth")
ARCHITECTURES = ("PlainConvUNet", "ResidualEncoderUNet")
LAYERS = frozenset(
    f"{layer}{axes}d"
    for layer in ("Conv", "InstanceNorm", "BatchNorm", "Dropout")
    for axes in (2, 3)
) | {"LeakyReLU", "ReLU", "GELU", "ELU", "SiLU"}
# Losses and their averages stand in a checkpoint as NumPy scalars; NumPy 1 named their maker so.
_scalar = np._core.multiarray.scalar  # type: ignore[attr-defined] # noqa: SLF001 - pickles name it
SAFE = (
    np.dtype,
    _scalar,
    (_scalar, "numpy.core.multiarray.scalar"),
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
)


@dataclass(frozen=True)
class Trained:
    """What a trained folder says of itself.

    Attributes
    ----------
    configuration : dict
        The configuration of ``plans.json`` that was trained, its inheritance resolved.
    plans, dataset : dict
        ``plans.json`` and ``dataset.json``.
    checkpoints : dict
        Fold → what its checkpoint holds.
    """

    configuration: Mapping[str, Any]
    plans: Mapping[str, Any]
    dataset: Mapping[str, Any]
    checkpoints: Mapping[str, Mapping[str, Any]]

    @property
    def labels(self) -> dict[str, int]:
        """Name → value of the labels that the network has a class for, background included."""
        return {
            name: int(value) for name, value in self.dataset["labels"].items() if name != "ignore"
        }


def load(spec: ModelSpec, folder: Path) -> Network:
    """Load the networks of a model folder.

    Raises
    ------
    ModelError
        The folder is missing, does not have the stated digest, lacks a file, holds code, or is of a
        network that is not built here.
    """
    assert spec.weights is not None
    path = folder / spec.weights
    trained = read_trained(read_weights(path, str(spec.sha256)), path)
    device = default_device()
    networks: list[Network] = []
    for fold, checkpoint in trained.checkpoints.items():
        module = _built(trained, path)
        load_state(module, checkpoint["network_weights"], path / fold)
        networks.append(TorchNetwork(ready(module, spec.run), spec.name, spec.run, device))
    return averaged(networks, spec.run.mirror)


def read_trained(files: Files, path: Path) -> Trained:
    """Read a trained folder.

    Raises
    ------
    ModelError
        A file is missing or damaged, or it is of a kind that is not run here: a cascade, regions,
        more than one channel.
    """
    missing = [name for name in (DATASET, PLANS) if name not in files]
    folds = sorted(name for name in files if CHECKPOINT.fullmatch(name))
    if missing or not folds:
        what = missing[0] if missing else "fold_0/checkpoint_final.pth"
        raise ModelError(f"{path}: no trained nnU-Net v2 folder: {what} is missing")
    try:
        plans, dataset = json.loads(files[PLANS]), json.loads(files[DATASET])
        checkpoints = {
            name.partition("/")[0]: read_tensors(files[name], str(path / name), SAFE)
            for name in folds
        }
        first = next(iter(checkpoints.values()))
        name = first["init_args"]["configuration"]
        trained = Trained(_configuration(plans, name), plans, dataset, checkpoints)
        _check(trained, path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: no trained nnU-Net v2 folder: {error!r}") from error
    return trained


def _configuration(plans: Mapping[str, Any], name: str, depth: int = 0) -> dict[str, Any]:
    found = dict(plans["configurations"][name])
    parent = found.pop("inherits_from", None)
    if parent is None:
        return found
    if depth > len(plans["configurations"]):
        raise ValueError(f"configuration {name} inherits from itself")
    return _configuration(plans, parent, depth + 1) | found


def _check(trained: Trained, path: Path) -> None:
    if trained.configuration.get("previous_stage"):
        raise ModelError(
            f"{path}: the second stage of a cascade, which is not run: take 3d_fullres or 3d_lowres"
        )
    channels = trained.dataset.get("channel_names") or trained.dataset["modality"]
    if len(channels) != 1:
        raise ModelError(f"{path}: takes {len(channels)} channels; a CT is one")
    if any(not isinstance(value, int) for value in trained.dataset["labels"].values()):
        raise ModelError(f"{path}: predicts regions that overlap, which a label map cannot hold")
    if trained.dataset["labels"].get("background") != 0:
        raise ModelError(f"{path}: its dataset.json has no background of value 0")


def _built(trained: Trained, path: Path) -> torch.nn.Module:
    try:
        name, arguments = _architecture(trained.configuration)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: the architecture in {PLANS}: {error}") from error
    if name not in ARCHITECTURES:
        raise ModelError(
            f"{path}: architecture {name!r}; built here are {' and '.join(ARCHITECTURES)}"
        )
    try:
        network: torch.nn.Module = getattr(unet, name)(
            input_channels=1, num_classes=len(trained.labels), deep_supervision=False, **arguments
        )
    except (TypeError, ValueError, AssertionError, RuntimeError, IndexError) as error:
        raise_if_full(error)
        raise ModelError(f"{path}: {name} cannot be built: {last_line(error)}") from error
    return network


def _architecture(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the class and its arguments, of plans of today or of before nnU-Net 2.4."""
    if "architecture" not in configuration:
        return _old_architecture(configuration)
    architecture = configuration["architecture"]
    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments.get(key) is not None:
            arguments[key] = _layer(arguments[key])
    return str(architecture["network_class_name"]).rpartition(".")[2], arguments


def _old_architecture(configuration: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name = str(configuration["UNet_class_name"])
    blocks = list(configuration["n_conv_per_stage_encoder"])
    axes = len(configuration["patch_size"])
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return name, {
        "n_stages": len(blocks),
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(blocks))],
        "conv_op": _layer(f"torch.nn.Conv{axes}d"),
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage": blocks,
        "n_conv_per_stage_decoder": list(configuration["n_conv_per_stage_decoder"]),
        "conv_bias": True,
        "norm_op": _layer(f"torch.nn.InstanceNorm{axes}d"),
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


def _layer(path: str) -> Any:
    """Return a layer's class by its path, one of a list: plans can name anything."""
    package, _, name = path.rpartition(".")
    if not (package == "torch.nn" or package.startswith("torch.nn.modules.")) or name not in LAYERS:
        raise ValueError(f"{path} is no layer that is built here")
    return getattr(torch.nn, name)
