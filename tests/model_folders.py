"""Model folders of every kind, each with a small network that is made here."""

import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from osteon.pipeline.models.weights import digest_of, read_files

PATCH = (16, 48, 48)
HU_WINDOW = (-200.0, 800.0)
SPEC = """
name = "{name}"
version = "1"
kind = "{kind}"
weights = "{weights}"
sha256 = "{sha256}"
[input]
dimension = "3d"
hu_window = [-200.0, 800.0]
patch = [16, 48, 48]
[[output.segments]]
value = 1
label = "Left femur"
type = {{ value = "71341001", meaning = "Femur" }}
laterality = "left"
rgb = [255, 0, 0]
"""


@dataclass(frozen=True)
class Made:
    """A model folder, and the network in it as torch runs it."""

    folder: Path
    weights: Path
    module: Callable[[torch.Tensor], torch.Tensor]


class Bright(torch.nn.Module):
    """Class 1 where it is brighter than the middle of the window, seen through a small blur."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = torch.nn.Conv3d(1, 1, 3, padding=1, bias=False)
        self.classes = torch.nn.Conv3d(1, 2, 1)
        with torch.no_grad():
            self.blur.weight.fill_(1 / 27)
            self.classes.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1))
            self.classes.bias.copy_(torch.tensor([0.5, -0.5]))

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.classes(self.blur(patches))


def make(kind: str, root: Path, name: str | None = None) -> Made:
    """Make the folder of a model under a folder of models."""
    name = name or kind
    folder = root / name
    folder.mkdir(parents=True)
    weights, module = MAKERS[kind](folder)
    made = Made(folder, weights, module)
    write_spec(made, kind, name)
    return made


def write_spec(made: Made, kind: str, name: str, **changes: str) -> None:
    """Write the model.toml with the digest that the weights have now, and with changes."""
    sha256 = digest_of(read_files(made.weights), is_folder=made.weights.is_dir())
    text = SPEC.format(name=name, kind=kind, weights=made.weights.name, sha256=sha256)
    for old, new in changes.items():
        lines = [
            f"{old} = {new}" if line.startswith(f"{old} =") else line for line in text.splitlines()
        ]
        text = "\n".join(lines)
    (made.folder / "model.toml").write_text(text)


def scaled(hu_zyx: np.ndarray) -> torch.Tensor:
    """Return grey values as the networks take them."""
    lower, upper = HU_WINDOW
    return (torch.from_numpy(hu_zyx).float().clamp(lower, upper) - lower) / (upper - lower)


def _torchscript(folder: Path) -> tuple[Path, torch.nn.Module]:
    network, path = Bright().eval(), folder / "network.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), path)
    return path, network


def _torch_export(folder: Path) -> tuple[Path, torch.nn.Module]:
    network, path = Bright().eval(), folder / "network.pt2"
    batch = torch.export.Dim("batch", min=1, max=1024)
    example = torch.zeros(2, 1, *PATCH)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return path, network


def _onnx(folder: Path) -> tuple[Path, torch.nn.Module]:
    import onnx  # noqa: PLC0415 - slow, and needed here only
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - as above

    network, path = Bright().eval(), folder / "network.onnx"
    tensors = [
        numpy_helper.from_array(tensor.detach().numpy(), name)
        for name, tensor in network.state_dict().items()
    ]
    nodes = [
        helper.make_node("Conv", ["patch", "blur.weight"], ["blurred"], pads=[1] * 6),
        helper.make_node("Conv", ["blurred", "classes.weight", "classes.bias"], ["logits"]),
    ]
    takes = helper.make_tensor_value_info("patch", TensorProto.FLOAT, ["batch", 1, *PATCH])
    gives = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2, *PATCH])
    graph = helper.make_graph(nodes, "bright", [takes], [gives], tensors)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path, network


def _monai_bundle(folder: Path) -> tuple[Path, torch.nn.Module]:
    from monai.networks.nets import UNet  # noqa: PLC0415 - slow, and needed here only

    bundle = folder / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    arguments = {"spatial_dims": 3, "in_channels": 1, "channels": [4, 8], "strides": [2]}
    config = {
        "classes": 2,
        "network_def": {"_target_": "UNet", **arguments, "out_channels": "@classes"},
        "network": "$@network_def.to('cpu')",
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": list(PATCH)},
    }
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    (bundle / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    torch.manual_seed(0)
    network = balanced(UNet(**arguments, out_channels=2).eval())
    torch.save({"model": network.state_dict()}, bundle / "models" / "model.pt")
    return bundle, network


PLANS: dict[str, Any] = {
    "dataset_name": "Dataset999_Bones",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 300.0, "std": 250.0, "percentile_00_5": -200.0, "percentile_99_5": 800.0}
    },
    "configurations": {
        "3d_fullres": {
            "patch_size": list(PATCH),
            "spacing": [4.0, 4.0, 4.0],
            "normalization_schemes": ["CTNormalization"],
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 8,
            "n_conv_per_stage_encoder": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "num_pool_per_axis": [1, 1, 1],
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
            "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        }
    },
}
DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "femur_left": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


def nnunet_folder(trained: Path, folds: int = 2) -> torch.nn.Module:
    """Write a trained folder as nnU-Net v2 leaves it; return the mean of its networks."""
    from dynamic_network_architectures.architectures.unet import (  # noqa: PLC0415 - as above
        PlainConvUNet,
    )

    trained.mkdir(parents=True)
    (trained / "plans.json").write_text(json.dumps(PLANS))
    (trained / "dataset.json").write_text(json.dumps(DATASET))
    networks = []
    for fold in range(folds):
        torch.manual_seed(fold)
        network = PlainConvUNet(
            1, 2, [4, 8], torch.nn.Conv3d, [[3, 3, 3]] * 2, [[1, 1, 1], [2, 2, 2]], [1, 1], 2, [1],
            conv_bias=True, norm_op=torch.nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=torch.nn.LeakyReLU,
            nonlin_kwargs={"inplace": True}, deep_supervision=False,
        )  # fmt: skip
        networks.append(balanced(network.eval()))
        checkpoint = {
            "network_weights": networks[-1].state_dict(),
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
            "grad_scaler_state": {"scale": 65536.0},
            "logging": {"mean_fg_dice": [np.float32(0.5), np.float64(0.6)], "lrs": [0.01]},
            "_best_ema": np.float64(0.6),
            "current_epoch": 1,
            "init_args": {
                "plans": PLANS, "configuration": "3d_fullres", "fold": fold,
                "dataset_json": DATASET, "device": torch.device("cpu"),
            },
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }  # fmt: skip
        (trained / f"fold_{fold}").mkdir()
        torch.save(checkpoint, trained / f"fold_{fold}" / "checkpoint_final.pth")

    class Mean(torch.nn.Module):
        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            return torch.stack([network(patches) for network in networks]).mean(0)

    return Mean()


def _nnunet(folder: Path) -> tuple[Path, torch.nn.Module]:
    trained = folder / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    return trained, nnunet_folder(trained)


def balanced(network: torch.nn.Module) -> torch.nn.Module:
    """Shift the bias of the last layer so that about half of a test image is class 1."""
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in PATCH), indexing="ij")
    image = ((z**2 + y**2 + x**2) < 0.8).float()[None, None]
    with torch.no_grad():
        logits = network(image)[0]
        shift = (logits[1] - logits[0]).median()
        biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
        next(bias for bias in reversed(biases) if bias.shape == (2,))[1] -= shift
    return network


MAKERS: dict[str, Callable[[Path], tuple[Path, Any]]] = {
    "torchscript": _torchscript,
    "torch-export": _torch_export,
    "onnx": _onnx,
    "monai-bundle": _monai_bundle,
    "nnunet": _nnunet,
}
KINDS = tuple(MAKERS)


class Canary:
    """A pickle of it makes a file when it is opened by anything that runs what it says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def spoil(made: Made, kind: str, canary: Path) -> None:
    """Put a pickle with code where the kind's weights are, and let model.toml vouch for it."""
    if kind == "monai-bundle":
        torch.save({"model": Canary(canary)}, made.weights / "models" / "model.pt")
    elif kind == "nnunet":
        path = made.weights / "fold_0" / "checkpoint_final.pth"
        torch.save({"network_weights": Canary(canary)}, path)
    elif kind == "torch-export":
        _spoil_program(made.weights, canary)
    else:
        torch.save({"weights": Canary(canary)}, made.weights)
    write_spec(made, kind, made.folder.name)


def _spoil_program(path: Path, canary: Path) -> None:
    """Replace the sample inputs, which torch.export.load would open without care."""
    spoiled = path.with_suffix(".spoiled")
    torch.save(Canary(canary), spoiled)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    sample = next(name for name in members if name.endswith("sample_inputs/model.pt"))
    members[sample] = spoiled.read_bytes()
    spoiled.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
