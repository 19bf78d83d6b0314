"""``osteon models``: a folder made from weights, shown, listed and run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from osteon.cli import models as cli_models
from osteon.cli.main import cli
from osteon.pipeline.models import tuning
from osteon.pipeline.models.model import LOADERS
from osteon.pipeline.models.modeldraft import draft_of
from osteon.pipeline.models.modelspec import read_spec
from tests.model_folders import KINDS, make

pytest.importorskip("monai", reason="the extras are not installed")


def osteon(*args: object) -> Result:
    return CliRunner().invoke(cli, ["models", *(str(arg) for arg in args)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_made_from_weights_and_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTEON_PIPELINE__MODELS_DIR", str(tmp_path / "models"))
    weights = make(kind, tmp_path / "made").weights
    options = () if kind == "nnunet" else ("--patch", "16,48,48", "--segment", "1=femur_left")
    made = osteon("init", "mine", "--kind", kind, "--weights", weights, *options)
    assert made.exit_code == 0, made.output
    assert "osteon models verify mine" in made.output
    [segment] = read_spec(tmp_path / "models" / "mine").output.segments
    assert (segment.label, segment.type.value, segment.laterality) == (
        "Femur left",
        "71341001",
        "left",
    )
    ran = osteon("verify", "mine", "--json")
    assert ran.exit_code == 0, ran.output
    facts = json.loads(ran.output)
    assert facts["classes"] == 2
    assert facts["windows"] > 1
    assert facts["values"] == [1]
    assert facts["memory_peak_mb"] > 0
    assert "mine" in osteon("list").output
    assert "Femur (SCT 71341001)" in osteon("show", "mine").output


def test_what_an_nnunet_folder_says_is_taken_over(tmp_path: Path) -> None:
    weights = make("nnunet", tmp_path / "made").weights
    (weights / "progress.png").write_bytes(b"large and of no use")
    osteon("init", "nn", "--kind", "nnunet", "--weights", weights, "--into", tmp_path / "models")
    spec = read_spec(tmp_path / "models" / "nn").input
    assert spec.patch == (16, 48, 48)
    assert spec.spacing_mm == (4.0, 4.0, 4.0)
    assert spec.orientation == "RAS"
    assert spec.zscore.clip_hu == (-200.0, 800.0)
    assert (spec.zscore.mean_hu, spec.zscore.std_hu) == (300.0, 250.0)
    assert not (tmp_path / "models" / "nn" / weights.name / "progress.png").exists()


def test_what_a_bundle_says_is_taken_over(tmp_path: Path) -> None:
    weights = make("monai-bundle", tmp_path / "made").weights
    path = weights / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["preprocessing"] = {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0]},
            {"_target_": "ScaleIntensityRanged", "a_min": -57, "a_max": 164, "clip": True},
        ],
    }
    path.write_text(json.dumps(config))
    classes = {"0": "background", "1": "spleen"}
    metadata = {"network_data_format": {"outputs": {"pred": {"channel_def": classes}}}}
    (weights / "configs" / "metadata.json").write_text(json.dumps(metadata))
    osteon("init", "mb", "--kind", "monai-bundle", "--weights", weights, "--into", tmp_path)
    spec = read_spec(tmp_path / "mb")
    assert (spec.input.orientation, spec.input.spacing_mm) == ("SAR", (1.5, 1.5, 2.0))
    assert spec.input.hu_window == (-57.0, 164.0)
    assert spec.output.segments[0].type.meaning == "Spleen"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (
            ["--kind", "onnx", "--weights", "none.onnx", "--into", "m"],
            8,
            "none.onnx: cannot be read",
        ),
        (["--kind", "onnx", "--weights", "here"], 2, "set pipeline.models_dir or give --into"),
        (
            ["--kind", "nnunet", "--weights", "here", "--into", "m"],
            8,
            "no trained nnU-Net v2 folder",
        ),
        (["--kind", "onnx", "--weights", "here", "--into", "m", "--patch", "a"], 2, "no list of"),
        (["--kind", "onnx", "--weights", "here", "--into", "m", "--patch", "9"], 8, "patch has 1"),
        (["--kind", "onnx", "--weights", "here", "--into", "m", "--segment", "x"], 2, "VALUE=NAME"),
        (
            ["--kind", "onnx", "--weights", "here", "--into", "m", "--segment", "0=bg"],
            2,
            "a class is 1 to 255; 0 is background",
        ),
        (["--kind", "onnx", "--weights", "here", "--into", "m", "--window", "0,inf"], 2, "end"),
        (
            ["--kind", "onnx", "--weights", ".", "--into", "m"],
            8,
            "is a folder: weights of the kind",
        ),
        (["--kind", "torchscript", "--weights", "here", "--into", "m"], 8, "is not torchscript, n"),
        (
            ["--kind", "onnx", "--weights", "here", "--into", "m", "--patch", "32.5,32,32"],
            2,
            "no list of whole numbers",
        ),
        (
            [
                "--kind",
                "onnx",
                "--weights",
                "here",
                "--into",
                "m",
                "--segment",
                "1=a",
                "--segment",
                "1=b",
            ],
            2,
            "segment 1 is both 'a' and 'b'",
        ),
    ],
)
def test_what_cannot_be_made_leaves_nothing(
    args: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_bytes(b"\x08")
    result = osteon("init", "mine", *args)
    assert (result.exit_code, says in result.stderr) == (code, True), result.stderr
    assert not (tmp_path / "m" / "mine").exists()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "../b", ".b", "builtin:b", "b" * 65, "b\n"])
def test_a_name_that_no_model_can_have_leaves_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"x")
    folder = tmp_path / "models"
    result = osteon(
        "init", name, "--kind", "onnx", "--weights", tmp_path / "here", "--into", folder
    )
    assert (result.exit_code, "is no name of a model" in result.stderr) == (8, True), result.stderr
    assert not folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_weights_of_another_kind_are_named_before_a_folder_is_made(tmp_path: Path) -> None:
    script = make("torchscript", tmp_path / "made").weights
    program = make("torch-export", tmp_path / "made").weights
    tensors, old = tmp_path / "state.pth", tmp_path / "old.pth"
    torch.save({"weight": torch.zeros(1)}, tensors)
    torch.save({"weight": torch.zeros(1)}, old, _use_new_zipfile_serialization=False)
    text = tmp_path / "config.toml"
    text.write_text("data_dir = 1")
    for kind, weights, says in (
        ("torch-export", script, "is of the kind torchscript, not torch-export"),
        ("torchscript", program, "is of the kind torch-export, not torchscript"),
        ("onnx", script, "give --kind torchscript"),
        ("torchscript", tensors, "is what torch.save writes"),
        ("onnx", old, "save the network itself"),
        ("onnx", text, "does not begin as an ONNX model does"),
    ):
        result = osteon(
            "init", "m", "--kind", kind, "--weights", weights, "--into", tmp_path / "models"
        )
        assert (result.exit_code, says in result.stderr) == (8, True), result.stderr
        assert not (tmp_path / "models").exists()


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    weights = make("torchscript", tmp_path / "made").weights
    args = ("init", "mine", "--kind", "torchscript", "--weights", weights, "--into", tmp_path)
    assert osteon(*args).exit_code == 0
    before = (tmp_path / "mine" / "model.toml").read_text()
    again = osteon(*args, "--patch", "32,32,32")
    assert (again.exit_code, "is there already" in again.stderr) == (8, True)
    assert (tmp_path / "mine" / "model.toml").read_text() == before


SETUP = """
from setuptools import setup
setup(name="someones-model", version="1", py_modules=["someones_model"],
      entry_points={"osteon.models": ["someones = someones_model:Someones"]})
"""
MODULE = "from osteon.pipeline.bones.bone import BoneModel as Someones\n"


def bundle(folder: Path, config: dict[str, object]) -> Path:
    """Write a bundle that says this of its inference."""
    path = folder / "bundle" / "configs" / "inference.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(config))
    return folder / "bundle"


def test_one_number_of_a_bundle_is_meant_for_each_axis(tmp_path: Path) -> None:
    said = {
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": 96},
        "preprocessing": [{"_target_": "Spacingd", "pixdim": 1.5}],
    }
    draft = draft_of("monai-bundle", bundle(tmp_path, said))
    assert (draft.dimension, draft.patch) == ("3d", (96, 96, 96))
    assert draft.spacing_mm == (1.5, 1.5, 1.5)


@pytest.mark.parametrize(
    "said",
    [
        {"_target_": "SlidingWindowInferer", "roi_size": ["wide", 96]},
        {"_target_": "Spacingd", "pixdim": {"x": 1.0}},
        {"_target_": "ScaleIntensityRanged", "a_min": "air"},
        {"_target_": "Orientationd", "axcodes": 5},
    ],
)
def test_what_is_not_understood_of_a_bundle_leaves_nothing(
    said: dict[str, object], tmp_path: Path
) -> None:
    weights = bundle(tmp_path, {"part": said})
    result = osteon(
        "init", "mb", "--kind", "monai-bundle", "--weights", weights, "--into", tmp_path
    )
    assert result.exit_code == 8, result.stderr
    assert "what it says of itself is not understood" in result.stderr
    assert not (tmp_path / "mb").exists()


def test_a_package_that_is_really_installed_brings_a_model(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text(SETUP)
    (tmp_path / "someones_model.py").write_text(MODULE)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "--no-index", "--target", str(site), str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    for command, says in (("verify someones", "loads and runs"), ("list", "someones")):
        ran = subprocess.run(
            [sys.executable, "-m", "osteon.cli.main", "models", *command.split()],
            env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        assert says in ran.stdout


def test_the_kinds_of_the_command_are_those_that_load() -> None:
    assert set(cli_models.KINDS) == set(LOADERS) == set(KINDS)


def test_a_broken_folder_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSTEON_PIPELINE__MODELS_DIR", str(tmp_path))
    for name in ("broken", "bad", "good"):
        make("torchscript", tmp_path, name)
    (tmp_path / "broken" / "model.toml").write_text("name = ")
    (tmp_path / "bad" / "model.toml").write_text('name = "bad"')
    listed = osteon("list")
    assert listed.exit_code == 8
    assert "good " in listed.stdout
    for name in ("broken", "bad"):
        assert f"osteon: {tmp_path / name}/model.toml: " in listed.stderr
    assert osteon("show", "good").exit_code == 0
    assert osteon("verify", "good").exit_code == 0
    nobody = osteon("show", "nobody")
    assert (nobody.exit_code, "known: builtin:bone, good" in nobody.stderr) == (8, True)


def test_very_many_values_are_summed_up() -> None:
    """The built-in model gives evidence, not labels."""
    shown = osteon("verify", "builtin:bone")
    assert shown.exit_code == 0, shown.output
    values = json.loads(osteon("verify", "builtin:bone", "--json").output)["values"]
    assert len(values) > cli_models.VALUES_SHOWN
    assert f"{len(values)}, from {values[0]} to {values[-1]}" in shown.output


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "onnx"])
def test_tuning_measures_what_this_machine_can(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTEON_PIPELINE__MODELS_DIR", str(tmp_path))
    toml = make(kind, tmp_path).folder / "model.toml"
    before = toml.read_text()
    ran = osteon("verify", kind, "--tune", "--limit", "1")
    assert ran.exit_code == 0, ran.output
    assert "float32    no " in ran.output
    assert "best" in ran.output
    assert toml.read_text() == before


def test_what_was_found_best_is_written_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTEON_PIPELINE__MODELS_DIR", str(tmp_path))
    toml = make("torchscript", tmp_path).folder / "model.toml"
    # Which one is best is the machine's affair; whichever it is, it can be written.
    monkeypatch.setattr(tuning, "_decided", lambda rows, _now, batch: tuned_of(rows, batch))
    ran = osteon("verify", "torchscript", "--tune", "--limit", "1", "--write", "--json")
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.output)["tuning"]
    assert found["run"] == {"precision": "bfloat16", "channels_last": True}
    assert [row["precision"] for row in found["measured"]][::2] == ["float32", "bfloat16"]
    assert found["written"]
    assert read_spec(toml.parent).run.precision == "bfloat16"
    again = osteon("verify", "torchscript", "--json")
    assert json.loads(again.output)["values"] == [1]


def tuned_of(rows: list[tuning.Measured], batch: int) -> tuning.Tuned:
    """Say that the last way is best."""
    return tuning.Tuned(tuple(rows), rows[0], rows[-1], batch)


@pytest.mark.parametrize(
    ("name", "options", "code", "says"),
    [
        ("onnx", ["--tune"], 8, "whose file itself says in which precision it runs: there is no"),
        ("builtin:bone", ["--tune"], 8, "is no network: there is nothing to tune"),
        ("nobody", ["--tune"], 8, "no model 'nobody'"),
        ("onnx", ["--write"], 2, "--write goes with --tune"),
    ],
)
def test_what_cannot_be_tuned_is_said(
    name: str,
    options: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OSTEON_PIPELINE__MODELS_DIR", str(tmp_path))
    make("onnx", tmp_path)
    ran = osteon("verify", name, *options)
    assert (ran.exit_code, says in ran.stderr) == (code, True), ran.stderr
