"""The spool: what is visible is whole and synced, and what a peer sends is never a name."""

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osteon.errors import OutOfResourcesError
from osteon.pipeline import spool as spool_module
from osteon.pipeline.spool import (
    Draft,
    Spool,
    free_bytes,
    move_durably,
    unwritable,
    write_durably,
)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path, "receive")


def store(spool: Spool, path: Path, parts=(b"x",)) -> int:
    """Put one file into the spool, as intake does."""
    with spool.draft() as draft:
        try:
            for part in parts:
                draft.write(part)
            draft.sync()
        except OSError as error:
            raise unwritable(error) from error
        spool.publish(draft, path)
        return draft.size


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def record_calls(monkeypatch) -> list[tuple[str, str]]:
    """Note every call that makes something durable: which, and on what."""
    calls: list[tuple[str, str]] = []

    def noting(name):
        real = getattr(os, name)

        def call(first, *rest, **keywords):
            if isinstance(first, int):
                on = str(Path(f"/proc/self/fd/{first}").readlink())
            else:
                on = str(rest[0] if name == "replace" else first)
            result = real(first, *rest, **keywords)
            calls.append((name, on))
            return result

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fdatasync", "fsync", "replace"):
        noting(name)
    return calls


def test_data_then_name_then_folder(spool, tmp_path, monkeypatch):
    path = spool.path_of("1.2.3", "ab" * 32)
    calls = record_calls(monkeypatch)
    assert store(spool, path, (b"head", memoryview(b"data"))) == 8
    target = str(tmp_path / path)
    what = [name for name, _ in calls]
    assert what == ["write", "write", "fdatasync", "fsync", "replace", "fsync"]
    draft = calls[0][1]
    assert Path(draft).parent == tmp_path / "incoming" / "receive"
    assert [on for _, on in calls] == [
        draft,
        draft,
        draft,
        str(tmp_path / "spool"),
        target,
        str(Path(target).parent),
    ]
    assert Path(target).read_bytes() == b"headdata"


def test_a_series_folder_left_by_a_killed_process_is_synced_too(spool, tmp_path, monkeypatch):
    """It is there, but nobody knows whether its name has reached the disk."""
    path = spool.path_of("1.2.3", "ab" * 32)
    (tmp_path / path).parent.mkdir()
    calls = record_calls(monkeypatch)
    store(spool, path)
    store(spool, spool.path_of("1.2.3", "cd" * 32))
    assert calls.count(("fsync", str(tmp_path / "spool"))) == 1
    assert ("fsync", str(tmp_path / "spool")) in calls[:3]


def test_a_removed_series_folder_is_made_again(spool, tmp_path):
    path = spool.path_of("1.2.3", "ab" * 32)
    store(spool, path)
    (tmp_path / path).unlink()
    (tmp_path / path).parent.rmdir()
    store(spool, path, (b"y",))
    assert (tmp_path / path).read_bytes() == b"y"


def test_the_folders_known_to_be_synced_are_limited(spool, monkeypatch):
    monkeypatch.setattr(spool_module, "SYNCED_FOLDERS_MAX", 3)
    for n in range(10):
        store(spool, spool.path_of(f"1.2.{n}", "ab" * 32))
        assert len(spool._synced) <= 3


def test_names_come_from_content_alone(spool):
    path = spool.path_of("../../../etc/passwd", "ab" * 32)
    assert ".." not in path.parts
    assert path.parts[0] == "spool"
    assert path.parts[2] == "ab" * 32 + ".dcm"
    assert path.parent == spool.path_of("../../../etc/passwd", "cd" * 32).parent


def test_files_are_not_for_others_to_read(spool, tmp_path):
    path = spool.path_of("1.2.3", "ab" * 32)
    store(spool, path, (b"patient",))
    assert (tmp_path / path).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("call", ["write", "fdatasync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_whatever_fails_leaves_no_file_and_may_be_tried_again(
    spool, tmp_path, monkeypatch, call, number
):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    path = spool.path_of("1.2.3", "ab" * 32)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutOfResourcesError) as caught:
        store(spool, path)
    monkeypatch.undo()
    assert os.strerror(number) in caught.value.message
    assert caught.value.dimse_status == 0xA700
    assert files_in(tmp_path) == []
    assert store(spool, path) == 1


def test_short_writes_are_continued(spool, tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, view: real(fd, bytes(view[:3])))
    path = spool.path_of("1.2.3", "ab" * 32)
    assert store(spool, path, (b"0123456789", b"abc")) == 13
    assert (tmp_path / path).read_bytes() == b"0123456789abc"


def test_what_a_dead_process_left_is_cleared_at_the_next_start(tmp_path):
    dead = tmp_path / "incoming" / "receive" / "1-0"
    other = tmp_path / "incoming" / "http" / "1-0"
    for draft in (dead, other):
        draft.parent.mkdir(parents=True)
        draft.write_bytes(b"half")
    Spool(tmp_path, "receive")
    assert files_in(tmp_path) == [other]
    assert Spool(tmp_path).clear_incoming() == 1
    assert files_in(tmp_path) == []


def test_drafts_of_the_living_are_left_alone(spool, tmp_path):
    path = spool.path_of("1.2.3", "ab" * 32)
    with spool.draft() as draft:
        draft.write(b"first")
        assert Spool(tmp_path, "receive").clear_incoming() == 0
        draft.write(b"second")
        draft.sync()
        spool.publish(draft, path)
    assert (tmp_path / path).read_bytes() == b"firstsecond"
    assert files_in(tmp_path / "incoming") == []


def test_a_draft_never_takes_the_place_of_another(tmp_path, monkeypatch):
    """Process ids are used again; what a dead process left is not written into."""
    monkeypatch.setattr(spool_module, "_numbers", itertools.count())
    left = tmp_path / f"{os.getpid():x}-0"
    left.write_bytes(b"half")
    with Draft(tmp_path) as draft:
        draft.write(b"new")
        assert left.read_bytes() == b"half"
    assert files_in(tmp_path) == [left]


HOLD = """
import sys, pathlib
from osteon.pipeline.spool import Spool
spool = Spool(pathlib.Path(sys.argv[1]), "receive")
spool.draft().write(b"half")
print("held", flush=True)
sys.stdin.read()
"""


def test_the_hold_on_a_folder_ends_with_its_process(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert Spool(tmp_path).clear_incoming() == 0
        holder.kill()
        holder.wait(10)
        assert Spool(tmp_path).clear_incoming() == 1


def test_write_durably_replaces_an_older_file_whole(tmp_path):
    target = tmp_path / "result.json"
    target.write_bytes(b"old and longer")
    assert write_durably(target, (b"new",), by_way_of=tmp_path) == 3
    assert target.read_bytes() == b"new"
    assert files_in(tmp_path) == [target]


def test_a_move_syncs_every_name_it_makes(tmp_path, monkeypatch):
    source = tmp_path / "work" / "1" / "seg.dcm"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"x")
    target = tmp_path / "results" / "1" / "seg.dcm"
    calls = record_calls(monkeypatch)
    move_durably(source, target)
    assert target.read_bytes() == b"x"
    synced = {on for name, on in calls if name == "fsync"}
    assert synced == {
        str(source.parent),
        str(target.parent),
        str(tmp_path / "results"),
        str(tmp_path),
    }


def test_a_move_that_was_done_before_a_crash_is_done(tmp_path):
    source, target = tmp_path / "a" / "f", tmp_path / "r" / "1" / "f"
    source.parent.mkdir()
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x")
    move_durably(source, target)
    assert target.read_bytes() == b"x"
    with pytest.raises(FileNotFoundError):
        move_durably(source, tmp_path / "r" / "2" / "f")


def test_free_space_is_that_of_unprivileged_processes(tmp_path):
    stat = os.statvfs(tmp_path)
    assert abs(free_bytes(tmp_path) - stat.f_bavail * stat.f_frsize) < 10**9
