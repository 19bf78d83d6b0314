"""Headers read from bytes: what a data set says, however damaged, and nothing outside the tree."""

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from osteon.errors import InvalidUIDError, OsteonError, UnparseableError
from osteon.pipeline.instances.index import HEADER_BYTES_MAX, check_uid, read_header
from tests.pipeline_parts import ct_slice

PLAIN = {
    (0x0008, 0x0016): (b"UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
    (0x0008, 0x0018): (b"UI", b"1.2.3.1.1\0"),
    (0x0008, 0x0060): (b"CS", b"CT"),
    (0x0018, 0x0050): (b"DS", b"1.5 "),
    (0x0020, 0x000D): (b"UI", b"1.2.3\0"),
    (0x0020, 0x000E): (b"UI", b"1.2.3.1\0"),
    (0x0020, 0x0013): (b"IS", b"7 "),
    (0x0020, 0x0032): (b"DS", b"0\\0\\1 "),
}


def raw(*, but: dict | None = None) -> bytes:
    """A data set written by hand, with values that no library would write."""
    elements = PLAIN | (but or {})
    return b"".join(
        struct.pack("<HH2sH", group, element, vr, len(value)) + value
        for (group, element), (vr, value) in sorted(elements.items())
    )


def test_what_the_route_needs_is_read():
    header = read_header(ct_slice(4, PatientID="P1", AccessionNumber="A1"), ExplicitVRLittleEndian)
    assert header.sop_instance_uid == "1.2.3.1.4"
    assert (header.series_instance_uid, header.study_instance_uid) == ("1.2.3.1", "1.2.3")
    assert header.instance_number == 4
    assert header.position_mm == (0.0, 0.0, 4.0)
    assert header.orientation == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert (header.modality, header.patient_id, header.accession_number) == ("CT", "P1", "A1")
    assert header.values["ImageType"] == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert header.values["InstanceNumber"] == ["4"]


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, JPEG2000Lossless],
)
def test_every_encoding_of_the_header(syntax):
    ds: Dataset = read_dataset(DicomBytesIO(ct_slice(4)), False, True)
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    write_dataset(buffer, ds)
    data = bytes(buffer.getvalue())
    if syntax == DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(data) + deflate.flush()
    assert read_header(data, syntax).instance_number == 4


@pytest.mark.parametrize(
    "damage",
    [
        {(0x0020, 0x0013): (b"IS", b"abc ")},
        {(0x0020, 0x0013): (b"US", b"\1\0\2\0")},
        {(0x0020, 0x0032): (b"DS", b"a\\b\\")},
        {(0x0020, 0x0032): (b"DS", b"nan\\inf\\1e999 ")},
        {(0x0020, 0x0037): (b"DS", b"1\\0\\0 ")},
        {(0x0018, 0x0050): (b"DS", b"thin")},
        {(0x0018, 0x9073): (b"FD", b"\1\0\2\0")},
        {(0x0028, 0x0009): (b"AT", b"\1\0")},
        {(0x0008, 0x0020): (b"DA", b"yesterday ")},
        {(0x0008, 0x0005): (b"CS", b"KLINGON "), (0x0010, 0x0010): (b"PN", b"\xff^=\x1b$B")},
        {(0x0008, 0x0005): (b"CS", b"ISO_IR 192"), (0x0010, 0x0020): (b"LO", b"\xff\xfe")},
        {(0x0009, 0x0010): (b"LO", b"ACME"), (0x0009, 0x1001): (b"SH", b"\0\1")},
    ],
    ids=str,
)
def test_a_bad_value_costs_that_value_and_not_the_instance(damage):
    header = read_header(raw(but=damage), ExplicitVRLittleEndian)
    assert header.sop_instance_uid == "1.2.3.1.1"
    assert header.values["Modality"] == ["CT"]
    for numbers in (header.position_mm, header.orientation):
        assert numbers is None or all(abs(n) < 1e6 for n in numbers)


@pytest.mark.parametrize("keyword", [(0x0008, 0x0018), (0x0020, 0x000D), (0x0020, 0x000E)])
@pytest.mark.parametrize("value", [b"", b"\0\0", b"  "])
def test_an_instance_without_its_uids_is_none(keyword, value):
    with pytest.raises(UnparseableError, match="has no"):
        read_header(raw(but={keyword: (b"UI", value)}), ExplicitVRLittleEndian)


HOSTILE = [
    "../../../../tmp/x",
    "1.2/3",
    "1" * 65,
    "1.2.\0003",
    "1.2.3\n",
    "1.2.x",
    "1.2 3",
    "",
    ".",
    "..",
    "1..2",
    "1.2.",
    ".1",
    "\uff11.\uff12",
    "1.2.3;DROP TABLE job",
    "-1.2",
]


@pytest.mark.parametrize("uid", HOSTILE, ids=repr)
def test_what_is_no_uid_is_refused(uid):
    with pytest.raises(InvalidUIDError, match=r"PS3\.5 9\.1"):
        check_uid(uid, "UID")


@pytest.mark.parametrize("uid", ["1", "0.0", "1.2.840.10008.1.2", "1" * 64, "1.02.003"])
def test_uids_of_real_archives_are_taken(uid):
    assert check_uid(uid, "UID") == uid


@pytest.mark.parametrize("uid", [b"../../tmp/x ", b"1.2.3/4 ", b"1" * 66])
def test_hostile_uids_of_a_data_set_are_refused(uid):
    with pytest.raises(InvalidUIDError):
        read_header(raw(but={(0x0020, 0x000E): (b"UI", uid)}), ExplicitVRLittleEndian)


def test_a_deflated_bomb_is_inflated_no_further_than_a_header_goes():
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    padding = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 2**29) + b"\0" * 2**20
    bomb = deflate.compress(raw(but={}) + padding)
    bomb += b"".join(deflate.compress(b"\0" * 2**20) for _ in range(64)) + deflate.flush()
    assert len(bomb) < HEADER_BYTES_MAX / 50
    tracemalloc.start()
    try:
        header = read_header(bomb, DeflatedExplicitVRLittleEndian)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert header.sop_instance_uid == "1.2.3.1.1"
    assert peak < 4 * HEADER_BYTES_MAX


SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    "1.2.3.4.5",
]


@given(st.binary(max_size=600), st.sampled_from(SYNTAXES))
@settings(max_examples=300, deadline=None)
def test_garbage_never_leaves_the_tree(garbage, syntax):
    with pytest.raises(OsteonError):
        read_header(garbage, syntax)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_damaged_slice_never_leaves_the_tree(data):
    """Bytes of a good slice are overwritten, cut out and cut off."""
    damaged = bytearray(ct_slice(4, PatientName="A^B", StudyDate="20260101"))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        header = read_header(bytes(damaged), data.draw(st.sampled_from(SYNTAXES)))
        assert all(isinstance(v, str) for values in header.values.values() for v in values)
    except OsteonError:
        return
