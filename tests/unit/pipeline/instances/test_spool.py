"""The spool: what is visible is whole and synced, and what a peer sends is never a name."""

import errno
import gc
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from osteon.errors import OutOfResourcesError
from osteon.pipeline.instances import drafts as drafts_module
from osteon.pipeline.instances.drafts import READY, Draft
from osteon.pipeline.instances.spool import (
    Spool,
    abandoned,
    free_bytes,
    move_durably,
    unwritable,
    write_durably,
)
from tests.tools import wait_until


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
        spool.settle(draft, path)
        return draft.size


def files_in(folder: Path) -> list[Path]:
    """Files that hold something."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def failing(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def record_calls(monkeypatch) -> list[tuple[str, str]]:
    """Note every call that makes something durable: which, and on what."""
    calls: list[tuple[str, str]] = []

    def noting(name):
        real = getattr(os, name)

        def call(first, *rest, **keywords):
            if isinstance(first, int):
                on = str(Path(f"/proc/self/fd/{first}").readlink())
            else:
                on = str(rest[0] if name in {"replace", "link"} else first)
            calls.append((name, on))
            return real(first, *rest, **keywords)

        monkeypatch.setattr(os, name, call)

    for name in ("write", "fdatasync", "fsync", "replace", "link"):
        noting(name)
    return calls


def test_data_then_name_then_folders(spool, tmp_path, monkeypatch):
    path = spool.path_of("1.2.3", "ab" * 32)
    incoming, target = tmp_path / "incoming" / "receive", tmp_path / path
    calls = record_calls(monkeypatch)
    draft = spool.draft()
    assert ("fsync", str(incoming)) in calls  # Its first name is on the disk before it is written.

    draft.write(b"head")
    draft.write(memoryview(b"data"))
    draft.sync()
    spool.publish(draft, path)
    made = [name for name, _ in calls if name != "fsync"]
    assert list(dict.fromkeys(made)) == ["write", "fdatasync", "link"]
    assert target.read_bytes() == b"headdata"
    (first_name,) = files_in(incoming)
    assert first_name.samefile(target)

    calls.clear()
    spool.settle(draft, path)
    spool.close()
    assert {("fsync", str(target.parent)), ("fsync", str(tmp_path / "spool"))} <= set(calls)
    assert files_in(incoming) == []
    assert target.read_bytes() == b"headdata"


def test_the_first_name_stays_until_the_last_one_is_synced(spool, tmp_path, monkeypatch):
    path = spool.path_of("1.2.3", "ab" * 32)
    with spool.draft() as draft:
        draft.write(b"x")
        draft.sync()
        spool.publish(draft, path)
        monkeypatch.setattr(drafts_module, "sync_folder", failing(errno.EIO))
        spool.settle(draft, path)
    spool.close()
    (first_name,) = files_in(tmp_path / "incoming")
    assert first_name.samefile(tmp_path / path)


def test_names_are_made_and_synced_many_at_a_time(spool, tmp_path, monkeypatch):
    incoming = tmp_path / "incoming" / "receive"
    store(spool, spool.path_of("1.2.3", "ab" * 32))
    wait_until(lambda: len(list(incoming.iterdir())) == READY, 5)
    calls = record_calls(monkeypatch)
    for number in range(2 * READY):
        store(spool, spool.path_of("1.2.3", f"{number:064x}"))
    spool.close()
    assert len([on for name, on in calls if name == "fsync"]) < 2 * READY
    assert len(files_in(tmp_path)) == 2 * READY + 1


def test_the_thread_that_does_so_ends(spool, monkeypatch):
    monkeypatch.setattr(drafts_module, "KEEPER_S", 0.01)
    store(spool, spool.path_of("1.2.3", "ab" * 32))
    wait_until(lambda: spool._drafts._keeper is None, 5)
    store(spool, spool.path_of("1.2.3", "cd" * 32))
    wait_until(lambda: spool._drafts._keeper is None, 5)
    assert not spool._drafts._named


def test_it_does_without_the_thread_where_none_can_be_had(spool, tmp_path, monkeypatch):
    def fail(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    monkeypatch.setattr(drafts_module, "NAMED_MAX", 3)
    for number in range(10):
        store(spool, spool.path_of("1.2.3", f"{number:064x}"))
        assert len(spool._drafts._named) <= 3
    spool.close()
    assert len(files_in(tmp_path)) == 10


def test_a_purged_series_hinders_nobody(spool, tmp_path):
    path = spool.path_of("1.2.3", "ab" * 32)
    store(spool, path)
    (tmp_path / path).unlink()
    (tmp_path / path).parent.rmdir()
    spool.close()
    assert files_in(tmp_path) == []


def test_an_older_file_of_the_name_is_replaced_durably(spool, tmp_path, monkeypatch):
    path = spool.path_of("1.2.3", "ab" * 32)
    store(spool, path, (b"damaged",))
    calls = record_calls(monkeypatch)
    with spool.draft() as draft:
        draft.write(b"whole")
        draft.sync()
        assert not spool.publish(draft, path)
        spool.replace(draft, path)
        spool.settle(draft, path)
    spool.close()
    assert files_in(tmp_path) == [tmp_path / path]
    assert (tmp_path / path).read_bytes() == b"whole"
    at = calls.index(("replace", str(tmp_path / path)))
    assert ("fsync", str((tmp_path / path).parent)) in calls[at:]


def test_only_its_own_name_is_taken_from_a_draft(spool, tmp_path):
    path, other = (spool.path_of("1.2.3", c * 64) for c in "ab")
    store(spool, other)
    with spool.draft() as draft:
        draft.write(b"y")
        draft.sync()
        spool.publish(draft, path)
        spool.withdraw(draft, other)
        spool.withdraw(draft, path)
    spool.close()
    assert files_in(tmp_path) == [tmp_path / other]


def test_a_removed_series_folder_is_made_again(spool, tmp_path):
    path = spool.path_of("1.2.3", "ab" * 32)
    store(spool, path)
    (tmp_path / path).unlink()
    (tmp_path / path).parent.rmdir()
    store(spool, path, (b"y",))
    assert (tmp_path / path).read_bytes() == b"y"


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


@pytest.mark.parametrize("call", ["write", "fdatasync", "link"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_whatever_fails_leaves_no_file_and_may_be_tried_again(
    spool, tmp_path, monkeypatch, call, number
):
    path = spool.path_of("1.2.3", "ab" * 32)
    monkeypatch.setattr(os, call, failing(number))
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


def test_what_a_dead_process_left_is_given_oldest_first(tmp_path):
    left = [tmp_path / name for name in ("2-0", "1-0", "1-1")]
    for draft in left:
        draft.write_bytes(b"half" if draft != left[1] else b"")
        os.utime(draft, (0, len(draft.read_bytes()) + left.index(draft)))
    with abandoned(tmp_path) as drafts:
        assert drafts == [left[0], left[2]]
    assert not left[1].exists()


def test_drafts_of_the_living_are_left_alone(spool, tmp_path):
    path = spool.path_of("1.2.3", "ab" * 32)
    with spool.draft() as draft:
        draft.write(b"first")
        with abandoned(tmp_path / "incoming" / "receive") as drafts:
            assert drafts == []
        draft.write(b"second")
        draft.sync()
        spool.publish(draft, path)
        spool.settle(draft, path)
    spool.close()
    assert (tmp_path / path).read_bytes() == b"firstsecond"
    assert files_in(tmp_path / "incoming") == []


def test_a_draft_never_takes_the_place_of_another(tmp_path, monkeypatch):
    """Process ids are used again; what a dead process left is not written into."""
    monkeypatch.setattr(drafts_module, "_numbers", itertools.count())
    left = tmp_path / f"{os.getpid():x}-0"
    left.write_bytes(b"half")
    with Draft.create(tmp_path) as draft:
        draft.write(b"new")
        assert left.read_bytes() == b"half"
    assert files_in(tmp_path) == [left]


HOLD = """
import sys, pathlib
from osteon.pipeline.instances.spool import Spool
spool = Spool(pathlib.Path(sys.argv[1]), "receive")
draft = spool.draft()
draft.write(b"half")
draft.sync()
print("held", flush=True)
sys.stdin.read()
"""


def test_the_hold_on_a_folder_ends_with_its_process(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        with abandoned(tmp_path / "incoming" / "receive") as drafts:
            assert drafts == []
        holder.kill()
        holder.wait(10)
        with abandoned(tmp_path / "incoming" / "receive") as drafts:
            assert len(drafts) == 1


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


def test_who_tidies_up_costs_one_refusal(spool, tmp_path):
    """Drafts are open beforehand; their names may be taken away meanwhile."""
    draft = spool.draft()
    wait_until(lambda: len(spool._drafts._ready) == READY, 5)
    for name in (tmp_path / "incoming" / "receive").iterdir():
        name.unlink()
    draft.write(b"image")
    draft.sync()
    path = spool.path_of("1.2.3", "ab")
    with pytest.raises(OutOfResourcesError):
        spool.publish(draft, path)
    draft.discard()

    with spool.draft() as again:
        again.write(b"image")
        again.sync()
        assert spool.publish(again, path)
    assert (tmp_path / path).read_bytes() == b"image"


def test_a_pool_that_nobody_closes_leaves_no_descriptors(tmp_path):
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for number in range(3):
        spool = Spool(tmp_path / str(number), "receive")
        spool.draft().discard()
        wait_until(lambda s=spool: len(s._drafts._ready) > READY // 2, 5)
        wait_until(lambda s=spool: s._drafts._keeper is None, 5)
        del spool
        gc.collect()
    assert open_files() <= before
