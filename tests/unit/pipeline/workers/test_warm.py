"""What a worker process keeps: volumes that were read ahead, and no more than there is room for."""

import threading
from pathlib import Path

import pytest

from osteon.errors import StageError, VolumeError
from osteon.pipeline.job import Stage
from osteon.pipeline.volume import read_volume
from osteon.pipeline.workers import warm
from osteon.pipeline.workers.request import SliceRequest, StageRequest
from osteon.pipeline.workers.warm import Warm
from tests.acceptance.ct import write_series


def request_of(tmp_path: Path, number: int = 1) -> StageRequest:
    folder = tmp_path / str(number)
    if not folder.exists():
        write_series(folder, seed=f"warm{number}", slices=3)
    return StageRequest(
        job_id=number,
        stage=Stage.PREDICTION,
        attempt=1,
        out=tmp_path / "out",
        inputs=tuple(sorted(folder.iterdir())),
        outputs={},
        model="builtin:bone",
        models_dir=None,
        input_sha256=f"{number:064}",
        content_at=0.0,
    )


def remove(request: StageRequest) -> None:
    for path in request.inputs:
        path.unlink()


def test_what_was_read_ahead_is_not_read_again(tmp_path):
    kept, request = Warm(), request_of(tmp_path)
    kept.read_ahead(request)
    remove(request)
    assert len(kept.volume(request).frames) == 3
    kept.drop(request)
    with pytest.raises(StageError, match="0001"):
        kept.volume(request)


def test_a_volume_that_is_being_read_is_waited_for_and_read_once(tmp_path, monkeypatch):
    kept, request = Warm(), request_of(tmp_path)
    reads, entered, go = [], threading.Event(), threading.Event()

    def slow(*arguments, **keywords):
        reads.append(1)
        entered.set()
        assert go.wait(10)
        return read_volume(*arguments, **keywords)

    monkeypatch.setattr(warm, "read_volume", slow)
    ahead = threading.Thread(target=kept.read_ahead, args=(request,))
    ahead.start()
    assert entered.wait(10)
    found = []
    job = threading.Thread(target=lambda: found.append(kept.volume(request)))
    job.start()
    go.set()
    job.join(10)
    ahead.join(10)
    assert len(found) == len(reads) == 1


def test_what_could_not_be_read_ahead_is_tried_again_by_its_job(tmp_path):
    kept, request = Warm(), request_of(tmp_path)
    good = request.inputs[1].read_bytes()
    request.inputs[1].write_bytes(b"no DICOM")
    kept.read_ahead(request)
    with pytest.raises(VolumeError, match="0002"):
        kept.volume(request)
    request.inputs[1].write_bytes(good)
    assert len(kept.volume(request).frames) == 3


def test_a_fault_of_reading_is_met_again_by_the_next_attempt(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise KeyError("a fault of Osteon")

    kept, request = Warm(), request_of(tmp_path)
    monkeypatch.setattr(warm, "read_volume", broken)
    for _ in range(2):
        with pytest.raises(KeyError, match="a fault of Osteon"):
            kept.volume(request)


def test_what_is_read_early_is_read_once_and_counted(tmp_path):
    kept, inputs = Warm(), request_of(tmp_path).inputs
    inputs[1].write_bytes(b"no DICOM")
    early = SliceRequest(inputs=inputs, model="builtin:bone", models_dir=None)
    assert [kept.hold(early), kept.hold(early)] == [2, 0]


def test_nothing_is_read_ahead_where_memory_is_short(tmp_path, monkeypatch):
    kept, request = Warm(), request_of(tmp_path)
    monkeypatch.setattr(warm, "available_bytes", lambda: 1000.0)
    kept.read_ahead(request)
    assert not kept._volumes


def test_no_more_volumes_are_kept_than_are_worked_on(tmp_path):
    kept = Warm()
    requests = [request_of(tmp_path, number) for number in range(1, 6)]
    for request in requests:
        kept.volume(request)
    assert list(kept._volumes) == [request.input_sha256 for request in requests[-3:]]


def test_free_memory_is_known(tmp_path):
    assert warm.available_bytes() > 1e6
    assert warm.available_bytes(tmp_path / "none") == float("inf")
