"""Malformed input for the receiver: seeded mutations of streams and data sets that real peers send.

Real streams and a seed enter, bytes leave that no well-behaved peer would send; the same ones for
the same seed. Used by ``bench/fuzz.py`` and the test beside this file.
"""

import random
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset

from osteon.pipeline.instances.part10 import decode_header
from tests.dicom_peer import (
    CT,
    EXPLICIT,
    VERIFICATION,
    _element,
    associate_request,
    ct_slice,
    p_data,
    store_request,
)

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
SYNTAXES = (EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED)
UID = "1.2.826.0.7.1"
REAL_BYTES_MAX = 12_000  # All of their structure; the pixels behind it are never parsed.
_echo = b"".join(
    _element(tag, value)
    for tag, value in (
        (0x0002, VERIFICATION.encode()),
        (0x0100, b"\x30\0"),
        (0x0110, b"\1\0"),
        (0x0800, b"\1\1"),
    )
)
ECHO = _element(0, struct.pack("<I", len(_echo))) + _echo  # A C-ECHO-RQ, PS3.7 9.3.5.1
_PDU = struct.Struct(">BxI")
_LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x10000, 0x100000,
            0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip
_TOKENS = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0",
           b"\xfe\xff\xdd\xe0", b"\xe0\x7f\x10\0", b"SQ\0\0", b"UN\0\0", b"OB\0\0", b"../../",
           b"%n%s", b"\\", b"\x08\0\x05\0CS", b"\x28\0\x08\0IS", b"1e999", b"-", b"\x1b$B",
           b"NaN")  # fmt: skip


class Mutator:
    """Breaks bytes.

    Parameters
    ----------
    chance : random.Random
        Decides all.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._ways: tuple[Callable[[bytearray], None], ...] = (
            self._flip, self._replace, self._set_length, self._insert, self._remove, self._repeat,
            self._cut, self._token)  # fmt: skip

    def broken(self, raw: bytes) -> bytes:
        """Break it in one to four places."""
        data = bytearray(raw)
        for _ in range(self._chance.choice((1, 1, 1, 2, 3, 4))):
            if data:
                self._chance.choice(self._ways)(data)
        return bytes(data)

    def _at(self, data: bytearray) -> int:
        """Anywhere, but more often near the start, where the structure is."""
        end = min(len(data), self._chance.choice((16, 128, 1024, len(data))))
        return self._chance.randrange(end)

    def _flip(self, data: bytearray) -> None:
        data[self._at(data)] ^= 1 << self._chance.randrange(8)

    def _replace(self, data: bytearray) -> None:
        data[self._at(data)] = self._chance.randrange(256)

    def _set_length(self, data: bytearray) -> None:
        form = self._chance.choice(("<I", ">I", "<H", ">H"))
        size = struct.calcsize(form)
        at = self._at(data)
        data[at : at + size] = struct.pack(form, self._chance.choice(_LENGTHS) % 256**size)

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self._chance.randbytes(self._chance.choice((1, 2, 4, 16, 300)))

    def _remove(self, data: bytearray) -> None:
        at = self._at(data)
        del data[at : at + self._chance.choice((1, 2, 4, 8, 64))]

    def _repeat(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = data[at : at + self._chance.choice((2, 8, 64, 512))]

    def _cut(self, data: bytearray) -> None:
        del data[self._at(data) :]

    def _token(self, data: bytearray) -> None:
        at, token = self._at(data), self._chance.choice(_TOKENS)
        data[at : at + len(token)] = token


def split_pdus(stream: bytes) -> list[bytes]:
    """Cut a stream of a client into its PDUs."""
    pdus, at = [], 0
    while at + _PDU.size <= len(stream):
        end = at + _PDU.size + _PDU.unpack_from(stream, at)[1]
        pdus.append(stream[at:end])
        at = end
    return pdus


def own_streams() -> list[list[bytes]]:
    """What our own peers send: an association, a C-STORE of several PDUs, a C-ECHO, a release."""
    streams = []
    for syntax in SYNTAXES:
        dataset = own_dataset(syntax)
        request = associate_request([(CT, syntax), (VERIFICATION, syntax)], "FUZZ", "OSTEON")
        fragments = [dataset[at : at + 300] for at in range(0, len(dataset), 300)]
        data = [p_data(1, 2 * (n == len(fragments) - 1), f) for n, f in enumerate(fragments)]
        store = p_data(1, 3, store_request(CT, UID))
        streams.append([request, store, *data, p_data(3, 3, ECHO), _PDU.pack(5, 4) + bytes(4)])
    return streams


def recorded_streams(folder: Path) -> list[list[bytes]]:
    """Streams of real clients, with the AE title that the node answers to."""
    streams = []
    for path in sorted(folder.glob("*.raw")):
        raw = bytearray(path.read_bytes())
        raw[10:26] = b"OSTEON".ljust(16)
        streams.append(split_pdus(bytes(raw)))
    return streams


def own_dataset(syntax: str) -> bytes:
    """A CT instance with sequences, private elements and text of another character set."""
    ds = ct_slice(1, f"{UID}.0", 8)
    ds.SOPInstanceUID = UID
    ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "Müller^Zoë"
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "x"
    outer = Dataset()
    outer.PurposeOfReferenceCodeSequence = [inner, inner]
    ds.ReferencedImageSequence = [outer]
    ds.add_new(0x00091001, "LO", "private")
    ds["PixelData"].VR = "OW"
    raw = BytesIO()
    file = DicomFileLike(raw)
    file.is_little_endian, file.is_implicit_VR = syntax != BIG_ENDIAN, syntax == IMPLICIT
    write_dataset(file, ds)
    if syntax != DEFLATED:
        return raw.getvalue()
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(raw.getvalue()) + deflate.flush()


def real_datasets(folder: Path) -> list[tuple[str, str, str, bytes]]:
    """SOP Class, SOP Instance, transfer syntax and the first bytes of real instances."""
    found = []
    for path in sorted(folder.glob("*/*.dcm")):
        raw = path.read_bytes()
        meta, at = decode_header(raw)
        uids = meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid
        found.append((*uids, raw[at : at + REAL_BYTES_MAX]))
    return found
