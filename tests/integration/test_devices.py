"""Every slot's worker sees the slot's GPU when it loads its model; so does its successor."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.pipeline import role
from osteon.pipeline.workers.engine import LocalEngine
from osteon.pipeline.workers.request import WorkerSettings
from tests.packages import install
from tests.tools import wait_until

# A model that writes down what its process sees at the moment when it is made.
MODULE = """
import os
from pathlib import Path
from osteon.pipeline.bones.bone import BoneModel

def sees():
    seen = "|".join(os.environ.get(f"CUDA_{name}", "none") for name in SAID)
    Path(os.environ["SEES_FOLDER"], str(os.getpid())).write_text(seen)
    return BoneModel()

SAID = ("VISIBLE_DEVICES", "DEVICE_ORDER")
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with a file for each process that made the model."""
    folder = tmp_path / "seen"
    folder.mkdir()
    monkeypatch.syspath_prepend(install(tmp_path / "site", "sees", MODULE, "sees"))
    monkeypatch.setenv("SEES_FOLDER", str(folder))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return folder


@pytest.fixture
def engines() -> Iterator[list[LocalEngine]]:
    made: list[LocalEngine] = []
    yield made
    for engine in made:
        engine.close()


def wait_for(engine: LocalEngine) -> None:
    wait_until(lambda: all(slot._is_ready for slot in engine._slots), 60)


def test_slots_have_gpus_in_turn_and_a_spare_takes_that_of_its_slot(
    seen: Path, engines: list[LocalEngine]
) -> None:
    engine = LocalEngine(3, WorkerSettings("sees"), ("GPU-1c", "5"))
    engines.append(engine)
    wait_for(engine)

    def of(slot: int) -> str:
        return (seen / str(engine._slots[slot].pid)).read_text()

    wanted = ["GPU-1c|PCI_BUS_ID", "5|PCI_BUS_ID", "GPU-1c|PCI_BUS_ID"]
    assert [of(slot) for slot in range(3)] == wanted
    for _ in range(2):  # From the second on, a spare was started before it had a slot.
        lost = engine._slots[1].pid
        os.kill(lost, signal.SIGKILL)
        wait_until(lambda lost=lost: engine._slots[1].pid != lost, 20)
        wait_for(engine)
        wait_until(lambda: engine._spares._ready is not None, 20)
        assert of(1) == "5|PCI_BUS_ID"
    spare = engine._spares._ready[1].pid
    assert not (seen / str(spare)).exists(), "without a slot nothing is loaded"


@pytest.mark.parametrize(
    ("inherited", "slots", "wanted"),
    [
        ("1", "auto", ["1|PCI_BUS_ID"]),
        ("3,1", "auto", ["1|PCI_BUS_ID", "3|PCI_BUS_ID"]),
        ("-1", 1, ["-1|none"]),
    ],
)
def test_the_role_hands_out_what_it_was_left(
    inherited: str,
    slots: int | str,
    wanted: list[str],
    seen: Path,
    engines: list[LocalEngine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    for number in range(4):
        (dev / f"nvidia{number}").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    visible = role.visible_gpus
    monkeypatch.setattr(role, "visible_gpus", lambda: visible(dev))
    engine = role._engine(Settings(data_dir=tmp_path, pipeline={"model": "sees", "slots": slots}))
    engines.append(engine)
    wait_for(engine)
    assert sorted(path.read_text() for path in seen.iterdir()) == wanted
