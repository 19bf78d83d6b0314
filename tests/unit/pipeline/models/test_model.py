"""Models by name: the builtin one, model folders, entry points, and everything that is refused."""

import errno
import hashlib
import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from osteon.errors import ModelError, StageError
from osteon.pipeline.bones.bone import BoneModel
from osteon.pipeline.bones.boneshape import BoneVolumeParameters
from osteon.pipeline.boneseg import combine
from osteon.pipeline.models.inputgrid import Turn, turn_to
from osteon.pipeline.models.model import list_models, load_model
from osteon.pipeline.prediction import predict, predict_slices
from osteon.pipeline.volume import Geometry, SourceFrame, Volume

SPEC = """
name = "toy"
version = "7"
kind = "{kind}"
weights = "toy.ts"
sha256 = "{sha256}"
[input]
dimension = "{dimension}"
hu_window = [0.0, 1000.0]
patch = {patch}
{more}
[[output.segments]]
value = 1
label = "Left femur"
type = {{ value = "71341001", meaning = "Femur" }}
laterality = "left"
rgb = [255, 0, 0]
"""


class _Bright2d(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.5 - image, image - 0.5], 1)


class _Slope3d(torch.nn.Module):
    """Class 1 where the patch grows along its last axis: it tells how the volume was turned."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        grows = torch.roll(image, -1, 4) - image
        return torch.cat([0.0 * grows, grows], 1)


def scripted(network: torch.nn.Module, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(network), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder(
    root: Path,
    network: torch.nn.Module | None = None,
    kind: str = "torchscript",
    sha256: str | None = None,
    dimension: str = "2d",
    patch: str = "[16, 16]",
    more: str = "",
) -> Path:
    (root / "toy").mkdir()
    digest = scripted(network or _Bright2d(), root / "toy" / "toy.ts")
    text = SPEC.format(
        kind=kind, sha256=sha256 or digest, dimension=dimension, patch=patch, more=more
    )
    (root / "toy" / "model.toml").write_text(text)
    return root


def volume(hu_zyx: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    affine = np.eye(4) if affine is None else affine
    spacing = tuple(float(np.linalg.norm(affine[:3, axis])) for axis in (2, 1, 0))
    frames = tuple(
        SourceFrame(Path(f"{number}.dcm"), 1, "1.2", f"1.2.{number}")
        for number in range(len(hu_zyx))
    )
    return Volume(hu_zyx, Geometry(affine, hu_zyx.shape, spacing, "1.2.3"), frames)


def test_the_builtin_model_is_always_there() -> None:
    model = load_model("builtin:bone")
    assert (model.name, model.kind, model.dimension) == ("builtin:bone", "builtin", "2d")
    assert model.digest == load_model("builtin:bone", None).digest
    assert len(bytes.fromhex(model.digest)) == 32


def test_another_parameter_is_another_digest() -> None:
    changed = BoneModel(volume_parameters=BoneVolumeParameters(bone_hu=91.0))
    assert changed.digest != BoneModel().digest


def test_an_unknown_name_says_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'bonus'.*builtin:bone, toy"):
        load_model("bonus", folder(tmp_path))
    assert not ModelError.retryable


@pytest.mark.parametrize("name", ["../toy", "toy/../toy", "", ".", ".."])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="no model"):
        load_model(name, folder(tmp_path))


def test_models_are_listed_builtin_first(tmp_path: Path) -> None:
    assert [spec.name for spec in list_models(folder(tmp_path))[0]] == ["builtin:bone", "toy"]
    assert [spec.name for spec in list_models(tmp_path / "nowhere")[0]] == ["builtin:bone"]


def test_an_unknown_kind_says_which_this_version_loads(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'keras' is unknown; this version loads: monai-bundle"):
        load_model("toy", folder(tmp_path, kind="keras"))


def test_weights_with_another_digest_are_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"sha256 is .*not loaded"):
        load_model("toy", folder(tmp_path, sha256="0" * 64))


@pytest.mark.parametrize("name", ["toy.ts", "model.toml"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE])
def test_a_file_that_cannot_be_read_for_a_moment_costs_an_attempt(
    number: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, read = folder(tmp_path), {"toy.ts": "read_bytes", "model.toml": "read_text"}[name]
    whole = getattr(Path, read)

    def fails(path: Path, *arguments: object, **keywords: object) -> object:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return whole(path, *arguments, **keywords)

    monkeypatch.setattr(Path, read, fails)
    with pytest.raises(StageError, match=f"{name}: .*cannot be read") as raised:
        load_model("toy", root)
    assert raised.value.retryable


class _Bomb:
    exploded = False

    def __reduce__(self) -> tuple[object, ...]:
        return (setattr, (_Bomb, "exploded", True))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    root = folder(tmp_path)
    weights = pickle.dumps(_Bomb())
    (root / "toy" / "toy.ts").write_bytes(weights)
    text = (root / "toy" / "model.toml").read_text().splitlines()
    digest = hashlib.sha256(weights).hexdigest()
    text = [f'sha256 = "{digest}"' if line.startswith("sha256") else line for line in text]
    (root / "toy" / "model.toml").write_text("\n".join(text))
    with pytest.raises(ModelError, match="no TorchScript archive"):
        load_model("toy", root)
    assert not _Bomb.exploded


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version = "7"', 'version = "7"\ncolour = 1', "colour: unknown key"),
        ("patch = [16, 16]", "patch = [16, 16, 16]", "patch has 3 numbers"),
        ("[0.0, 1000.0]", "[0.0, 1000.0]\nneighbours = 1", "neighbours belongs to"),
        ("[0.0, 1000.0]", '[0.0, 1000.0]\norientation = "RLS"', "a patient axis twice"),
        ("hu_window = [0.0, 1000.0]", "", "hu_window or zscore"),
        ("[[output", "[run]\nmirror = [2]\n[[output", "an axis that a 2d patch lacks"),
        ("[0.0, 1000.0]", "[1000.0, 0.0]", "hu_window"),
        ("[0.0, 1000.0]", "[-inf, 1000.0]", "hu_window.0: .*finite number"),
        (
            'weights = "toy.ts"',
            'weights = "../toy.ts"',
            "weights: .*name a file or folder beside it",
        ),
        ('version = "7"', "", "version: is missing"),
        ('name = "toy"', 'name = "t y"', "name: 't y': take at most 64 letters, digits"),
        ('name = "toy"', 'name = "builtin:toy"', "names with builtin: are no folder's"),
        ("[0.0, 1000.0]", '[0.0, 1000.0]\norientation = "LPX"', "'LPX': it has to be three of the"),
        ('weights = "toy.ts"', "", "needs weights"),
        ('weights = "toy.ts"', 'weights = "gone.ts"', r"gone.ts: weights cannot be read"),
        ('name = "toy"', 'name = "boy"', "the folder's 'toy'"),
        ("[input]", "[input", "not TOML"),
        ("value = 1\n", "value = 0\n", "value"),
    ],
)
def test_a_wrong_model_toml_names_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = folder(tmp_path) / "toy" / "model.toml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ModelError, match=message):
        load_model("toy", tmp_path)


def test_a_2d_network_sees_windows_of_each_slice(tmp_path: Path) -> None:
    model = load_model("toy", folder(tmp_path))
    hu = np.random.default_rng(0).integers(-500, 1500, (3, 37, 20)).astype(np.int16)
    labels, (segment,) = combine(model, predict(model, volume(hu)), volume(hu))
    assert np.array_equal(labels, hu > 500)
    assert (segment.label, segment.number, segment.modifier.meaning) == ("Left femur", 1, "Left")
    assert segment.volume_ml == pytest.approx((hu > 500).sum() / 1000)


def test_a_2d_prediction_is_the_same_slice_by_slice(tmp_path: Path) -> None:
    model = load_model("toy", folder(tmp_path, more="spacing_mm = [1.7, 1.3]"))
    hu = np.random.default_rng(1).integers(-500, 1500, (4, 30, 26)).astype(np.int16)
    whole = predict(model, volume(hu))
    assert whole.any()
    assert np.array_equal(predict_slices(model, hu[2:3], np.eye(4)), whole[2:3])


@pytest.mark.parametrize(
    ("orientation", "along", "sign"), [("LPS", 2, 1), ("RAS", 2, -1), ("SPL", 0, 1), ("PIR", 1, 1)]
)
def test_a_3d_network_sees_the_patient_the_same_way(
    tmp_path: Path, orientation: str, along: int, sign: int
) -> None:
    network = _Slope3d()
    more = f'orientation = "{orientation}"'
    root = folder(tmp_path, network, dimension="3d", patch="[32, 32, 32]", more=more)
    ramp = np.arange(20) * 40
    shape = [1, 1, 1]
    shape[along] = 20
    hu = np.broadcast_to((ramp[::sign]).reshape(shape), (20, 20, 20)).astype(np.int16)
    classes = predict(load_model("toy", root), volume(hu))
    inner = classes[1:-1, 1:-1, 1:-1]
    assert inner.all()
    assert not predict(load_model("toy", root), volume(hu[::-1, ::-1, ::-1]))[2:-2].all()


def test_a_volume_is_turned_by_its_affine() -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    assert turn_to(affine, "RAS") == Turn((0, 1, 2), ())
    assert turn_to(affine, "LPS") == Turn((0, 1, 2), (1, 2))
    oblique = np.eye(4)
    oblique[:3, :3] = [[1, 1, 0], [1, 0, 1], [1, 0, 0]]
    with pytest.raises(ModelError, match="oblique"):
        turn_to(oblique, "LPS")


class _Shapeless(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.sum()


class _Narrow(torch.nn.Module):
    """It takes patches of 32 rows alone."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * torch.ones(32, 1)


class _Tiring(torch.nn.Module):
    """It answers once."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("no more")
        return image


def test_a_network_that_answers_otherwise_is_a_model_error(tmp_path: Path) -> None:
    model = load_model("toy", folder(tmp_path, _Shapeless()))
    with pytest.raises(ModelError, match="does not return"):
        predict(model, volume(np.zeros((3, 16, 16), np.int16)))


def test_a_patch_that_the_network_does_not_take_is_a_model_error(tmp_path: Path) -> None:
    model = load_model("toy", folder(tmp_path, _Narrow()))
    with pytest.raises(
        ModelError, match=r"toy: .* does not take patches of shape \(1, 1, 16, 16\)"
    ):
        predict(model, volume(np.zeros((3, 16, 16), np.int16)))


def test_a_network_that_fails_later_is_a_stage_error(tmp_path: Path) -> None:
    model = load_model("toy", folder(tmp_path, _Tiring()))
    with pytest.raises(StageError, match=r"toy: .*no more") as failure:
        predict(model, volume(np.zeros((3, 16, 16), np.int16)))
    assert failure.value.retryable


def test_a_segment_that_the_network_does_not_have_is_a_model_error(tmp_path: Path) -> None:
    path = folder(tmp_path) / "toy" / "model.toml"
    path.write_text(path.read_text().replace("value = 1\n", "value = 2\n"))
    model = load_model("toy", tmp_path)
    with pytest.raises(ModelError, match=r"returns 2 classes.*segment of value 2"):
        predict(model, volume(np.zeros((3, 16, 16), np.int16)))


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "someones_model.py").write_text(
        "from osteon.pipeline.bones.bone import BoneModel as Someones\n"
    )
    info = tmp_path / "someones_model-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-model\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[osteon.models]\nsomeones = someones_model:Someones\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return


@pytest.mark.usefixtures("plugin")
def test_an_entry_point_brings_a_model() -> None:
    assert load_model("someones").version == BoneModel.version
    with pytest.raises(ModelError, match="known: builtin:bone, someones"):
        load_model("nobodys")


def test_a_real_network_loads_and_runs(shared_data: Path, tmp_path: Path) -> None:
    weights = (shared_data / "weights" / "mindgrab_meshnet.ts").read_bytes()
    root = folder(tmp_path, dimension="3d", patch="[32, 32, 32]")
    (root / "toy" / "toy.ts").write_bytes(weights)
    path = root / "toy" / "model.toml"
    text = [
        f'sha256 = "{hashlib.sha256(weights).hexdigest()}"' if line.startswith("sha256") else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(text))
    hu = np.random.default_rng(0).integers(0, 1000, (40, 32, 32)).astype(np.int16)
    assert predict(load_model("toy", root), volume(hu)).shape == hu.shape
