"""Command sets: what is read of a request, what is written as its response."""

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import CTImageStorage
from pynetdicom import dimse_messages
from pynetdicom.dimse_primitives import C_ECHO, C_STORE
from pynetdicom.dsutils import decode, encode

from osteon.scp.command import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    Command,
    InvalidPduError,
    decode_command,
    encode_response,
    to_pdus,
)
from tests.dicom_peer import CT, store_request

STORE = Command(C_STORE_RQ, 7, True, CT.encode() + b"\0", b"1.2.3")


def command_set(message: object, primitive: object) -> bytes:
    """A command set as pynetdicom encodes it."""
    message.primitive_to_message(primitive)  # type: ignore[attr-defined]
    return encode(message.command_set, True, True) or b""  # type: ignore[attr-defined]


def test_a_store_request_of_pynetdicom_is_read() -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 65535, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CTImageStorage, "1.2.3"
    primitive.DataSet = BytesIO(b"x")

    command = decode_command(command_set(dimse_messages.C_STORE_RQ(), primitive))

    assert (command.field, command.message_id, command.has_data_set) == (C_STORE_RQ, 65535, True)
    assert command.sop_class_uid_text == CTImageStorage
    assert command.sop_instance_uid_text == "1.2.3"
    assert command.is_request


def test_an_echo_request_of_pynetdicom_is_read() -> None:
    primitive = C_ECHO()
    primitive.MessageID, primitive.AffectedSOPClassUID = 1, "1.2.840.10008.1.1"

    command = decode_command(command_set(dimse_messages.C_ECHO_RQ(), primitive))

    assert (command.field, command.message_id, command.has_data_set) == (C_ECHO_RQ, 1, False)


@pytest.mark.parametrize(("comment", "read"), [("", None), ("odd", "odd"), ("even", "even")])
def test_pydicom_reads_the_response(comment: str, read: str | None) -> None:
    ds = decode(BytesIO(encode_response(STORE, 0xA700, comment)), True, True)

    assert ds.CommandGroupLength == len(encode_response(STORE, 0xA700, comment)) - 12
    assert ds.CommandField == 0x8001
    assert ds.MessageIDBeingRespondedTo == 7
    assert ds.CommandDataSetType == 0x0101
    assert ds.Status == 0xA700
    assert ds.AffectedSOPClassUID == CT
    assert ds.AffectedSOPInstanceUID == "1.2.3"
    assert ds.get("ErrorComment") == read
    assert [e.tag for e in ds] == sorted(e.tag for e in ds)


def test_what_is_no_uid_is_not_sent_back() -> None:
    odd = Command(C_STORE_RQ, 7, True, b"1" * 65, b"x" * 60_000)
    ds = decode(BytesIO(encode_response(odd, 0x0117)), True, True)

    assert "AffectedSOPClassUID" not in ds
    assert "AffectedSOPInstanceUID" not in ds


def element(tag: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHI", group, tag, len(value)) + value


GOOD = element(0x0100, b"\1\0") + element(0x0110, b"\1\0") + element(0x0800, b"\1\0")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage!",
        bytes(200),
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + element(0x1000, b"1.2", group=8),
        GOOD + struct.pack("<HHI", 0, 0x1000, 0xFFFFFFFF) + b"1.2",
        GOOD[10:],
        GOOD[:20],
        element(0x0100, b"\1\0") + element(0x0800, b"\1\0"),
        element(0x0100, b"\1") + GOOD[10:],
        element(0x0100, b"\1\0\0\0") + GOOD[10:],
    ],
    ids=repr,
)
def test_what_is_no_command_set_is_told(raw: bytes) -> None:
    with pytest.raises(InvalidPduError):
        decode_command(raw)


@pytest.mark.parametrize("field", [C_CANCEL_RQ, 0x8001, 0x8030])
def test_cancels_and_responses_want_no_answer(field: int) -> None:
    raw = element(0x0100, struct.pack("<H", field)) + element(0x0800, b"\1\1")

    assert not decode_command(raw).is_request


def test_uids_are_text_whatever_was_sent() -> None:
    command = decode_command(store_request(CT, "../é"))

    assert command.sop_instance_uid_text == "../\\xc3\\xa9"


@given(st.binary(max_size=200))
def test_bytes_are_a_command_set_or_told_to_be_none(raw: bytes) -> None:
    try:
        decode_command(raw)
    except InvalidPduError:
        return


@pytest.mark.parametrize("longest", [0, 7, 8, 50, 16384])
def test_fragments_are_no_longer_than_the_peer_takes(longest: int) -> None:
    response = encode_response(STORE, 0)
    stream = to_pdus(5, response, longest)
    found, controls = b"", []
    while stream:
        kind, length, size, context_id, control = struct.unpack_from(">BxIIBB", stream)
        assert (kind, size, context_id) == (4, length - 4, 5)
        assert not longest or length <= longest
        found += stream[12 : 6 + length]
        controls.append(control)
        stream = stream[6 + length :]

    assert found == response
    assert controls == [1] * (len(controls) - 1) + [3]
