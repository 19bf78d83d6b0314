"""A data set that was cut off is noticed, and nothing else is taken for one."""

import itertools
import random
import struct
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from osteon.errors import UnparseableError
from osteon.pipeline.instances.elements import ELEMENTS_MAX
from osteon.pipeline.instances.index import HeaderReader
from osteon.pipeline.instances.part10 import decode_header
from tests.pipeline_parts import ct_slice

NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
EXPLICIT = str(ExplicitVRLittleEndian)


def pieces(raw: bytes, seed: int) -> list[bytes]:
    """Of all lengths, so that headers are cut in all ways."""
    chance = random.Random(seed)
    cuts = sorted({0, len(raw), *(chance.randrange(len(raw)) for _ in range(chance.randrange(9)))})
    return [raw[a:b] for a, b in itertools.pairwise(cuts)]


def read(raw: bytes, syntax: str, seed: int = 0) -> None:
    reader = HeaderReader(syntax)
    headers = [reader.feed(part) for part in pieces(raw, seed)]
    if not any(headers):
        reader.finish()
    reader.end()


def slice_of(syntax: str, pixels: bytes, *, large_header: bool = False) -> bytes:
    ds = dcmread(BytesIO(ct_slice(1)), force=True)
    if large_header:
        ds.add_new(0x00091010, "OB", bytes(100_000))
    ds.SamplesPerPixel, ds.BitsAllocated = 1, 8
    ds.add_new(0x7FE00010, "OB", pixels)
    ds["PixelData"].is_undefined_length = syntax == JPEGLSLossless
    ds.add_new(0xFFFCFFFC, "OB", b"\0" * 30)
    raw = DicomBytesIO()
    raw.is_implicit_VR = syntax == ImplicitVRLittleEndian
    raw.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(raw, ds)
    return raw.getvalue()


@pytest.mark.parametrize("large_header", [False, True])
@pytest.mark.parametrize("syntax", [*NATIVE, JPEGLSLossless])
def test_what_is_cut_within_a_value_is_refused(syntax: str, large_header: bool) -> None:
    pixels = bytes(range(256)) * 512
    if syntax == JPEGLSLossless:
        pixels = encapsulate([pixels[:50_001], pixels[50_001:]])
    raw = slice_of(syntax, pixels, large_header=large_header)
    for seed in range(20):
        read(raw, syntax, seed)
    # Within the pixels; with the padding cut off, or between two fragments, nothing is certain.
    for cut in (60, 1_000, 70_000, len(pixels) - 100):
        for seed in range(5):
            with pytest.raises(UnparseableError, match="cut off"):
                read(raw[:-cut], syntax, seed)


def test_real_files_of_all_syntaxes(shared_data: Path) -> None:
    """None is refused whole, and each native or encapsulated one when it is cut."""
    refused = 0
    for path in sorted((shared_data / "cornerstone_ct_16ts").rglob("*.dcm")):
        raw = path.read_bytes()
        meta, at = decode_header(raw)
        read(raw[at:], meta.transfer_syntax_uid)
        try:
            read(raw[at : len(raw) - 5_000], meta.transfer_syntax_uid)
        except UnparseableError:
            refused += 1
        else:
            assert meta.transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    assert refused >= 14


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\0",
        b"\0" * 20,
        b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\2\0\0\0xx",  # No delimiter.
        b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + b"garbage that is no item at all",
        b"\xe0\x7f\x10\0??\0\0\xff\xff\xff\x7f",
        b"\0\x52\x30\x92SQ\0\0\xff\xff\xff\xff" + b"whatever its items hold",
    ],
)
def test_what_is_not_certain_is_taken(tail: bytes) -> None:
    for seed in range(10):
        read(ct_slice(1) + tail, EXPLICIT, seed)


def test_a_pixel_of_too_little_is_too_little() -> None:
    short = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 4) + b"abc"
    with pytest.raises(UnparseableError, match=r"it has .* bytes and its elements"):
        read(ct_slice(1) + short, EXPLICIT)


def test_a_flood_of_fragments_is_not_followed_for_long() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    flood = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + item * (ELEMENTS_MAX + 10)
    reader = HeaderReader(EXPLICIT)
    reader.feed(ct_slice(1) + flood)
    assert reader._extent is not None
    assert reader._extent._left == 0
    reader.end()


def test_a_data_set_without_pixels_may_end_anywhere_between_elements() -> None:
    ds = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(ds, keyword, "1.2.3")
    raw = DicomBytesIO()
    raw.is_implicit_VR, raw.is_little_endian = False, True
    write_dataset(raw, ds)
    read(raw.getvalue(), EXPLICIT)


def test_encapsulated_fixture_is_what_it_says() -> None:
    raw = slice_of(JPEGLSLossless, encapsulate([b"x" * 10]))
    assert dcmread(BytesIO(raw), force=True)["PixelData"].is_undefined_length
