"""A zip keeps to the limits or is refused, whatever its bytes are."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from osteon.errors import UnparseableError
from osteon.http import archive as room
from osteon.http.archive import inflate, open_archive, refusal_of
from tests.http_parts import zip_of

SMALL = zip_of({"a/1.dcm": b"one" * 500, "b": b"", "c": bytes(range(256))})
GIGABYTE = 10**9


def opened(raw: bytes, inflated_max: int = GIGABYTE) -> zipfile.ZipFile:
    return open_archive(io.BytesIO(raw), len(raw), inflated_max=inflated_max)


def test_members_come_out_as_they_went_in() -> None:
    with opened(SMALL) as archive:
        found = {e.filename: b"".join(inflate(archive, e)) for e in archive.infolist()}
    assert found == {"a/1.dcm": b"one" * 500, "b": b"", "c": bytes(range(256))}


def test_a_zip_with_a_comment_is_a_zip() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", b"x")
        archive.comment = b"a remark of 20 bytes"
    with opened(buffer.getvalue()) as archive:
        assert archive.namelist() == ["x"]


def test_more_than_the_limit_of_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ENTRIES_MAX", 2)
    with pytest.raises(HTTPException, match="3 entries and 2 are the limit") as refused:
        opened(SMALL)
    assert refused.value.status_code == 413


def test_more_than_the_limit_of_bytes() -> None:
    with pytest.raises(HTTPException, match="inflates to 1756 bytes and 1000 are the limit"):
        opened(SMALL, inflated_max=1000)


def test_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RATIO_FREE_BYTES", 2**20)
    bomb = zip_of({"zeros": bytes(4 * 2**20)})
    with pytest.raises(HTTPException, match="more than 100 times"):
        opened(bomb)


def test_a_directory_that_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DIRECTORY_BYTES_MAX", 100)
    with pytest.raises(UnparseableError, match="directory is larger than 100 bytes"):
        opened(SMALL)


def test_a_member_gives_no_more_than_it_declares() -> None:
    """A forged size of the directory must not let more bytes out than were counted."""
    raw = bytearray(zip_of({"x": b"y" * 1000}))
    entry = raw.index(b"PK\x01\x02")
    struct.pack_into("<L", raw, entry + 24, 10)
    with opened(bytes(raw)) as archive:
        (member,) = archive.infolist()
        with pytest.raises(UnparseableError, match="CRC"):
            list(inflate(archive, member))


@pytest.mark.parametrize(
    ("flags", "method", "reason"),
    [(1, 8, "encrypted"), (0, 14, "compression method 14"), (0, 12, "compression method 12")],
)
def test_what_cannot_be_read_says_why(flags: int, method: int, reason: str) -> None:
    entry = zipfile.ZipInfo("x")
    entry.flag_bits, entry.compress_type = flags, method
    assert reason in (refusal_of(entry) or "")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broken_bytes_are_refused_and_never_raise_anything_else(data: st.DataObject) -> None:
    raw = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        with opened(bytes(raw)) as archive:
            for entry in archive.infolist():
                if refusal_of(entry) is None:
                    list(inflate(archive, entry))
    except (UnparseableError, HTTPException):
        return


@pytest.mark.parametrize("place", [10**6, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_member_that_begins_behind_the_file_is_damaged(place: int, tmp_path: Path) -> None:
    """The directory names its place in 64 bits, in an extra field (APPNOTE 4.5.3)."""
    whole = zip_of({"a": b"one"})
    directory, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    extra = struct.pack("<HHQ", 1, 8, place)
    entry, tail = bytearray(whole[directory:end]), bytearray(whole[end:])
    struct.pack_into("<H", entry, 30, len(extra))
    struct.pack_into("<L", entry, 42, 2**32 - 1)
    struct.pack_into("<L", tail, 12, len(entry) + len(extra))
    raw = whole[:directory] + bytes(entry) + extra + bytes(tail)
    (tmp_path / "x.zip").write_bytes(raw)
    with (
        (tmp_path / "x.zip").open("rb") as file,
        open_archive(file, len(raw), inflated_max=GIGABYTE) as archive,
        pytest.raises(UnparseableError, match=f"damaged in the zip: .* the place {place}"),
    ):
        list(inflate(archive, archive.infolist()[0]))


def test_a_member_that_begins_before_the_file_is_damaged(tmp_path: Path) -> None:
    raw = bytearray(SMALL)
    (offset,) = struct.unpack_from("<L", raw, len(raw) - 6)
    struct.pack_into("<L", raw, len(raw) - 6, offset + 1000)
    (tmp_path / "x.zip").write_bytes(raw)
    with (
        (tmp_path / "x.zip").open("rb") as file,
        open_archive(file, len(raw), inflated_max=GIGABYTE) as archive,
        pytest.raises(UnparseableError, match="names the place -1000"),
    ):
        b"".join(inflate(archive, archive.infolist()[0]))
