"""The Part 10 header: written around a received data set, and taken off an uploaded file.

UIDs and AE titles enter, the preamble and File Meta Information of PS3.10 7.1 leave; or the bytes
of a file enter and the place of its data set leaves. The data set itself is never touched.
"""

import struct
from dataclasses import dataclass, replace

from osteon.errors import UnparseableError
from osteon.pipeline.instances.digest import DIGEST_BYTES
from osteon.results.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_PREAMBLE = b"\0" * 128 + b"DICM"
HEADER_BYTES_MAX = 64 * 1024 + len(_PREAMBLE)
# VRs whose length has four bytes, PS3.5 7.1.2.
_LONG_VR = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


@dataclass(frozen=True)
class FileMeta:
    """What the File Meta Information says (PS3.10 Table 7.1-1).

    Attributes
    ----------
    digest : str
        Of the data set, where Osteon wrote the file: its Private Information (0002,0102).
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sending_ae_title: str = ""
    receiving_ae_title: str = ""
    digest: str = ""


def encode_header(meta: FileMeta) -> bytes:
    """Encode preamble, prefix and File Meta Information.

    The same values always give the same bytes, so that a file can be named by its content. The
    hash of the data set stands in the last `DIGEST_BYTES`, and is 0 where it is not known yet.

    References
    ----------
    DICOM PS3.10 7.1
    """
    group = _element(0x0001, b"OB", b"\0\1")
    group += _element(0x0002, b"UI", meta.sop_class_uid.encode("ascii"))
    group += _element(0x0003, b"UI", meta.sop_instance_uid.encode("ascii"))
    group += _element(0x0010, b"UI", meta.transfer_syntax_uid.encode("ascii"))
    group += _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii"))
    group += _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"))
    if meta.sending_ae_title:
        group += _element(0x0017, b"AE", meta.sending_ae_title.encode("ascii"))
    if meta.receiving_ae_title:
        group += _element(0x0018, b"AE", meta.receiving_ae_title.encode("ascii"))
    group += _element(0x0100, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii"))
    group += _element(0x0102, b"OB", bytes.fromhex(meta.digest) or bytes(DIGEST_BYTES))
    return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<I", len(group))) + group


def decode_header(raw: bytes | memoryview) -> tuple[FileMeta, int]:
    """Read a file's File Meta Information and where its data set starts.

    Parameters
    ----------
    raw : bytes
        The file, or at least its first 64 KiB.

    Returns
    -------
    tuple of FileMeta and int
        The values, and the offset of the data set in bytes.

    Raises
    ------
    UnparseableError
        The bytes are no Part 10 file.
    """
    head = bytes(raw[:HEADER_BYTES_MAX])
    if head[128:132] != b"DICM":
        raise UnparseableError("not a DICOM file: no DICM after the 128-byte preamble (PS3.10 7.1)")
    values: dict[int, bytes] = {}
    at, end = 132, 0
    # A data set may begin with the same two bytes, so the group's length counts where it is true.
    while at + 8 <= len(head) and head[at : at + 2] == b"\x02\x00" and at != end:
        element, vr = struct.unpack_from("<H2s", head, at + 2)
        long = vr in _LONG_VR
        at += 12 if long else 8
        size_at = at - (4 if long else 2)
        size = int.from_bytes(head[size_at:at], "little")
        if at + size > len(head):
            raise UnparseableError("not a DICOM file: its File Meta Information is cut off")
        values[element] = head[at : at + size]
        at += size
        if element == 0:
            end = at + int.from_bytes(values[element], "little")
    if not values.get(0x0010):
        raise UnparseableError("not a DICOM file: it names no transfer syntax (0002,0010)")
    return _file_meta(values), at


def _file_meta(values: dict[int, bytes]) -> FileMeta:
    texts = (_text(values.get(e)) for e in (0x0002, 0x0003, 0x0010, 0x0017, 0x0018))
    is_ours = _text(values.get(0x0100)) == IMPLEMENTATION_CLASS_UID
    digest = values.get(0x0102, b"") if is_ours else b""
    return replace(FileMeta(*texts), digest=digest.hex() if any(digest) else "")


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b" " if vr in {b"SH", b"AE"} else b"\0"
    if vr in _LONG_VR:
        return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def _text(value: bytes | None) -> str:
    return (value or b"").decode("ascii", "replace").strip(" \0")
