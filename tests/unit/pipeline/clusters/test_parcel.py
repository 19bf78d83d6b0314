"""What crosses to a worker holds there, and nothing else is written here."""

import errno
import os
from pathlib import Path

import pytest

from osteon.errors import OutOfResourcesError, StageError
from osteon.pipeline.clusters import parcel
from osteon.pipeline.clusters.parcel import (
    needed_by,
    read_outputs,
    read_wanted,
    relative_to,
    rooted_at,
    write_inputs,
    write_outputs,
)
from osteon.pipeline.job import Stage
from osteon.pipeline.workers.request import StageRequest


@pytest.fixture
def request_(tmp_path: Path) -> StageRequest:
    """A request for boneseg on a data directory with two slices and two outputs."""
    root = tmp_path / "node"
    for name in ("spool/a/1.dcm", "spool/a/2.dcm", "work/1/1/prediction.raw", "work/1/2/labels"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return StageRequest(
        job_id=1,
        stage=Stage.BONESEG,
        attempt=3,
        out=root / "work" / "1" / "3",
        inputs=(root / "spool/a/1.dcm", root / "spool/a/2.dcm"),
        outputs={Stage.BONESEG: root / "work/1/2", Stage.PREDICTION: root / "work/1/1"},
        model="builtin:bone",
        models_dir=None,
        input_sha256="0" * 64,
        content_at=0.0,
    )


def test_paths_hold_on_both_sides(request_: StageRequest, tmp_path: Path) -> None:
    there = relative_to(tmp_path / "node", request_)
    assert not there.out.is_absolute()
    assert rooted_at(tmp_path / "node", there) == request_
    assert rooted_at(Path("/gpu"), there).outputs[Stage.PREDICTION] == Path("/gpu/work/1/1")


def test_a_stage_takes_the_series_and_what_the_stage_before_it_made(
    request_: StageRequest, tmp_path: Path
) -> None:
    there = relative_to(tmp_path / "node", request_)
    needed = [str(path) for path in needed_by(there)]
    assert needed == ["spool/a/1.dcm", "spool/a/2.dcm", "work/1/1"]
    contents = read_wanted(tmp_path / "node", there, needed[1:])
    assert sorted(contents) == ["spool/a/2.dcm", "work/1/1/prediction.raw"]

    opened = rooted_at(tmp_path / "gpu", there)
    write_inputs(tmp_path / "gpu", contents)
    assert [path.exists() for path in needed_by(opened)] == [False, True, True]
    assert opened.inputs[1].read_text() == "spool/a/2.dcm"


def test_a_worker_gets_nothing_that_its_stage_does_not_read(
    request_: StageRequest, tmp_path: Path
) -> None:
    (tmp_path / "node" / "osteon.sqlite").write_text("secret")
    there = relative_to(tmp_path / "node", request_)
    asked = ["osteon.sqlite", "../node/osteon.sqlite", "/etc/passwd", "work/1/2", "."]
    assert read_wanted(tmp_path / "node", there, asked) == {}


def test_outputs_come_back_whole(tmp_path: Path) -> None:
    contents = {"seg.dcm": b"seg", "preview.png": b""}
    write_outputs(tmp_path / "1" / "2", contents)
    assert read_outputs(tmp_path / "1" / "2") == contents


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", "", "a\0b"])
def test_a_worker_cannot_write_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(StageError, match="no plain file name"):
        write_outputs(tmp_path / "out", {"good": b"", name: b"evil"})
    assert not list(tmp_path.rglob("*"))


def test_what_cannot_be_read_or_written_fails_the_attempt(
    request_: StageRequest, tmp_path: Path
) -> None:
    request_.inputs[0].unlink()
    there = relative_to(tmp_path / "node", request_)
    with pytest.raises(StageError, match=r"1\.dcm"):
        read_wanted(tmp_path / "node", there, ["spool/a/1.dcm"])
    with pytest.raises(StageError):
        read_outputs(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(StageError):
        write_outputs(tmp_path / "file" / "out", {"a": b""})
    with pytest.raises(StageError):
        write_inputs(tmp_path / "file", {"a": b""})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_of_the_node_is_not_the_jobs_fault(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(parcel, "write_durably", full)
    with pytest.raises(OutOfResourcesError, match="what a worker made cannot be written"):
        write_outputs(tmp_path / "out", {"labels.raw": b"1"})
