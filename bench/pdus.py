"""The PDUs of a sender: what it writes, and what it reads of the answers.

Titles, contexts and instances enter as text and bytes, PDUs leave; ``raw_scu.py`` sends them.
"""

import struct
from collections.abc import Iterator, Mapping

VERIFICATION, IMPLICIT = "1.2.840.10008.1.1", "1.2.840.10008.1.2"
CALLING_AE_TITLE = "RAWSCU"
PDU = struct.Struct(">BxI")
PDV_HEADER_BYTES = 6  # Length, context and control; they count as the PDU's, PS3.8 D.1.1
PDU_BYTES_MAX = 131072  # Of those that we send; peers take this much or less.
A_ASSOCIATE_AC, P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP = 2, 4, 5, 6  # PS3.8 9.3
C_STORE_RQ, C_ECHO_RQ = 0x0001, 0x0030  # PS3.7 Table E.1-1
NO_DATA_SET, DATA_SET = 0x0101, 0x0001  # Command Data Set Type, PS3.7 E.1
COMMAND, LAST = 1, 2  # Message Control Header, PS3.8 E.2
RELEASE = PDU.pack(A_RELEASE_RQ, 4) + b"\0" * 4


def associate_request(called: str, contexts: Mapping[tuple[str, str], int]) -> bytes:
    """An A-ASSOCIATE-RQ PDU, PS3.8 9.3.2."""
    body = struct.pack(">HH", 1, 0) + called.ljust(16).encode()
    body += CALLING_AE_TITLE.ljust(16).encode() + b"\0" * 32
    body += _item(0x10, b"1.2.840.10008.3.1.1.1")
    for (abstract, transfer), context_id in contexts.items():
        syntaxes = _item(0x30, abstract.encode()) + _item(0x40, transfer.encode())
        body += _item(0x20, struct.pack(">B3x", context_id) + syntaxes)
    user = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.826.0.1.3680043.10.1470.1")
    body += _item(0x50, user)
    return PDU.pack(1, len(body)) + body


def accepted_pdu_bytes(kind: int, body: bytes, contexts: Mapping[tuple[str, str], int]) -> int:
    """Return the longest PDU that the peer takes, where it takes every context."""
    if kind != A_ASSOCIATE_AC:
        raise ConnectionError(f"not accepted: PDU type {kind}, {body[:4].hex()}")
    answers, longest = {}, 0
    for item_kind, value in _items(body[68:]):
        if item_kind == 0x21:
            answers[value[0]] = value[2]
        elif item_kind == 0x50:
            longest = struct.unpack(">I", dict(_items(value))[0x51])[0]
    for context, context_id in contexts.items():
        if answers.get(context_id) != 0:
            raise ConnectionError(f"presentation context not accepted: {context}")
    return longest or PDU_BYTES_MAX


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        yield kind, data[at + 4 : at + 4 + length]
        at += 4 + length


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _p_data_head(context_id: int, control: int, length: int) -> bytes:
    """What precedes the one fragment of a P-DATA-TF PDU, PS3.8 9.3.5."""
    return PDU.pack(P_DATA_TF, length + 6) + struct.pack(">IBB", length + 2, context_id, control)


def store_request(context_id: int, number: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command of a C-STORE-RQ, PS3.7 9.3.1.1; its data set follows."""
    return _command(
        context_id,
        (0x0002, sop_class_uid.encode()),
        (0x0100, _us(C_STORE_RQ)),
        (0x0110, _us(number % 65536)),
        (0x0700, _us(0)),
        (0x0800, _us(DATA_SET)),
        (0x1000, sop_instance_uid.encode()),
    )


def data_set(context_id: int, dataset: bytes, pdu_bytes_max: int) -> Iterator[bytes | memoryview]:
    """The parts of the P-DATA-TF PDUs of a data set; it is not copied."""
    step = min(pdu_bytes_max, PDU_BYTES_MAX) - PDV_HEADER_BYTES
    view = memoryview(dataset)
    for at in range(0, len(view), step):
        fragment = view[at : at + step]
        yield _p_data_head(context_id, LAST if at + step >= len(view) else 0, len(fragment))
        yield fragment


def echo_request(context_id: int, number: int) -> bytes:
    """A C-ECHO-RQ, PS3.7 9.3.5.1."""
    return _command(
        context_id,
        (0x0002, VERIFICATION.encode()),
        (0x0100, _us(C_ECHO_RQ)),
        (0x0110, _us(number)),
        (0x0800, _us(NO_DATA_SET)),
    )


def _command(context_id: int, *elements: tuple[int, bytes]) -> bytes:
    body = b"".join(_element(tag, value) for tag, value in elements)
    command = _element(0, struct.pack("<I", len(body))) + body
    return _p_data_head(context_id, COMMAND | LAST, len(command)) + command


def _element(tag: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, tag, len(value)) + value


def _us(value: int) -> bytes:
    return struct.pack("<H", value)


def status(pdu: tuple[int, bytes]) -> int:
    """Return the status of a response that is one PDU."""
    kind, body = pdu
    if kind != P_DATA_TF:
        raise ConnectionError(f"PDU type {kind} instead of a response: {body[:8].hex()}")
    at = PDV_HEADER_BYTES
    while at < len(body):
        _, tag, length = struct.unpack_from("<HHI", body, at)
        if tag == 0x0900:
            return int(struct.unpack_from("<H", body, at + 8)[0])
        at += 8 + length
    raise ConnectionError("a response without a status")
