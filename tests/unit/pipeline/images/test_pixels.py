"""Stored values against pydicom and DCMTK, in every transfer syntax; Hounsfield units."""

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
)

from osteon.errors import VolumeError
from osteon.pipeline.images.header import read_header
from osteon.pipeline.images.pixels import GDCM_ONLY, NATIVE, PYDICOM_PLUGINS, read_frames
from osteon.pipeline.images.rescale import AIR_HU, to_hu
from tests.tools import require_tool
from tests.unit.pipeline.ct import image, write

LOSSY = {".50", ".51", ".53", ".55", ".81", ".91"}
SYNTAXES = sorted(NATIVE | PYDICOM_PLUGINS.keys() | GDCM_ONLY)


def stored(path: Path) -> NDArray[np.int64]:
    return np.stack([frame.astype(np.int64) for frame in read_frames(read_header(path).pixels)])


def of_syntax(shared_data: Path, syntax: str) -> Path:
    return next((shared_data / "cornerstone_ct_16ts").glob(f"*Syntax_{syntax}.dcm"))


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax_decodes_as_its_reference_does(
    shared_data: Path, tmp_path: Path, syntax: UID
) -> None:
    path = of_syntax(shared_data, syntax)
    pixels = stored(path)
    if syntax in GDCM_ONLY:
        decoded = tmp_path / "decoded.dcm"
        subprocess.run([require_tool("/usr/bin/dcmdjpeg"), path, decoded], check=True)
        expected = pydicom.dcmread(decoded).pixel_array
    else:
        expected = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(pixels[0], expected)
    if syntax[-3:] not in LOSSY:
        np.testing.assert_array_equal(pixels, stored(of_syntax(shared_data, "1.2.840.10008.1.2")))


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("/usr/bin/dcmcjpeg", ["+e1"]),
        ("/usr/bin/dcmcjpeg", ["+el"]),
        ("/usr/bin/dcmcjpls", []),
        ("/usr/bin/dcmcrle", []),
        ("/usr/bin/dcmconv", ["+tb"]),
        ("/usr/bin/dcmconv", ["+ti"]),
        ("/usr/bin/dcmconv", ["+td"]),
    ],
)
@pytest.mark.parametrize(("bits", "kind"), [(12, "u"), (12, "i"), (16, "i"), (16, "u")])
def test_signs_and_bits_survive_each_lossless_encoder(
    tmp_path: Path, tool: str, options: list[str], bits: int, kind: str
) -> None:
    low = -(2 ** (bits - 1)) if kind == "i" else 0
    values = np.random.default_rng(1).integers(low, low + 2**bits, (32, 40))
    values[0, :2] = low, low + 2**bits - 1
    ds = image(values.astype(f"<{kind}2"), BitsStored=bits, HighBit=bits - 1)
    (path,) = write(tmp_path, [ds])
    encoded = tmp_path / "encoded.dcm"
    subprocess.run([require_tool(tool), *options, path, encoded], check=True)
    assert pydicom.dcmread(encoded).file_meta.TransferSyntaxUID != ds.file_meta.TransferSyntaxUID
    np.testing.assert_array_equal(stored(encoded)[0], values)


@pytest.mark.parametrize("kind", ["u", "i"])
def test_bits_outside_bits_stored_are_dropped(tmp_path: Path, kind: str) -> None:
    raw = np.array([[0xF7FF, 0xF800, 0x0FFF, 0x1001]], np.uint16).view(f"<{kind}2")
    (path,) = write(tmp_path, [image(raw, BitsStored=12, HighBit=11)])
    expected = {"u": [0x7FF, 0x800, 0xFFF, 1], "i": [2047, -2048, -1, 1]}[kind]
    assert stored(path)[0, 0].tolist() == expected
    assert pydicom.dcmread(path).pixel_array[0].tolist() == expected


def test_values_stored_in_the_high_bits_are_shifted_down(tmp_path: Path) -> None:
    values = np.array([[-2048, -1, 0, 1, 2047]], np.int16)
    (path,) = write(tmp_path, [image(values << 4, BitsStored=12, HighBit=15)])
    assert stored(path).tolist() == [values.tolist()]


def test_several_native_frames_in_big_endian_and_implicit_vr(tmp_path: Path) -> None:
    values = np.arange(-30, 30, dtype=np.int16).reshape(3, 4, 5)
    for syntax, order in ((ExplicitVRBigEndian, ">"), (ImplicitVRLittleEndian, "<")):
        ds = image(values, NumberOfFrames=3, PixelData=values.astype(f"{order}i2").tobytes())
        ds.file_meta.TransferSyntaxUID = syntax
        path = tmp_path / f"{syntax}.dcm"
        pydicom.dcmwrite(
            path, ds, implicit_vr=order == "<", little_endian=order == "<", enforce_file_format=True
        )
        np.testing.assert_array_equal(stored(path), values)


def test_eight_bit_pixels(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.uint8).reshape(4, 5)
    (path,) = write(tmp_path, [image(values)])
    np.testing.assert_array_equal(stored(path)[0], values)


def test_a_syntax_without_decoder_is_named(tmp_path: Path) -> None:
    ds = image(np.zeros((4, 6), np.uint16), PixelData=encapsulate([b"\xff\x4f\xff\xd9"]))
    ds.file_meta.TransferSyntaxUID = HTJ2KLossless
    (path,) = write(tmp_path, [ds])
    with pytest.raises(VolumeError, match=r"image 1 \(000.dcm\): no decoder.*High-Throughput"):
        stored(path)


@pytest.mark.parametrize("syntax", sorted(PYDICOM_PLUGINS.keys() | GDCM_ONLY))
def test_half_a_stream_is_refused_by_name(shared_data: Path, tmp_path: Path, syntax: UID) -> None:
    ds = pydicom.dcmread(of_syntax(shared_data, syntax))
    stream = get_frame(ds.PixelData, 0, number_of_frames=1)
    ds.PixelData = encapsulate([stream[: len(stream) // 2]])
    (path,) = write(tmp_path, [ds])
    with pytest.raises(VolumeError, match=r"^image 1 \(000.dcm\): .*damaged or truncated"):
        stored(path)


@pytest.mark.parametrize("syntax", ["5", "4.51", "4.57", "4.80", "4.90"])
@pytest.mark.parametrize("fragments", [1, 3])
def test_several_compressed_frames_in_several_fragments(
    shared_data: Path, tmp_path: Path, syntax: str, fragments: int
) -> None:
    ds = pydicom.dcmread(of_syntax(shared_data, f"1.2.840.10008.1.2.{syntax}"))
    stream = get_frame(ds.PixelData, 0, number_of_frames=1)
    (single,) = stored(of_syntax(shared_data, f"1.2.840.10008.1.2.{syntax}"))
    ds.NumberOfFrames = 3
    ds.PixelData = encapsulate([stream] * 3, fragments_per_frame=fragments)
    (path,) = write(tmp_path, [ds])
    np.testing.assert_array_equal(stored(path), np.stack([single] * 3))


def test_a_missing_frame_is_refused(shared_data: Path, tmp_path: Path) -> None:
    ds = pydicom.dcmread(of_syntax(shared_data, "1.2.840.10008.1.2.4.70"))
    ds.NumberOfFrames = 2
    (path,) = write(tmp_path, [ds])
    with pytest.raises(VolumeError, match="truncated"):
        stored(path)


def test_a_frame_of_another_size_is_refused(shared_data: Path, tmp_path: Path) -> None:
    ds = pydicom.dcmread(of_syntax(shared_data, "1.2.840.10008.1.2.4.80"))
    ds.Rows = 256
    (path,) = write(tmp_path, [ds])
    with pytest.raises(VolumeError, match=r"image 1 \(000.dcm\)"):
        stored(path)


@pytest.mark.parametrize(
    ("syntax", "old", "new", "reason"),
    [
        # GDCM ends the process on the warning that this version makes libjpeg give.
        ("1.2.840.10008.1.2.4.50", b"JFIF\0\1", b"JFIF\0\x07", "JFIF version"),
        ("1.2.840.10008.1.2.4.70", b"\xff\xc4", b"\xfe\xc4", "no marker at byte"),
        ("1.2.840.10008.1.2.4.57", b"\xff\xd8", b"\xff\xd7", "no start of image"),
        ("1.2.840.10008.1.2.4.80", b"\x02\0\x02\0\1", b"\x02\0\x02\0\3", r"\(512, 512, 3\)"),
        # A stream of 2**32 columns, for which the decoder would allocate.
        ("1.2.840.10008.1.2.4.90", b"\0\0\2\0", b"\xff\xff\xff\xff", r"\(512, 4294967295, 1\)"),
        ("1.2.840.10008.1.2.4.91", b"\xff\x51", b"\xff\x50", "no JPEG 2000 codestream"),
    ],
)
def test_a_stream_that_could_harm_its_decoder_never_reaches_it(
    shared_data: Path, tmp_path: Path, syntax: str, old: bytes, new: bytes, reason: str
) -> None:
    ds = pydicom.dcmread(of_syntax(shared_data, syntax))
    stream = get_frame(ds.PixelData, 0, number_of_frames=1)
    assert old in stream
    ds.PixelData = encapsulate([stream.replace(old, new, 1)])
    (path,) = write(tmp_path, [ds])
    with pytest.raises(VolumeError, match=rf"^image 1 \(000.dcm\): .*{reason}"):
        stored(path)


@given(
    st.lists(st.integers(-32768, 32767), min_size=1, max_size=20),
    st.sampled_from([1.0, 2.0, -1.0, 0.5, 1.000061]),
    st.sampled_from([0.0, -1024.0, -8192.0, 0.25]),
)
@settings(max_examples=200, deadline=None)
def test_hounsfield_units_are_the_linear_function(
    values: list[int], slope: float, intercept: float
) -> None:
    expected = [value * slope + intercept for value in values]
    hu = to_hu(np.array(values, np.int16), slope, intercept, None)
    whole = slope.is_integer() and intercept.is_integer()
    fits = min(expected) >= -32768 and max(expected) <= 32767
    assert hu.dtype == (np.int16 if whole and fits else np.float32)
    np.testing.assert_allclose(hu, np.array(expected, hu.dtype), rtol=1e-6)


def test_unsigned_values_above_the_signed_range_are_rescaled_exactly() -> None:
    hu = to_hu(np.array([0, 32768, 60000], np.uint16), 1.0, -32768.0, None)
    assert hu.dtype == np.int16
    assert hu.tolist() == [-32768, 0, 27232]


def test_padding_does_not_widen_the_type() -> None:
    values = np.array([-32768, -1000, 3000], np.int16)
    hu = to_hu(values, 1.0, -1024.0, (-32768, -32768))
    assert hu.dtype == np.int16
    assert hu.tolist() == [AIR_HU, -2024, 1976]
    assert to_hu(values[:1], 1.0, -1024.0, (-32768, -32768)).tolist() == [AIR_HU]
    assert to_hu(values, 1.0, -1024.0, None).dtype == np.float32
