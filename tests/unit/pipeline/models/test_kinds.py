"""Every kind of model: it loads and runs as torch runs it, and what is wrong is refused."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from osteon.errors import ModelError
from osteon.pipeline.models.model import load_model
from osteon.pipeline.prediction import predict_slices
from tests.model_folders import KINDS, PATCH, Canary, make, nnunet_folder, scaled, spoil, write_spec

inferers = pytest.importorskip("monai.inferers", reason="the extras are not installed")


def hu_of(shape: tuple[int, int, int] = (20, 60, 70)) -> np.ndarray:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    noise = np.random.default_rng(0).normal(0, 60, shape)
    return (np.where(z**2 + y**2 + x**2 < 0.8, 700, -100) + noise).astype(np.int16)


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_labels_that_torch_gives(kind: str, tmp_path: Path) -> None:
    made, hu = make(kind, tmp_path), hu_of()
    model = load_model(kind, tmp_path)
    with torch.inference_mode():
        logits = inferers.sliding_window_inference(
            scaled(hu)[None, None], PATCH, 1, made.module, overlap=0.5, mode="gaussian"
        )[0]
    found = predict_slices(model, hu, np.eye(4))
    clear = (logits[0] - logits[1]).abs().numpy() > 1e-4
    assert 0.05 < found.mean() < 0.95
    assert np.array_equal(found[clear], logits.argmax(0).numpy()[clear])
    assert (model.kind, model.dimension, model.segments[0].label) == (kind, "3d", "Left femur")


@pytest.mark.parametrize("kind", KINDS)
def test_another_digest_is_refused(kind: str, tmp_path: Path) -> None:
    made = make(kind, tmp_path)
    write_spec(made, kind, kind, sha256=f'"{"0" * 64}"')
    with pytest.raises(ModelError, match=r"sha256 is [0-9a-f]{64}, model.toml says 0{64}"):
        load_model(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_of_another_shape_is_refused(kind: str, tmp_path: Path) -> None:
    made = make(kind, tmp_path)
    write_spec(made, kind, kind, dimension='"2.5d"\nneighbours = 1', patch="[48, 48]")
    with pytest.raises(ModelError, match=r"the network (takes|does not (take|return))"):
        predict_slices(load_model(kind, tmp_path), hu_of(), np.eye(4))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(kind: str, tmp_path: Path) -> None:
    made, canary = make(kind, tmp_path), tmp_path / "canary"
    spoil(made, kind, canary)
    with pytest.raises(ModelError, match=r"which could run code: not loaded|no (ONNX|TorchScript)"):
        load_model(kind, tmp_path)
    assert not canary.exists()


def test_the_canary_sings_where_pickles_are_opened(tmp_path: Path) -> None:
    torch.save(Canary(tmp_path / "canary"), tmp_path / "pickle")
    torch.load(tmp_path / "pickle", weights_only=False)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["monai-bundle", "nnunet"])
def test_of_a_folder_every_file_counts(kind: str, tmp_path: Path) -> None:
    made = make(kind, tmp_path)
    (made.weights / "one_more.txt").write_text("")
    with pytest.raises(ModelError, match="sha256 is"):
        load_model(kind, tmp_path)
    (made.weights / "one_more.txt").unlink()
    (made.weights / "link").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match="link is a link"):
        load_model(kind, tmp_path)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            "$__import__('pathlib').Path('canary').touch()",
            "is an expression, and none is evaluated",
        ),
        ("%other.json::x", "is an expression"),
        ("@nothing", "refers to nothing"),
        ("@again", "round in a circle"),
        ({"_target_": "os.system", "command": "touch canary"}, "inside of another object"),
    ],
)
def test_nothing_of_a_bundle_is_evaluated(
    value: object, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = make("monai-bundle", tmp_path)
    path = made.weights / "configs" / "inference.json"
    config = json.loads(path.read_text()) | {"again": "@again"}
    config["network_def"]["out_channels"] = value
    path.write_text(json.dumps(config))
    write_spec(made, "monai-bundle", "monai-bundle")
    with pytest.raises(ModelError, match=says):
        load_model("monai-bundle", tmp_path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_target_": "subprocess.Popen"}, r"'subprocess.Popen' is no network of"),
        ({"_target_": "monai.networks.nets.unet.UNet"}, "is no network of"),
        ({"_target_": "np"}, "is no network of"),
        ({"channels": [4, 16]}, "not of this network"),
        ({"size": 3}, "cannot be made"),
    ],
)
def test_a_bundle_names_a_network_of_monai_and_its_weights(
    change: dict[str, object], says: str, tmp_path: Path
) -> None:
    made = make("monai-bundle", tmp_path)
    path = made.weights / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"] |= change
    path.write_text(json.dumps(config))
    write_spec(made, "monai-bundle", "monai-bundle")
    with pytest.raises(ModelError, match=says):
        load_model("monai-bundle", tmp_path)


def test_a_bundle_may_hold_safetensors_or_a_script_instead(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="the extras are not installed")
    made, hu = make("monai-bundle", tmp_path), hu_of()
    wanted = predict_slices(load_model("monai-bundle", tmp_path), hu, np.eye(4))
    models = made.weights / "models"
    safetensors.save_file(made.module.state_dict(), models / "model.safetensors")
    (models / "model.pt").unlink()
    write_spec(made, "monai-bundle", "monai-bundle")
    again = predict_slices(load_model("monai-bundle", tmp_path), hu, np.eye(4))
    assert np.array_equal(again, wanted)
    script = make("torchscript", tmp_path).weights
    (models / "model.ts").write_bytes(script.read_bytes())
    write_spec(made, "monai-bundle", "monai-bundle")
    assert predict_slices(load_model("monai-bundle", tmp_path), hu, np.eye(4)).any()


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("plans.json", {"configurations": {}}, "KeyError"),
        ("dataset.json", {"labels": {"background": 0, "a": [1, 2]}}, "regions that overlap"),
        ("dataset.json", {"labels": {"bone": 0, "femur": 1}}, "no background"),
        ("dataset.json", {"channel_names": {"0": "CT", "1": "PET"}}, "takes 2 channels"),
        ("dataset.json", {"labels": {"background": 0, "a": 1, "b": 2}}, "not of this network"),
    ],
)
def test_what_an_nnunet_folder_cannot_be_is_said(
    file: str, change: dict[str, object], says: str, tmp_path: Path
) -> None:
    made = make("nnunet", tmp_path)
    path = made.weights / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    write_spec(made, "nnunet", "nnunet")
    with pytest.raises(ModelError, match=says):
        load_model("nnunet", tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"previous_stage": "3d_lowres"}, "second stage of a cascade"),
        ({"UNet_class_name": "PrimusM"}, "architecture 'PrimusM'"),
        ({"inherits_from": "3d_fullres"}, "inherits from itself"),
    ],
)
def test_a_configuration_that_is_not_run_is_refused(
    changes: dict[str, str], says: str, tmp_path: Path
) -> None:
    made = make("nnunet", tmp_path)
    path = made.weights / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"] |= changes
    path.write_text(json.dumps(plans))
    write_spec(made, "nnunet", "nnunet")
    with pytest.raises(ModelError, match=says):
        load_model("nnunet", tmp_path)


def test_plans_of_today_describe_the_same_network(tmp_path: Path) -> None:
    made, hu = make("nnunet", tmp_path), hu_of()
    wanted = predict_slices(load_model("nnunet", tmp_path), hu, np.eye(4))
    path = made.weights / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"]["architecture"] = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2, "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d", "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1], "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None,
            "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }  # fmt: skip
    path.write_text(json.dumps(plans))
    write_spec(made, "nnunet", "nnunet")
    assert np.array_equal(predict_slices(load_model("nnunet", tmp_path), hu, np.eye(4)), wanted)
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["arch_kwargs"]["conv_op"] = "os.system"
    path.write_text(json.dumps(plans))
    write_spec(made, "nnunet", "nnunet")
    with pytest.raises(ModelError, match=r"os\.system is no layer"):
        load_model("nnunet", tmp_path)


def test_folds_are_averaged(tmp_path: Path) -> None:
    single = make("nnunet", tmp_path, "single")
    (single.weights / "fold_1" / "checkpoint_final.pth").unlink()
    write_spec(single, "nnunet", "single")
    make("nnunet", tmp_path)
    hu = hu_of()
    one, two = (
        predict_slices(load_model(n, tmp_path), hu, np.eye(4)) for n in ("single", "nnunet")
    )
    assert not np.array_equal(one, two)
    nnunet_folder(tmp_path / "unused")


def rewritten(path: Path, **members: bytes) -> None:
    """Put other members into an exported program."""
    with zipfile.ZipFile(path) as archive:
        old = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in old.items():
            inner = name.partition("/")[2]
            archive.writestr(name, members.pop(inner, content))
        prefix = next(iter(old)).partition("/")[0]
        for inner, content in members.items():
            archive.writestr(f"{prefix}/{inner}", content)


def program_of(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
        return archive.read(name).decode()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("torch.ops.aten.conv3d.default", "torch.hub.load", "operator 'torch.hub.load'"),
        ("torch.ops.aten.conv3d.default", "torch.ops.mine.run.default", "none of ATen's"),
        (
            "Symbol('s",
            "__import__('os').system('touch canary') or Symbol('s",
            "no plain expression",
        ),
        ("Symbol('s", "9**9**9**9**9 + Symbol('s", "no plain expression"),
    ],
)
def test_a_program_names_operators_and_sizes_alone(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    made = make("torch-export", tmp_path)
    text = program_of(made.weights)
    assert old in text
    rewritten(made.weights, **{"models/model.json": text.replace(old, new).encode()})
    write_spec(made, "torch-export", "torch-export")
    with pytest.raises(ModelError, match=says):
        load_model("torch-export", tmp_path)


@pytest.mark.parametrize(
    ("member", "content", "says"),
    [
        ("data/aotinductor/model/a.so", b"", "it holds data/aotinductor"),
        ("extra/notes.txt", b"", "it holds extra/notes.txt"),
        (
            "data/weights/model_weights_config.json",
            b'{"config": {"w": {"path_name": "weight_0", "use_pickle": true}}}',
            "w is pickled",
        ),
        (
            "data/constants/model_constants_config.json",
            b'{"config": {"c": {"path_name": "opaque_obj_0", "use_pickle": false}}}',
            "c is pickled",
        ),
    ],
)
def test_a_program_holds_tensors_alone(
    member: str, content: bytes, says: str, tmp_path: Path
) -> None:
    made = make("torch-export", tmp_path)
    rewritten(made.weights, **{member: content})
    write_spec(made, "torch-export", "torch-export")
    with pytest.raises(ModelError, match=says):
        load_model("torch-export", tmp_path)


def test_guards_of_a_program_are_not_run(tmp_path: Path) -> None:
    made = make("torch-export", tmp_path)
    program = json.loads(program_of(made.weights))
    program["guards_code"] = [f"__import__('pathlib').Path({str(tmp_path / 'canary')!r}).touch()"]
    rewritten(made.weights, **{"models/model.json": json.dumps(program).encode()})
    write_spec(made, "torch-export", "torch-export")
    predict_slices(load_model("torch-export", tmp_path), hu_of(), np.eye(4))
    assert not (tmp_path / "canary").exists()


def test_a_program_for_one_patch_at_a_time_is_given_one(tmp_path: Path) -> None:
    made = make("torch-export", tmp_path)
    program = torch.export.export(made.module, (torch.zeros(1, 1, *PATCH),))
    torch.export.save(program, made.weights)
    write_spec(made, "torch-export", "torch-export")
    network = load_model("torch-export", tmp_path).network
    assert network(torch.zeros(3, 1, *PATCH)).shape == (3, 2, *PATCH)


@pytest.mark.parametrize("kind", ["onnx", "torch-export"])
def test_a_patch_that_the_file_forbids_is_refused_when_it_is_loaded(
    kind: str, tmp_path: Path
) -> None:
    made = make(kind, tmp_path)
    write_spec(made, kind, kind, patch="[16, 48, 40]")
    with pytest.raises(
        ModelError, match=r"the network takes .* model.toml says .*\(1, 1, 16, 48, 40\)"
    ):
        load_model(kind, tmp_path)
