"""A shadow model on real CT: both run, one is delivered, and their agreement is told everywhere."""

import hashlib
import json
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
import pytest
import torch

from tests.acceptance.parts import Node, Orthanc, dcmsend, osteon
from tests.tools import wait_until

MODEL = """\
name = "bright"
version = "1"
kind = "torchscript"
weights = "bright.ts"
sha256 = "{sha256}"
[input]
dimension = "2d"
hu_window = [-100.0, 700.0]
patch = [64, 64]
[[output.segments]]
value = 1
label = "Bone"
rgb = [230, 220, 190]
"""
ROUTE = """
[[route]]
name = "bone"
shadow = "bright"
match = { Modality = "CT" }
"""


class _Bright(torch.nn.Module):
    """Bone is what is over 200 HU."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([0.375 - image, image - 0.375], 1)


def write_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(_Bright()), folder / "bright.ts")
    digest = hashlib.sha256((folder / "bright.ts").read_bytes()).hexdigest()
    (folder / "model.toml").write_text(MODEL.format(sha256=digest))


class Ran(NamedTuple):
    node: Node
    said: dict[str, Any]
    in_pacs: list[dict[str, Any]]


@pytest.fixture(scope="module")
def ran(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("shadow")
    write_model(folder / "models" / "bright")
    with Orthanc(folder / "pacs", answers_queries=True) as pacs:
        node = Node(folder / "node", pacs_port=pacs.dicom_port, extra=ROUTE)
        config = node.config.read_text()
        models = f'[pipeline]\nmodels_dir = "{folder}/models"\n'
        node.config.write_text(config.replace("[pipeline]\n", models))
        with node:
            series = shared_data / "tptbox_vertebra" / "dicom"
            dcmsend(series, node.dicom_port)
            uid = pydicom.dcmread(next(series.iterdir()), stop_before_pixels=True).SeriesInstanceUID
            said = wait_until(lambda: compared(node, uid), timeout_s=200, every_s=0.2)
            node.wait_for(uid, "done", timeout_s=60)
            yield Ran(node, said, pacs.find(Modality="SEG"))


def compared(node: Node, uid: str) -> dict[str, Any] | None:
    said = node.predict(uid)
    for shadow in said.get("shadow", ()):
        assert shadow["status"] not in {"failed", "rejected"}, shadow
        return said if shadow["dice"] is not None else None
    return None


def command(node: Node, *words: str) -> str:
    line = [*osteon(), *words, "--config", str(node.config)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=True).stdout


def test_only_the_first_is_delivered(ran: Ran) -> None:
    assert (ran.said["id"], ran.said["model"]) == ("1", "builtin:bone")
    (seg,) = ran.in_pacs
    first = next(r for r in ran.said["results"] if r["kind"] == "seg")
    assert seg["MainDicomTags"]["SOPInstanceUID"] == first["sop_instance_uid"]
    shadow = ran.node.predict("2")
    assert (shadow["shadow_of"], shadow["model"], shadow["status"]) == ("1", "bright", "done")
    assert [r["deliveries"] for r in shadow["results"]] == [[], []]


def test_dice_is_that_of_the_two_segmentations(ran: Ran) -> None:
    masks = []
    for job in ("1", "2"):
        path = ran.node.data_dir / "results" / job / "seg.dcm"
        ds = pydicom.dcmread(path)
        frames = ds.pixel_array.reshape(ds.NumberOfFrames, -1)
        mask: dict[str, np.ndarray] = {}
        for groups, frame in zip(ds.PerFrameFunctionalGroupsSequence, frames, strict=True):
            source = groups.DerivationImageSequence[0].SourceImageSequence[0]
            uid = source.ReferencedSOPInstanceUID
            mask[uid] = mask.get(uid, np.zeros(frames.shape[1], bool)) | (frame > 0)
        masks.append(mask)
    first, own = masks
    common = sum(int((first[uid] & own[uid]).sum()) for uid in first.keys() & own)
    size = sum(int(m.sum()) for mask in masks for m in mask.values())
    (shadow,) = ran.said["shadow"]
    assert shadow["dice"] == pytest.approx(2 * common / size)
    assert 0.5 < shadow["dice"] < 1.0
    bone = next(s for s in shadow["segments"] if s["label"] == "Bone")
    assert bone["volume_ml"] == ran.node.predict("2")["segments"][0]["volume_ml"]


def test_commands_metrics_and_status_tell_of_it(ran: Ran) -> None:
    dice = ran.said["shadow"][0]["dice"]
    shown = command(ran.node, "jobs", "show", "1")
    assert f"shadow bright, job 2: Dice {dice:.3f} of all that is segmented" in shown
    assert "beside    job 1: a shadow, which is sent to nobody" in (
        command(ran.node, "jobs", "show", "2")
    )
    listed = command(ran.node, "shadow")
    assert f"bright beside builtin:bone: 1 series, Dice {dice:.3f} in the mean" in listed
    (model,) = json.loads(command(ran.node, "shadow", "--json"))["models"]
    assert [case["job"] for case in model["worst"]] == ["2"]
    metrics = ran.node.http.get("/metrics").text
    assert 'osteon_shadow_compared{beside="builtin:bone",model="bright"} 1.0' in metrics
    (summary,) = ran.node.http.get("/api/v1/status").json()["shadow"]
    assert summary["mean_dice"] == pytest.approx(dice)
