"""What routes are told of a multi-frame instance: the words of its first frame."""

import struct
import time
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from osteon.errors import OsteonError
from osteon.pipeline.instances.elements import ELEMENTS_MAX
from osteon.pipeline.instances.index import HeaderReader, read_header
from tests.unit.pipeline import ct

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def multiframe(frames: int = 3, padding: int = 0, *, undefined: bool = False) -> Dataset:
    """An Enhanced CT of 1.5 mm slices; its frames say their rescale and position themselves."""
    stored_zyx = np.zeros((frames, 2, 2), np.uint16)
    ds = ct.enhanced(stored_zyx, [2.0 * n for n in range(frames)], [(2, -1024)] * frames)
    ds.StudyInstanceUID = "1.2"
    (shared,) = ds.SharedFunctionalGroupsSequence
    shared.PixelMeasuresSequence[0].SliceThickness = "1.5"
    if padding:
        ds.add_new(0x00091001, "OB", bytes(padding))
    _set_lengths(ds, undefined)
    return ds


def _set_lengths(ds: Dataset, undefined: bool) -> None:
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
                _set_lengths(item, undefined)


def encode(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_the_first_frame_speaks_in_every_encoding(syntax, undefined):
    values = read_header(encode(multiframe(undefined=undefined), syntax), syntax).values
    assert values["SliceThickness"] == ["1.5"]
    assert values["PixelSpacing"] == ["0.5", "0.75"]
    assert [*map(float, values["ImageOrientationPatient"])] == [1, 0, 0, 0, 1, 0]
    assert [*map(float, values["RescaleSlope"])] == [2]
    assert [*map(float, values["RescaleIntercept"])] == [-1024]
    assert values["FrameType"] == ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]
    assert values["ImageType"] == ["ORIGINAL", "PRIMARY", "AXIAL"]  # Its own comes first.
    assert values["NumberOfFrames"] == ["3"]


def test_the_frame_type_stands_for_an_image_type_that_is_absent():
    ds = multiframe()
    del ds.ImageType
    values = read_header(encode(ds), ExplicitVRLittleEndian).values
    assert values["ImageType"] == ["ORIGINAL", "PRIMARY", "AXIAL", "NONE"]


def test_a_frame_of_its_own_words_comes_before_what_is_shared():
    ds = multiframe()
    for thickness, group in zip("345", ds.PerFrameFunctionalGroupsSequence, strict=True):
        measures = Dataset()
        measures.SliceThickness = thickness
        group.PixelMeasuresSequence = Sequence([measures])
    values = read_header(encode(ds), ExplicitVRLittleEndian).values
    assert values["SliceThickness"] == ["3"]
    assert values["PixelSpacing"] == ["0.5", "0.75"]


def test_without_groups_of_the_frames_the_shared_ones_speak():
    ds = multiframe()
    del ds.PerFrameFunctionalGroupsSequence
    assert read_header(encode(ds), ExplicitVRLittleEndian).values["SliceThickness"] == ["1.5"]
    del ds.PixelData
    assert read_header(encode(ds), ExplicitVRLittleEndian).values["SliceThickness"] == ["1.5"]


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("padding", [0, 64_400, 65_000, 65_100, 65_200, 100_000])
@pytest.mark.parametrize("step", [997, 10**6])
def test_it_is_read_wherever_the_groups_are_cut_into_pieces(undefined, padding, step):
    """The first look is at 64 KiB, and may end in the middle of a group."""
    data = encode(multiframe(400, padding, undefined=undefined))
    reader, source, found = HeaderReader(ExplicitVRLittleEndian), BytesIO(data), None
    while found is None and (part := source.read(step)):
        found = reader.feed(part)
    values = (found or reader.finish()).values
    assert values["SliceThickness"] == ["1.5"]
    assert [*map(float, values["RescaleSlope"])] == [2]


def test_of_many_frames_one_is_looked_at():
    data = encode(multiframe(5000, undefined=True))
    assert len(data) > 10 * 64 * 1024
    assert ELEMENTS_MAX < 5000 * 5
    reader = HeaderReader(ExplicitVRLittleEndian)
    assert reader.feed(data[: 64 * 1024]) is not None


def test_elements_without_number_are_not_followed():
    many = struct.pack("<HH2sH", 8, 0x60, b"CS", 0) * 900_000
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 0x5200, 0x9229, b"SQ", 0, 0xFFFFFFFF)
    ds = multiframe()
    del ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence, ds.PixelData
    started = time.process_time()
    header = read_header(encode(ds) + sequence + item + many, ExplicitVRLittleEndian)
    assert "SliceThickness" not in header.values
    assert time.process_time() - started < 1.0


def test_a_sequence_before_the_groups_costs_nothing():
    many = struct.pack("<HH2sH", 8, 0x60, b"CS", 0) * 900_000
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(many)) + many
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
    data = encode(multiframe())
    at = data.index(struct.pack("<HH2s", 0x0020, 0x000D, b"UI"))
    started = time.process_time()
    header = read_header(data[:at] + sequence + data[at:], ExplicitVRLittleEndian)
    assert header.values["SliceThickness"] == ["1.5"]
    assert time.process_time() - started < 0.5


@given(st.data(), st.sampled_from(SYNTAXES), st.booleans())
@settings(max_examples=300, deadline=None)
def test_damage_never_makes_it_fail(data, syntax, undefined):
    damaged = bytearray(encode(multiframe(undefined=undefined), syntax))
    begin = damaged.index(b"\x52\x00" if syntax == ExplicitVRBigEndian else b"\x00\x52")
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(begin, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = read_header(bytes(damaged), syntax)
    except OsteonError:
        return
    assert all(isinstance(value, list) for value in header.values.values())
