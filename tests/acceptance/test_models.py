"""Every kind of model, through the node: a SEG in the PACS, or a reason why there is none."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import highdicom
import numpy as np
import pydicom
import pytest
import torch

from tests.acceptance.ct import series_uid, write_series
from tests.acceptance.parts import Node, Orthanc, dcmsend
from tests.model_folders import KINDS, PATCH, Made, make, scaled, spoil, write_spec

inferers = pytest.importorskip("monai.inferers", reason="the extras are not installed")

FAULTS = ("digest", "shape", "pickle")
SAYS = {
    "digest": "model.toml says 0000",
    "shape": "the network ",
    "pickle": "not loaded",
}
# Their readers find that it is none of their files.
SAYS_OF_PICKLE = {"onnx": "no ONNX model", "torchscript": "no TorchScript archive"}


class Ran(NamedTuple):
    """What became of the series that each model was given."""

    made: dict[str, Made]
    said: dict[str, dict[str, Any]]
    segs: dict[str, Path]
    folders: dict[str, Path]
    canary: Path


def ae_title(number: int) -> str:
    return f"MODEL{number}"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Give a series to a model of every kind, and to each with every fault."""
    folder = tmp_path_factory.mktemp("models")
    models, canary = folder / "models", folder / "canary"
    made = {kind: make(kind, models) for kind in KINDS}
    names = list(KINDS)
    for kind in KINDS:
        for fault in FAULTS:
            names.append(f"{kind}-{fault}")
            spoiled = make(kind, models, names[-1])
            if fault == "digest":
                write_spec(spoiled, kind, names[-1], sha256=f'"{"0" * 64}"')
            elif fault == "shape":
                two = '"2.5d"\nneighbours = 1'
                write_spec(spoiled, kind, names[-1], dimension=two, patch="[48, 48]")
            else:
                spoil(spoiled, kind, canary)
    routes = "".join(
        f'[[route]]\nname = "r{number}"\nmodel = "{name}"\ndestinations = ["pacs"]\n'
        f'called_ae_title = "{ae_title(number)}"\n'
        for number, name in enumerate(names)
    )
    with ExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        pacs = stack.enter_context(Orthanc(folder / "pacs", answers_queries=True))
        patched.setenv("OSTEON_PIPELINE__MODELS_DIR", str(models))
        node = stack.enter_context(Node(folder / "node", pacs_port=pacs.dicom_port, extra=routes))
        folders = {}
        for number, name in enumerate(names):
            folders[name] = folder / "ct" / name
            write_series(folders[name], seed=name, slices=20)
            dcmsend(folders[name], node.dicom_port, called=ae_title(number))
        said = {
            name: node.wait_for(series_uid(name), "done", "failed", "rejected", timeout_s=200)
            for name in names
        }
        segs = {}
        for kind in KINDS:
            found = pacs.find(Modality="SEG", StudyInstanceUID=_study(folders[kind]))
            assert len(found) == 1, said[kind]
            segs[kind] = folder / f"{kind}.dcm"
            segs[kind].write_bytes(pacs.file(found[0]["ID"]))
        assert len(pacs.find(Modality="SEG")) == len(KINDS)
        yield Ran(made, said, segs, folders, canary)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pacs_has_what_torch_computes(ran: Ran, kind: str) -> None:
    assert ran.said[kind]["status"] == "done", ran.said[kind]
    seg = highdicom.seg.segread(ran.segs[kind])
    description = seg.get_segment_description(1)
    assert description.segment_label == "Left femur"
    assert description.segmented_property_type.value == "71341001"
    modifier = description.SegmentedPropertyTypeCodeSequence[0]
    [side] = modifier.SegmentedPropertyTypeModifierCodeSequence
    assert side.CodeMeaning == "Left"
    slices = sorted(
        (pydicom.dcmread(path) for path in ran.folders[kind].iterdir()),
        key=lambda ds: float(ds.ImagePositionPatient[2]),
    )
    hu = np.stack([ds.pixel_array for ds in slices]).astype(np.int16)
    with torch.inference_mode():
        logits = inferers.sliding_window_inference(
            scaled(hu)[None, None], PATCH, 1, ran.made[kind].module, overlap=0.5, mode="gaussian"
        )[0]
    found = seg.get_pixels_by_source_instance(
        [ds.SOPInstanceUID for ds in slices],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )[..., 0]
    clear = (logits[0] - logits[1]).abs().numpy() > 1e-4
    assert np.array_equal(found[clear], logits.argmax(0).numpy()[clear])
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_refused_with_its_reason(ran: Ran, kind: str, fault: str) -> None:
    said = ran.said[f"{kind}-{fault}"]
    assert said["status"] == "failed"
    wanted = SAYS_OF_PICKLE.get(kind) if fault == "pickle" else None
    assert (wanted or SAYS[fault]) in said["reason"]
    assert f"{kind}-{fault}" in said["reason"]


def test_no_code_ran(ran: Ran) -> None:
    assert not ran.canary.exists()


def _study(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True).StudyInstanceUID)
