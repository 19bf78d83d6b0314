"""The guides, word by word: every block of commands is run as it is printed."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest

from tests.model_folders import nnunet_folder

pytest.importorskip("monai", reason="the extras are not installed")

DEADLINE_S = 840  # A minute on a machine of its own; many where others take it.
pytestmark = pytest.mark.timeout(DEADLINE_S + 60)
GUIDES = Path(__file__).parents[2] / "docs" / "guides"
TRAINED = (
    "weights/Dataset297_TotalSegmentator_total_3mm_1559subj/"
    "nnUNetTrainer_4000epochs_NoMirroring__nnUNetPlans__3d_fullres"
)
# What needs the internet, and so is printed as a console and not run here.
ELSEWHERE = re.compile(r"\$ (python -m venv|ts/bin/totalseg_download_weights|rsync) ")


def blocks(guide: str, language: str) -> list[str]:
    text = (GUIDES / guide).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def follow(guide: str, folder: Path, **environment: str) -> str:
    """Run all blocks of a guide in one shell, as somebody who copies them does."""
    script = "set -eu\n" + "\n".join(blocks(guide, "bash"))
    programs = Path(sys.executable).parent
    shell = subprocess.Popen(
        ["/bin/bash", "-c", script],
        cwd=folder,
        env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=DEADLINE_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # The node, where the shell did not get so far.
        shell.communicate()
    log = folder / "osteon.log"
    assert shell.returncode == 0, said + (log.read_text() if log.exists() else "")
    return said


def test_an_own_model(tmp_path: Path) -> None:
    said = follow("own-pytorch-model.md", tmp_path)
    assert "my-bones 1 loads and runs" in said
    alone, node = (pydicom.dcmread(tmp_path / n) for n in ("result/seg.dcm", "seg.dcm"))
    assert alone.SegmentSequence[0].SegmentLabel == "Bone"
    assert alone.PixelData == node.PixelData
    assert alone.SOPInstanceUID == node.SOPInstanceUID


def test_a_model_of_nnunet(tmp_path: Path) -> None:
    nnunet_folder(tmp_path / TRAINED, folds=1)
    said = follow("nnunet.md", tmp_path)
    assert 'orientation = "RAS"' in said
    assert "Femur (SCT 71341001)" in said
    assert "total-fast 1 loads and runs" in said
    seg = pydicom.dcmread(tmp_path / "result" / "seg.dcm")
    assert seg.SegmentSequence[0].SegmentLabel == "Femur left"


def test_a_package(tmp_path: Path) -> None:
    site = str(tmp_path / "site")
    said = follow(
        "own-package.md",
        tmp_path,
        # Into a folder of its own, from nothing but what is here already.
        PIP_TARGET=site,
        PYTHONPATH=site,
        PIP_NO_INDEX="1",
        PIP_NO_DEPS="1",
        PIP_NO_BUILD_ISOLATION="0",  # So pip reads its option: there is none.
    )
    assert "package   dense-bone 1.0" in said
    assert "dense-bone 1.0 loads and runs" in said
    assert said.splitlines()[-1] == "OK"
    seg = pydicom.dcmread(tmp_path / "result" / "seg.dcm")
    assert seg.SegmentSequence[0].SegmentLabel == "Dense bone"


@pytest.mark.parametrize("guide", sorted(path.name for path in GUIDES.glob("*.md")))
def test_what_is_not_run_needs_the_internet(guide: str) -> None:
    text = (GUIDES / guide).read_text(encoding="utf-8")
    assert set(re.findall(r"^```(\w+)$", text, re.MULTILINE)) <= {"bash", "console"}
    for block in blocks(guide, "console"):
        assert all(ELSEWHERE.match(line) for line in block.splitlines())
    assert blocks(guide, "bash")
