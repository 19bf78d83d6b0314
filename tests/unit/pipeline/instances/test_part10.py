"""The Part 10 header: written so that pydicom reads it, read whoever wrote it, never trusted."""

from io import BytesIO

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from osteon.errors import UnparseableError
from osteon.pipeline.instances.part10 import FileMeta, decode_header, encode_header
from tests.pipeline_parts import ct_slice

META = FileMeta(str(CTImageStorage), "1.2.3.4", str(ExplicitVRLittleEndian), "CT1", "OSTEON")


def test_pydicom_reads_what_was_written():
    file = pydicom.dcmread(BytesIO(encode_header(META) + ct_slice(4)))
    meta = file.file_meta
    assert meta.MediaStorageSOPClassUID == CTImageStorage
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.4"
    assert meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert meta.SendingApplicationEntityTitle == "CT1"
    assert meta.ReceivingApplicationEntityTitle == "OSTEON"
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert file.InstanceNumber == 4
    written = len(encode_header(META)) - 132 - 12
    assert meta.FileMetaInformationGroupLength == written


@pytest.mark.parametrize("uid", ["1.2", "1.2.3", "1" * 64, "1" * 63])
@pytest.mark.parametrize("ae", ["", "A", "AB", "SIXTEEN_CHARS_AE"])
def test_round_trip_of_odd_and_even_lengths(uid, ae):
    meta = FileMeta(uid, uid, str(ExplicitVRLittleEndian), ae, ae)
    raw = encode_header(meta)
    assert len(raw) % 2 == 0
    assert decode_header(raw + b"data set") == (meta, len(raw))


def test_reads_what_pydicom_writes(tmp_path):
    ds = pydicom.dcmread(BytesIO(encode_header(META) + ct_slice(4)))
    ds.file_meta.PrivateInformationCreatorUID = "1.2.3"
    ds.file_meta.PrivateInformation = b"x" * 30_000
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    raw = (tmp_path / "a.dcm").read_bytes()
    meta, at = decode_header(raw)
    assert meta.sop_instance_uid == "1.2.3.1.4"
    assert raw[at:] == ct_slice(4)


def test_a_data_set_that_begins_like_the_header_is_not_taken_for_it():
    """Deflated bytes, and those of a hostile peer, may begin with anything."""
    raw = encode_header(META)
    assert decode_header(raw + b"\2\0\x10\0UI\2\x001.rest") == (META, len(raw))


def test_a_wrong_group_length_is_not_believed():
    raw = bytearray(encode_header(META))
    raw[140:144] = b"\7\0\0\0"
    assert decode_header(raw + b"data set") == (META, len(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 132,
        b"\0" * 128 + b"DICM",
        b"\0" * 128 + b"DICM" + b"\2\0\x10\0UI\xff\xff1.2",
        b"\0" * 128 + b"DICM" + b"\2\0\1\0OB\0\0\xff\xff\xff\xff",
        b"\0" * 128 + b"DICM" + b"\2\0\1\0OB\0\0",
        encode_header(META)[:200],
    ],
)
def test_refuses_what_is_no_file(raw):
    with pytest.raises(UnparseableError):
        decode_header(raw)


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_garbage_after_the_prefix_never_leaves_the_tree(garbage):
    try:
        _, at = decode_header(b"\0" * 128 + b"DICM" + garbage)
    except UnparseableError:
        return
    assert at <= 132 + len(garbage)
