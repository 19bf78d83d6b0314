"""Files in whole blocks: every length, past the cache and through it, and what a disk may say."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from osteon.pipeline.instances import blocks
from osteon.pipeline.instances.blocks import (
    BLOCK_BYTES,
    DIRECT,
    SLAB_BYTES,
    SLABS_KEPT_MAX,
    BlockWriter,
    Slabs,
)
from osteon.pipeline.instances.digest import digest_of

LENGTHS = [
    0,
    1,
    BLOCK_BYTES - 1,
    BLOCK_BYTES,
    BLOCK_BYTES + 1,
    SLAB_BYTES - 1,
    SLAB_BYTES,
    SLAB_BYTES + 1,
    2 * SLAB_BYTES + 3 * BLOCK_BYTES + 5,
]


@pytest.fixture(params=[True, False], ids=["direct", "by the cache"])
def is_direct(request: pytest.FixtureRequest, tmp_path: Path) -> bool:
    if request.param:
        try:
            os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_CREAT | DIRECT))
        except OSError:
            pytest.skip("this file system takes no direct I/O")
    return bool(request.param)


def begin(path: Path, slabs: Slabs, *, is_direct: bool) -> BlockWriter:
    writer = BlockWriter.create(path, slabs, direct=is_direct)
    assert writer._is_direct == is_direct
    return writer


def content(length: int) -> bytes:
    return bytes(os.urandom(977) * (length // 977 + 1))[:length]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("step", [777, 131_060, 3 * SLAB_BYTES])
def test_every_length_is_written_as_it_came(
    tmp_path: Path, length: int, step: int, is_direct: bool
) -> None:
    sent, path = content(length), tmp_path / "file"
    writer = begin(path, Slabs(), is_direct=is_direct)
    for at in range(0, length, step):
        writer.write(memoryview(sent)[at : at + step])
    assert writer.size == length
    writer.sync()
    assert path.read_bytes() == sent


@pytest.mark.parametrize("length", [100, BLOCK_BYTES, SLAB_BYTES, 2 * SLAB_BYTES + 77])
def test_bytes_near_the_start_are_replaced_wherever_they_are(
    tmp_path: Path, length: int, is_direct: bool
) -> None:
    sent, path = content(length), tmp_path / "file"
    writer = begin(path, Slabs(), is_direct=is_direct)
    writer.write(sent)
    writer.overwrite(40, b"digest")
    writer.write(b"more")
    writer.sync()
    assert path.read_bytes() == sent[:40] + b"digest" + sent[46:] + b"more"


@pytest.mark.parametrize("length", LENGTHS)
def test_the_digest_is_of_what_came_behind_the_mark(
    tmp_path: Path, length: int, is_direct: bool
) -> None:
    sent = content(length)
    writer = begin(tmp_path / "file", Slabs(), is_direct=is_direct)
    writer.write(b"header" * 100)
    writer.hash_from_here()
    for at in range(0, length, 130_000):
        writer.write(sent[at : at + 130_000])
    assert writer.digest().hex() == digest_of(sent)
    writer.overwrite(0, b"HEADER")
    writer.sync()
    assert (tmp_path / "file").read_bytes() == b"HEADER" + b"header" * 99 + sent


def test_memory_is_used_again_and_what_was_in_it_is_not_written(tmp_path: Path) -> None:
    slabs = Slabs()
    first = begin(tmp_path / "first", slabs, is_direct=False)
    first.write(b"secret" * 1000)
    first.sync()
    second = begin(tmp_path / "second", slabs, is_direct=False)
    assert len(slabs._free) == 1
    second.write(b"x")
    assert len(slabs._free) == 0
    second.sync()
    assert (tmp_path / "second").read_bytes() == b"x"


def test_only_so_much_memory_is_kept(tmp_path: Path) -> None:
    slabs = Slabs()
    writers = [
        begin(tmp_path / str(number), slabs, is_direct=False)
        for number in range(SLABS_KEPT_MAX + 3)
    ]
    for writer in writers:
        writer.write(b"x")
    for writer in writers:
        writer.close()
        writer.close()
    assert len(slabs._free) == SLABS_KEPT_MAX


def test_a_file_that_takes_no_direct_writes_goes_by_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where blocks are larger than the ones that are written."""
    path, real = tmp_path / "file", os.write
    writer = begin(path, Slabs(), is_direct=True)
    descriptor = writer._descriptor

    def write(to: int, view: memoryview) -> int:
        if to == descriptor and fcntl.fcntl(to, fcntl.F_GETFL) & DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(to, view)

    monkeypatch.setattr(blocks.os, "write", write)
    sent = content(SLAB_BYTES + 100)
    writer.write(sent)
    writer.sync()
    assert path.read_bytes() == sent


@pytest.mark.parametrize("is_made", [True, False])
def test_a_file_system_that_knows_no_direct_writes_is_written_by_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    real = os.open

    def open_(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & DIRECT:
            if is_made:  # As by Linux, which finds out late.
                os.close(real(path, flags & ~DIRECT, mode))
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(path, flags, mode)

    monkeypatch.setattr(blocks.os, "open", open_)
    writer = BlockWriter.create(tmp_path / "file", Slabs(), direct=True)
    writer.write(b"x" * 5000)
    writer.sync()
    assert (tmp_path / "file").read_bytes() == b"x" * 5000
    with pytest.raises(FileExistsError):
        BlockWriter.create(tmp_path / "file", Slabs(), direct=False)


def test_what_a_disk_refuses_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: int, __: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = begin(tmp_path / "file", Slabs(), is_direct=True)
    monkeypatch.setattr(blocks.os, "write", write)
    writer.write(b"x" * BLOCK_BYTES)
    with pytest.raises(OSError, match="No space"):
        writer.sync()
    writer.close()


def test_an_einval_that_is_not_about_direct_writes_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_: int, __: memoryview) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    writer = begin(tmp_path / "file", Slabs(), is_direct=True)
    monkeypatch.setattr(blocks.os, "write", write)
    writer.write(b"x" * BLOCK_BYTES)
    with pytest.raises(OSError, match="Invalid"):
        writer.sync()
    writer.close()
