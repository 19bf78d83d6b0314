"""A model whose GPU is full: it says so, or takes the CPU where it may."""

import logging
import threading

import numpy as np
import pytest
import torch

from osteon.errors import ModelError, WorkerLostError
from osteon.pipeline.models import sliding
from osteon.pipeline.models.modelspec import InputSpec, ModelSpec, RunSpec, SegmentSpec
from osteon.pipeline.models.networkmodel import NetworkModel
from osteon.pipeline.prediction import predict_slices

HU = np.arange(16**3, dtype=np.int16).reshape(16, 16, 16)


class Crowded:
    """A network that fits into the memory of one device and not of the other."""

    device = torch.device("cpu")

    def __init__(self, fits: bool = False) -> None:
        self.fits = fits
        self.moves = 0

    def __call__(self, patches: torch.Tensor) -> torch.Tensor:
        if not self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return patches - 0.5

    def to(self, device: torch.device) -> "Crowded":
        self.moves += 1
        return Crowded(fits=self.moves == 1)


def threads_left() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("network", "input grid"))]


def model_of(
    network: Crowded,
    values: tuple[int, ...] = (),
    spacing_mm: tuple[float, ...] | None = None,
    patch: tuple[int, ...] = (8, 16, 16),
    **run: object,
) -> NetworkModel:
    segments = [{"value": value, "label": "bone", "rgb": (1, 2, 3)} for value in values]
    spec = ModelSpec(
        name="toy",
        version="1",
        kind="builtin",
        input=InputSpec(
            dimension="3d", hu_window=(0.0, 4096.0), patch=patch, spacing_mm=spacing_mm
        ),
        run=RunSpec(**run),
        output={"segments": [SegmentSpec(**segment) for segment in segments]},
    )
    return NetworkModel(spec, network)


@pytest.mark.parametrize("spacing_mm", [None, (0.7, 1.3, 1.1), (3.0, 0.6, 2.0)])
def test_threads_change_no_label(
    spacing_mm: tuple[float, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hu_zyx = np.random.default_rng(0).integers(0, 4096, (40, 30, 36), np.int16)
    model = model_of(Crowded(fits=True), spacing_mm=spacing_mm)
    with_threads = predict_slices(model, hu_zyx, np.eye(4))
    monkeypatch.setattr(sliding, "Beside", lambda items, *_: items)
    assert np.array_equal(predict_slices(model, hu_zyx, np.eye(4)), with_threads)
    # Of a network that looks at single voxels no patch changes the answer, but for rounding.
    whole = model_of(Crowded(fits=True), spacing_mm=spacing_mm, patch=(64, 64, 64))
    wanted = predict_slices(whole, hu_zyx, np.eye(4))
    assert 0.2 < wanted.mean() < 0.8
    assert np.count_nonzero(with_threads != wanted) <= 3


def test_classes_that_are_refused_end_the_network_too() -> None:
    model = model_of(Crowded(fits=True), (2,))
    with pytest.raises(ModelError, match="names a segment of value 2") as failure:
        predict_slices(model, np.zeros((80, 16, 16), np.int16), np.eye(4))
    # The traceback still holds every frame on the way, and yet no thread waits in one.
    assert failure.tb is not None
    assert not threads_left()


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (1_500_000_000, 80_000_000_000))


def test_it_says_how_much_was_free_and_what_to_do() -> None:
    says = r"one patch at a time \(1.5 of 80.0 GB are free\): .* run.cpu_when_full"
    with pytest.raises(WorkerLostError, match=says) as failure:
        predict_slices(model_of(Crowded()), HU, np.eye(4))
    assert failure.value.retryable


def test_it_takes_the_cpu_where_it_may_and_returns(caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(Crowded(), cpu_when_full=True)
    with caplog.at_level(logging.WARNING):
        labels = predict_slices(model, HU, np.eye(4))
    assert np.array_equal(labels, HU > 2048)
    assert "toy: out of GPU memory (1.5 of 80.0 GB are free): taking the CPU" in caplog.text
    assert not model.network.fits, "the next volume is tried on the GPU again"


def test_of_one_class_nothing_but_class_1_can_be_named() -> None:
    assert predict_slices(model_of(Crowded(fits=True), (1,)), HU, np.eye(4)).any()
    with pytest.raises(ModelError, match=r"returns 1 classes.*value 2"):
        predict_slices(model_of(Crowded(fits=True), (2,)), HU, np.eye(4))


def test_whatever_decides_the_labels_is_in_the_digest() -> None:
    digests = {
        model_of(Crowded()).digest,
        model_of(Crowded(), (1,)).digest,
        model_of(Crowded(), overlap=0.25).digest,
        model_of(Crowded(), mirror=(0,)).digest,
    }
    assert len(digests) == 4
