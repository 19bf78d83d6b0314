"""The walk over elements: it finds what pydicom finds, or says that it does not know."""

import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from osteon.errors import UnparseableError
from osteon.pipeline.instances import elements
from osteon.pipeline.instances.elements import ELEMENTS_MAX, End, walk
from osteon.pipeline.instances.index import HeaderReader, read_header
from tests.pipeline_parts import ct_slice

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
SERIES, NUMBER = 0x0020000E, 0x00200013


def nested(undefined: bool) -> Dataset:
    ds = Dataset()
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = "1.2.3", "1.2", 7
    inner = Dataset()
    inner.ReferencedSOPInstanceUID, inner.SeriesInstanceUID = "9.9", "9"
    outer = Dataset()
    outer.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
    outer.SeriesInstanceUID = "8"
    ds.ReferencedImageSequence = Sequence([outer, outer])
    ds.Rows = 16
    for sequence in (ds["ReferencedImageSequence"], outer["PurposeOfReferenceCodeSequence"]):
        sequence.is_undefined_length = undefined
        for item in sequence.value:
            item.is_undefined_length_sequence_item = undefined
    return ds


def encode(ds: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def walked(data: bytes, syntax: str, until_group: int = 0x7FE0):
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    wanted = frozenset({SERIES, NUMBER})
    return walk(data, wanted, until_group=until_group, implicit=implicit, little=little)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_values_of_items_are_passed_over(syntax, undefined):
    found = walked(encode(nested(undefined), syntax), syntax)
    assert found.end is End.WHOLE
    assert found.values == {SERIES: b"1.2\0", NUMBER: b"7 "}


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_wherever_it_is_cut_off_that_is_said(syntax, undefined):
    data = encode(nested(undefined), syntax)
    ends = [walked(data[:length], syntax).end for length in range(len(data) + 1)]
    assert set(ends) <= {End.CUT, End.WHOLE}
    assert ends[-1] is End.WHOLE
    # Between two elements nothing is cut off; there are five in the data set itself.
    assert ends.count(End.WHOLE) <= 7


def test_it_ends_before_the_group_that_it_is_told():
    data = encode(nested(False), ExplicitVRLittleEndian) + b"garbage"
    found = walked(data, ExplicitVRLittleEndian, until_group=0x0028)
    assert found.end is End.WHOLE
    assert NUMBER in found.values


def test_an_unknown_vr_is_odd():
    assert walked(struct.pack("<HH2sH", 8, 5, b"??", 0), ExplicitVRLittleEndian).end is End.ODD


def test_too_many_elements_are_refused():
    many = struct.pack("<HH2sH", 8, 0x60, b"CS", 0) * (ELEMENTS_MAX + 1)
    with pytest.raises(UnparseableError, match="20000 elements"):
        walked(many, ExplicitVRLittleEndian)
    assert walked(many[8:], ExplicitVRLittleEndian).end is End.WHOLE


@pytest.mark.parametrize("unknown", [b"SQ", b"??"])
def test_too_many_elements_of_an_item_are_refused_by_whoever_reads(unknown):
    """Where the walk does not know an encoding, pydicom reads; its work is limited, too."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    many = struct.pack("<HH2sH", 8, 0x60, b"CS", 0) * (6 * ELEMENTS_MAX)
    head = struct.pack("<HH2sH", 8, 1, unknown, 0)
    sequence = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    with pytest.raises(UnparseableError):
        read_header(
            head + bytes(4) * (unknown == b"SQ") + sequence + item + many, "1.2.840.10008.1.2.1"
        )


def test_sequences_deeper_than_any_header_are_not_followed():
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item
    assert walked(sequence * 1000, ExplicitVRLittleEndian).end is End.ODD


@given(st.data(), st.sampled_from(SYNTAXES), st.booleans())
@settings(max_examples=300, deadline=None)
def test_damage_never_makes_it_fail(data, syntax, undefined):
    damaged = bytearray(encode(nested(undefined), syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    walked(bytes(damaged), syntax)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_what_is_walked_is_what_pydicom_reads(data):
    """With the walk and without it, a header says the same."""
    slice_ = ct_slice(
        data.draw(st.integers(0, 99)), PatientID=data.draw(st.text("AZ 09^", max_size=9))
    )
    with pytest.MonkeyPatch.context() as patch:
        quick = read_header(slice_, ExplicitVRLittleEndian)
        patch.setattr(elements.Walker, "collect", _odd)
        slow = read_header(slice_, ExplicitVRLittleEndian)
    assert quick == slow
    assert quick.values == slow.values


def _odd(*_):
    raise elements.OddError


@pytest.mark.parametrize("step", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("padding", [0, 100_000, 500_000])
def test_a_header_is_read_from_pieces(step, padding):
    """However long it is, and wherever it is cut into pieces."""
    private = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, padding) + bytes(padding)
    data = private + ct_slice(4)
    reader, source = HeaderReader(ExplicitVRLittleEndian), BytesIO(data)
    if step == 1:
        data, source = ct_slice(4), BytesIO(ct_slice(4))
    found = None
    while found is None and (part := source.read(step)):
        found = reader.feed(part)
    assert (found or reader.finish()) == read_header(ct_slice(4), ExplicitVRLittleEndian)
