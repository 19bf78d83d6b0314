"""The spool: what is visible is whole and synced, and what a peer sends is never a name."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from osteon.errors import OutOfResourcesError
from osteon.pipeline import spool as spool_module
from osteon.pipeline.spool import Spool, free_bytes, move_durably, write_durably


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path)


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
    assert spool.store(path, (b"head", memoryview(b"data"))) == 8
    target = str(tmp_path / path)
    what = [name for name, _ in calls]
    assert what == ["fsync", "write", "write", "fdatasync", "replace", "fsync"]
    draft = calls[1][1]
    assert Path(draft).parent == tmp_path / "incoming"
    assert [on for _, on in calls] == [
        str(tmp_path / "spool"),
        draft,
        draft,
        draft,
        target,
        str(Path(target).parent),
    ]
    assert Path(target).read_bytes() == b"headdata"


def test_a_series_folder_left_by_a_killed_process_is_synced_too(spool, tmp_path, monkeypatch):
    """It is there, but nobody knows whether its name has reached the disk."""
    path = spool.path_of("1.2.3", "ab" * 32)
    (tmp_path / path).parent.mkdir()
    calls = record_calls(monkeypatch)
    spool.store(path, (b"x",))
    spool.store(spool.path_of("1.2.3", "cd" * 32), (b"x",))
    assert calls.count(("fsync", str(tmp_path / "spool"))) == 1
    assert calls[0] == ("fsync", str(tmp_path / "spool"))


def test_a_removed_series_folder_is_made_again(spool, tmp_path):
    path = spool.path_of("1.2.3", "ab" * 32)
    spool.store(path, (b"x",))
    (tmp_path / path).unlink()
    (tmp_path / path).parent.rmdir()
    spool.store(path, (b"y",))
    assert (tmp_path / path).read_bytes() == b"y"


def test_the_folders_known_to_be_synced_are_limited(spool, monkeypatch):
    monkeypatch.setattr(spool_module, "SYNCED_FOLDERS_MAX", 3)
    for n in range(10):
        spool.store(spool.path_of(f"1.2.{n}", "ab" * 32), (b"x",))
        assert len(spool._synced) <= 3


def test_names_come_from_content_alone(spool):
    path = spool.path_of("../../../etc/passwd", "ab" * 32)
    assert ".." not in path.parts
    assert path.parts[0] == "spool"
    assert path.parts[2] == "ab" * 32 + ".dcm"
    assert path.parent == spool.path_of("../../../etc/passwd", "cd" * 32).parent


def test_files_are_not_for_others_to_read(spool, tmp_path):
    path = spool.path_of("1.2.3", "ab" * 32)
    spool.store(path, (b"patient",))
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
        spool.store(path, (b"x",))
    monkeypatch.undo()
    assert os.strerror(number) in caught.value.message
    assert caught.value.dimse_status == 0xA700
    assert files_in(tmp_path) == []
    assert spool.store(path, (b"x",)) == 1


def test_short_writes_are_continued(spool, tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, view: real(fd, bytes(view[:3])))
    path = spool.path_of("1.2.3", "ab" * 32)
    assert spool.store(path, (b"0123456789", b"abc")) == 13
    assert (tmp_path / path).read_bytes() == b"0123456789abc"


def test_drafts_of_the_dead_are_cleared_and_those_of_the_living_are_not(spool, tmp_path):
    dead = tmp_path / "incoming" / "tmpdead"
    dead.write_bytes(b"half")
    cleared = []

    def parts():
        yield b"first"
        cleared.append(spool.clear_incoming())
        yield b"second"

    path = spool.path_of("1.2.3", "ab" * 32)
    spool.store(path, parts())
    assert cleared == [1]
    assert (tmp_path / path).read_bytes() == b"firstsecond"
    assert files_in(tmp_path / "incoming") == []
    assert spool.clear_incoming() == 0


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "rb")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_draft_ends_with_its_process(spool, tmp_path):
    draft = tmp_path / "incoming" / "tmp1"
    draft.write_bytes(b"half")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(draft)], **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert spool.clear_incoming() == 0
        holder.kill()
        holder.wait(10)
        assert spool.clear_incoming() == 1


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
