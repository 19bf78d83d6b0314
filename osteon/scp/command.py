"""Command sets: bytes of a request in, bytes of its response out.

A C-STORE or C-ECHO needs six elements of them, which are always in Implicit VR Little Endian; no
library is asked. Used by ``messages.py``.
"""

import struct
from dataclasses import dataclass

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF  # PS3.7 Table E.1-1
IS_RESPONSE = 0x8000
COMMAND_BYTES_MAX = 64 * 1024  # A C-STORE-RQ is about 200 bytes, PS3.7 9.3.1
_NO_DATA_SET = 0x0101
_UID_BYTES_MAX = 64
_ELEMENT = struct.Struct("<HHI")
_P_DATA = struct.Struct(">BxIIBB")  # PDU and PDV header, PS3.8 9.3.5
_P_DATA_TF, _LAST_OF_COMMAND, _OF_COMMAND = 4, 3, 1  # PS3.8 Table 9-22 and E.2


class InvalidPduError(Exception):
    """What came is no PDU, no fragment or no command set that may come here (PS3.8 9.2, Evt19)."""


@dataclass(frozen=True)
class Command:
    """What matters of a command set.

    Attributes
    ----------
    field : int
        Command Field (0000,0100): which request or response it is.
    sop_class_uid, sop_instance_uid : bytes
        Affected SOP Class and Instance UID as they came; empty where absent.
    """

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: bytes
    sop_instance_uid: bytes

    @property
    def sop_class_uid_text(self) -> str:
        """Affected SOP Class UID, whatever was sent."""
        return _text(self.sop_class_uid)

    @property
    def sop_instance_uid_text(self) -> str:
        """Affected SOP Instance UID, whatever was sent."""
        return _text(self.sop_instance_uid)

    @property
    def is_request(self) -> bool:
        """Whether it must be answered."""
        return not self.field & IS_RESPONSE and self.field != C_CANCEL_RQ


def decode_command(raw: bytes | bytearray) -> Command:
    """Decode a command set.

    Raises
    ------
    InvalidPduError
        It is none, or lacks what every command set has.

    References
    ----------
    DICOM PS3.7 6.3 and E.1
    """
    values: dict[int, bytes] = {}
    at, end = 0, len(raw)
    while at + 8 <= end:
        group, element, length = _ELEMENT.unpack_from(raw, at)
        at += 8
        if group or at + length > end:
            raise InvalidPduError("a command set has an element that it cannot have")
        values[element] = bytes(raw[at : at + length])
        at += length
    if at != end:
        raise InvalidPduError("a command set is cut off")
    field, data_set = _number(values, 0x0100), _number(values, 0x0800)
    # A response and a C-CANCEL-RQ name the message that they belong to instead.
    is_new = not field & IS_RESPONSE and field != C_CANCEL_RQ
    return Command(
        field,
        _number(values, 0x0110) if is_new else 0,
        data_set != _NO_DATA_SET,
        values.get(0x0002, b""),
        values.get(0x1000, b""),
    )


def encode_response(command: Command, status: int, comment: str = "") -> bytes:
    """Encode the command set of the response to a request.

    Parameters
    ----------
    status : int
        Status (0000,0900), PS3.7 C.
    comment : str
        Error Comment (0000,0902): at most 64 characters of the default repertoire.
    """
    body = b""
    if 0 < len(command.sop_class_uid) <= _UID_BYTES_MAX:
        body += _element(0x0002, command.sop_class_uid)
    body += _element(0x0100, struct.pack("<H", command.field | IS_RESPONSE))
    body += _element(0x0120, struct.pack("<H", command.message_id))
    body += _element(0x0800, struct.pack("<H", _NO_DATA_SET))
    body += _element(0x0900, struct.pack("<H", status))
    if comment:
        body += _element(0x0902, comment.encode("ascii", "replace"), padding=b" ")
    if 0 < len(command.sop_instance_uid) <= _UID_BYTES_MAX:
        body += _element(0x1000, command.sop_instance_uid)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def to_pdus(context_id: int, command_set: bytes, pdu_bytes_max: int) -> bytes:
    """Put a command set into P-DATA-TF PDUs.

    Parameters
    ----------
    pdu_bytes_max : int
        The longest that the peer takes (PS3.8 D.1); 0 where it does not care.
    """
    step = max(pdu_bytes_max - 6, 1) if pdu_bytes_max else len(command_set)
    pdus = b""
    for at in range(0, len(command_set), step):
        fragment = command_set[at : at + step]
        control = _LAST_OF_COMMAND if at + step >= len(command_set) else _OF_COMMAND
        size = len(fragment)
        pdus += _P_DATA.pack(_P_DATA_TF, size + 6, size + 2, context_id, control) + fragment
    return pdus


def _element(element: int, value: bytes, padding: bytes = b"\0") -> bytes:
    if len(value) % 2:
        value += padding
    return _ELEMENT.pack(0, element, len(value)) + value


def _number(values: dict[int, bytes], element: int) -> int:
    try:
        return int(struct.unpack("<H", values[element])[0])
    except (KeyError, struct.error):
        raise InvalidPduError(f"a command set has no usable (0000,{element:04X})") from None


def _text(uid: bytes) -> str:
    return uid.rstrip(b"\0 ").decode("ascii", "backslashreplace")
