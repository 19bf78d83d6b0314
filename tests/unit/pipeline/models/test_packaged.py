"""Models of packages: what makes one, and everything that a package can do wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.errors import ModelError, OsteonError, StageError, WorkerLostError
from osteon.pipeline.boneseg import combine
from osteon.pipeline.images import upright
from osteon.pipeline.models.model import load_model
from osteon.pipeline.prediction import predict, predict_slices
from osteon.pipeline.volume import Geometry, SourceFrame, Volume
from osteon.pipeline.workers import stages
from tests.packages import install

GOOD = """
import numpy as np

class Good:
    name, version, kind, dimension, segments = "good", "1", "rule", "2d", ()
    digest = "5e" * 32

    def predict(self, hu_zyx, affine):
        return (hu_zyx > 200).astype(np.uint8)

    def join(self, prediction_zyx, volume):
        return prediction_zyx
"""
Bring = Callable[[str, str], None]


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bring:
    """Install a package that brings the model ``theirs``, from the code of its module."""

    def make(code: str, found: str) -> None:
        # A module of its own each time: those of other tests are still imported.
        package = f"theirs-{abs(hash((code, found)))}"
        site = install(tmp_path / "site", "theirs", code, found, package=package)
        monkeypatch.syspath_prepend(site)

    return make


def test_a_good_one_is_loaded_and_shown(bring: Bring) -> None:
    bring(GOOD, "Good")
    assert load_model("theirs").version == "1"
    shown = CliRunner().invoke(cli, ["models", "show", "theirs"])
    assert shown.exit_code == 0, shown.output
    for words in ("name      theirs", "package   theirs-", "digest    5e5e", "named by size"):
        assert words in shown.output
    as_json = CliRunner().invoke(cli, ["models", "show", "theirs", "--json"])
    assert '"kind": "entry-point"' in as_json.output


WRONG = [
    ("import nothing_of_this_name", "Good", r"cannot be imported: ModuleNotFoundError: No module"),
    ("x = 1 +", "Good", r"_model:Good cannot be imported: SyntaxError: invalid syntax"),
    ("import sys; sys.exit(1)", "Good", r"cannot be imported: SystemExit: 1 \(theirs_\d+_model.py"),
    (GOOD, "Goood", r"cannot be imported: AttributeError: module .* has no attribute 'Goood'"),
    ("Good = 3", "Good", r"_model:Good is of the type int; name a class or a function"),
    ("def make(weights): ...", "make", r"make\(\) fails: TypeError: make\(\) missing 1 required"),
    (
        "def make():\n    return {}['weights']",
        "make",
        r"make\(\) fails: KeyError: 'weights' \(theirs_\d+_model.py, line 2\)",
    ),
    ("def make():\n    raise SystemExit(3)", "make", r"make\(\) fails: SystemExit: 3"),
    ("def make(): ...", "make", r"returns NoneType, which is no model: it has no name, which is a"),
    (
        GOOD + "\ndef make(): return Good",
        "make",
        r"returns type, which is no model: its predict has to be",
    ),
    (GOOD.replace("    def join", "    def joined"), "Good", r"it has no join, which is called wi"),
    (GOOD.replace("affine", "a, b"), "Good", r"its predict has to be called with \(hu_zyx, affi"),
    (
        GOOD.replace('"2d"', '"2.5d"'),
        "Good",
        r"its dimension has to be \"2d\" or \"3d\" and not '2.5",
    ),
    (GOOD.replace('"5e" * 32', '"v1"'), "Good", r"its digest has to be a SHA-256 in 64 hexade"),
    (GOOD.replace('"1", "rule"', '1, "rule"'), "Good", r"its version has to be a text of 1 to 64"),
    (GOOD.replace("()\n", "[]\n", 1), "Good", r"its segments has to be a tuple of SegmentSpec"),
    (
        GOOD.replace('digest = "5e" * 32', "digest = property(lambda self: 1 / 0)"),
        "Good",
        r"its digest fails: ZeroDivisionError: division by zero \(theirs_\d+_model.py, line 6\)",
    ),
    (
        GOOD.replace('digest = "5e" * 32', "digest = property(lambda self: exit(3))"),
        "Good",
        r"its digest fails: SystemExit: 3",
    ),
]


@pytest.mark.parametrize(("code", "found", "says"), WRONG)
def test_what_is_wrong_is_said_with_package_object_and_reason(
    code: str, found: str, says: str, bring: Bring, tmp_path: Path
) -> None:
    bring(code, found)
    with pytest.raises(ModelError, match=rf"^model 'theirs' of the package theirs-\d+ 1: .*{says}"):
        load_model("theirs")
    stages.warm("theirs", None)  # It fails its jobs, never the worker.
    for command in ("verify", "show"):
        ran = CliRunner().invoke(cli, ["models", command, "theirs"])
        assert (ran.exit_code, ran.stderr.count("\n")) == (8, 1), ran.output
        assert ran.stderr.startswith("osteon: model 'theirs' of the package")
    config = tmp_path / "osteon.toml"
    config.write_text(f"data_dir = '{tmp_path}/data'\n[pipeline]\nmodel = 'theirs'\n")
    checked = CliRunner().invoke(cli, ["config", "check", "--config", str(config)])
    assert checked.exit_code == 2
    assert "pipeline.model: model 'theirs' of the package" in checked.stdout


def test_two_packages_with_one_name_are_both_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("one", "two"):
        site = install(tmp_path / package, "twice", GOOD, "Good", package=package)
        monkeypatch.syspath_prepend(site)
    with pytest.raises(ModelError, match=r"bring it: (one 1, two 1|two 1, one 1): uninstall all"):
        load_model("twice")


FULL = [
    "MemoryError()",
    "RuntimeError('CUDA out of memory. Tried')",
    'RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried")',
]


@pytest.mark.parametrize("raises", FULL)
def test_want_of_memory_is_another_attempts_affair(raises: str, bring: Bring) -> None:
    bring(f"def make():\n    raise {raises}", "make")
    with pytest.raises(WorkerLostError, match=r"make\(\) fails for want of memory") as failure:
        load_model("theirs")
    assert failure.value.retryable
    stages.warm("theirs", None)


@pytest.mark.parametrize("raises", FULL)
def test_so_it_is_where_weights_are_loaded_when_they_are_asked_for(
    raises: str, bring: Bring
) -> None:
    lazy = f"@property\n    def digest(self):\n        raise {raises}"
    bring(GOOD.replace('digest = "5e" * 32', lazy), "Good")
    with pytest.raises(WorkerLostError, match=r"its digest fails for want of memory"):
        load_model("theirs")


@pytest.mark.parametrize("raises", FULL)
@pytest.mark.parametrize("station", ["prediction", "boneseg"])
def test_so_it_is_while_it_computes(station: str, raises: str, bring: Bring) -> None:
    method = {"prediction": "predict", "boneseg": "join"}[station]
    bring(f"{GOOD}\n    def full(self, *_):\n        raise {raises}\n    {method} = full", "Good")
    model = load_model("theirs")
    with pytest.raises(WorkerLostError, match=f"good: {station} ran out of memory"):
        combine(model, predict(model, volume()), volume())


def test_a_fault_of_osteon_is_not_called_the_models(
    bring: Bring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Volume:
        raise KeyError("a fault of Osteon")

    bring(GOOD, "Good")
    model, leaning = load_model("theirs"), volume(lean=4.0)
    monkeypatch.setattr(upright.Shear, "volume", broken)
    with pytest.raises(KeyError, match="a fault of Osteon"):
        combine(model, predict(model, leaning), leaning)


def volume(lean: float = 0.0) -> Volume:
    affine = np.eye(4)
    affine[1, 2] = lean
    hu_zyx = np.full((3, 8, 8), 300, np.int16)
    frames = tuple(SourceFrame(Path(f"{n}.dcm"), 1, "1.2", f"1.2.{n}") for n in range(3))
    return Volume(hu_zyx, Geometry(affine, hu_zyx.shape, (1.0, 1.0, 1.0), "1.2.3"), frames)


@pytest.mark.parametrize(
    ("predicts", "kind", "says"),
    [
        ("None", ModelError, "good: predicted NoneType, not an ndarray of uint8"),
        ("hu_zyx[0] > 0", ModelError, "good: predicted bool of shape"),
        ("self.network(hu_zyx)", StageError, r"prediction failed: AttributeError: .*'network' \("),
        ("{}[7]", StageError, r"good: prediction failed: KeyError: 7 \(theirs_\d+_model.py, li"),
    ],
)
def test_what_it_answers_is_looked_at(
    predicts: str, kind: type[OsteonError], says: str, bring: Bring
) -> None:
    bring(GOOD.replace("(hu_zyx > 200).astype(np.uint8)", predicts), "Good")
    with pytest.raises(kind, match=says) as failure:
        predict_slices(load_model("theirs"), volume().hu_zyx, np.eye(4))
    assert type(failure.value) is kind
    ran = CliRunner().invoke(cli, ["models", "verify", "theirs"])
    assert (ran.exit_code, ran.stderr.count("\n")) == (kind.exit_code, 1)


def test_what_it_joins_is_looked_at(bring: Bring) -> None:
    bring(GOOD.replace("return prediction_zyx", "return prediction_zyx.tolist()"), "Good")
    model = load_model("theirs")
    with pytest.raises(ModelError, match="good: joined list, not an ndarray of uint8"):
        combine(model, predict(model, volume()), volume())
