"""A header that is read without pydicom: what pydicom would have read, or nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from osteon.errors import VolumeError
from osteon.pipeline.images import header, plainheader
from osteon.pipeline.images.header import SourceInstance, read_header
from osteon.pipeline.images.headervalues import HeaderValues
from osteon.pipeline.images.plainheader import (
    BYTES_MAX,
    FIRST_BYTES,
    META_AT,
    PlainHeader,
    read_plain,
)
from osteon.pipeline.phantoms.phantom import write_phantom
from tests.unit.pipeline.ct import enhanced, image, series, write

STORED = np.full((4, 6), 1030, np.uint16)


def plain_of(path: Path) -> PlainHeader | None:
    with path.open("rb") as file:
        return read_plain(file)


def outcome(path: Path) -> object:
    try:
        return read_header(path)
    except VolumeError as error:
        return str(error)


def by_pydicom(path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    with monkeypatch.context() as patch:
        patch.setattr(header, "read_plain", lambda _: None)
        return outcome(path)


def with_private(ds: Dataset, size: int) -> Dataset:
    ds.add_new(Tag(0x0009, 0x0010), "LO", "OSTEON TEST")
    ds.add_new(Tag(0x0009, 0x1001), "OB", bytes(size))
    return ds


def with_sequence(undefined: bool) -> Dataset:
    ds, item = image(STORED), Dataset()
    item.ReferencedSOPInstanceUID, item.Rows, item.SeriesInstanceUID = "9.9", 77, "8.8"
    ds.ReferencedImageSequence = Sequence([item, item])
    ds["ReferencedImageSequence"].is_undefined_length = undefined
    return ds


def in_syntax(syntax: str) -> Dataset:
    ds = image(STORED)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = STORED.byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    return ds


def test_all_real_files_say_what_pydicom_reads(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [path for path in sorted(shared_data.rglob("*")) if path.is_file()]
    read = [path for path in paths if outcome(path) == by_pydicom(path, monkeypatch)]
    assert read == paths
    assert sum(plain_of(path) is not None for path in paths) > 300


def test_a_phantom_is_read_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_phantom(tmp_path, slices=6, rows=32, columns=32).paths
    assert all(plain_of(path) is not None for path in paths)
    assert [outcome(path) for path in paths] == [by_pydicom(path, monkeypatch) for path in paths]


@pytest.mark.parametrize(
    "ds",
    [
        in_syntax(ExplicitVRLittleEndian),
        in_syntax(ImplicitVRLittleEndian),
        with_sequence(undefined=False),
        with_sequence(undefined=True),
        with_private(image(STORED), 3 * FIRST_BYTES),
        image(STORED, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientID="é"),
        image(STORED, Rows=None),
        image(STORED, PixelPaddingValue=63536, RescaleType="HU", NumberOfFrames="1"),
    ],
    ids=[
        "explicit", "implicit", "sequence", "undefined length", "long", "characters", "no Rows",
        "padding",
    ],
)  # fmt: skip
def test_a_plain_header_says_what_pydicom_reads(
    ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write(tmp_path, [ds])
    assert plain_of(path) is not None
    assert outcome(path) == by_pydicom(path, monkeypatch)


@pytest.mark.parametrize(
    "ds",
    [
        in_syntax(ExplicitVRBigEndian),
        in_syntax(DeflatedExplicitVRLittleEndian),
        enhanced(np.stack([STORED, STORED]), [2.0, 4.0], [(1.0, 0.0), (1.0, 0.0)]),
        with_private(image(STORED), BYTES_MAX),
        image(STORED, PixelData=None),
    ],
    ids=["big endian", "deflated", "functional groups", "too long", "no pixels"],
)
def test_what_is_not_plain_is_left_to_pydicom(
    ds: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write(tmp_path, [ds])
    assert plain_of(path) is None
    assert outcome(path) == by_pydicom(path, monkeypatch)


def test_a_file_that_is_encoded_otherwise_than_it_says_is_left_to_pydicom(tmp_path: Path) -> None:
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    paths = write(tmp_path, [in_syntax(syntax) for syntax in syntaxes])
    raws = [path.read_bytes() for path in paths]
    starts = [META_AT + raw[META_AT - 4] for raw in raws]
    for path, meta, other in zip(paths, (0, 1), (1, 0), strict=True):
        path.write_bytes(raws[meta][: starts[meta]] + raws[other][starts[other] :])
        assert plain_of(path) is None
        path.write_bytes(raws[meta])
        assert plain_of(path) is not None


@pytest.mark.filterwarnings("ignore")  # pydicom's, as `read_volume` does.
def test_a_damaged_data_set_is_read_as_pydicom_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write(tmp_path, [with_sequence(undefined=False)])
    whole = path.read_bytes()
    first = META_AT + whole[META_AT - 4]
    rng = np.random.default_rng(0)
    compared = 0
    for place in rng.integers(first, len(whole) - 48, 400):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        wanted = by_pydicom(path, monkeypatch)
        # pydicom refuses a file for what is wrong within an item that nobody asks for.
        if isinstance(wanted, SourceInstance) or isinstance(outcome(path), str):
            assert outcome(path) == wanted, f"byte {place}"
            compared += plain_of(path) is not None
    assert compared > 200


def test_every_value_that_is_asked_for_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()

    class Noting(HeaderValues):
        def texts(self, keyword: str) -> tuple[str, ...]:
            asked.add(keyword)
            return super().texts(keyword)

        def integer(self, keyword: str, **options: Any) -> int | None:
            asked.add(keyword)
            return super().integer(keyword, **options)

    monkeypatch.setattr(header, "HeaderValues", Noting)
    for path in write(tmp_path, series(1)):
        read_header(path)
    asked.discard("FrameType")  # Of an item of functional groups.
    assert {int(Tag(keyword)) for keyword in asked} >= plainheader.VALUES - {0x00281052, 0x00281053}
    assert {int(Tag(keyword)) for keyword in asked} <= plainheader.VALUES
