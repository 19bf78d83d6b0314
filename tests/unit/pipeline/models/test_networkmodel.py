"""A model whose GPU is full: it says so, or takes the CPU where it may."""

import logging

import numpy as np
import pytest
import torch

from osteon.errors import ModelError, WorkerLostError
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


def model_of(network: Crowded, values: tuple[int, ...] = (), **run: object) -> NetworkModel:
    segments = [{"value": value, "label": "bone", "rgb": (1, 2, 3)} for value in values]
    spec = ModelSpec(
        name="toy",
        version="1",
        kind="builtin",
        input=InputSpec(dimension="3d", hu_window=(0.0, 4096.0), patch=(8, 16, 16)),
        run=RunSpec(**run),
        output={"segments": [SegmentSpec(**segment) for segment in segments]},
    )
    return NetworkModel(spec, network)


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
