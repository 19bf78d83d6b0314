"""A look at compressed frames before a decoder sees them.

The stream of one frame enters, and what its header promises must be the frame that DICOM
describes. `pixels.py` calls it. Native decoders are not built for damaged or hostile streams: GDCM
ends the process on a JPEG header that it has to warn of, CharLS searches a cut stream for seconds,
and OpenJPEG allocates whatever size a stream asks for.
"""

import struct
from collections.abc import Iterator

from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

START_OF_IMAGE, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"  # SOI and EOI, ITU-T T.81 Table B.1
START_OF_SCAN = 0xDA
APPLICATION_0 = 0xE0
# Start of frame: T.81 Table B.1 without DHT, JPG and DAC, and SOF55 of T.87 (JPEG-LS).
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
SEGMENTS = frozenset(range(0xC0, 0xFF)) - frozenset(range(0xD0, 0xDA))  # markers with a length
JPEG_2000_SIZE = b"\xff\x4f\xff\x51"  # SOC and SIZ, ITU-T T.800 A.5.1


def require_frame(stream: bytes, transfer_syntax_uid: str, rows: int, columns: int) -> None:
    """Refuse a stream that is no whole frame of one component and this size.

    Parameters
    ----------
    stream : bytes
        One frame, its fragments joined.
    transfer_syntax_uid : str
        Transfer Syntax UID.
    rows, columns : int
        Size that the data set states.

    Raises
    ------
    ValueError
        The stream is cut off, malformed, or another image.

    References
    ----------
    ITU-T T.81 (JPEG) B.1, T.87 (JPEG-LS) C.1, T.800 (JPEG 2000) A.5.1; DICOM PS3.5 8.2, G.3
    """
    if transfer_syntax_uid == RLELossless:
        pixels = _rle_pixels(stream)
        if pixels != rows * columns:
            raise ValueError(f"the stream holds {pixels:,} pixels, not {rows} x {columns}")
        return
    if transfer_syntax_uid in JPEG2000TransferSyntaxes:
        described = _jpeg_2000_size(stream)
    else:
        described = _jpeg_size(stream)
        if not stream.rstrip(b"\0").endswith(END_OF_IMAGE):
            raise ValueError("the stream ends without an end of image")
    if described != (rows, columns, 1):
        raise ValueError(
            f"the stream holds rows, columns, components {described}, not {(rows, columns, 1)}"
        )


def _jpeg_size(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components of a JPEG or JPEG-LS stream."""
    size = None
    for marker, content in _jpeg_header(stream):
        if marker in START_OF_FRAME:
            _, rows, columns, components = struct.unpack_from(">BHHB", content)
            size = rows, columns, components
        elif marker == APPLICATION_0 and content.startswith(b"JFIF\0") and content[5] != 1:
            raise ValueError("the stream is of an unknown JFIF version")
    if size is None:
        raise ValueError("the stream has no start of frame")
    return size


def _jpeg_header(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker segments before the first scan, between which there must be nothing."""
    if not stream.startswith(START_OF_IMAGE):
        raise ValueError("the stream has no start of image")
    at = len(START_OF_IMAGE)
    while stream[at + 1] != START_OF_SCAN:
        fill = stream[at] == stream[at + 1] == 0xFF  # T.81 B.1.1.2
        if not fill:
            if stream[at] != 0xFF or stream[at + 1] not in SEGMENTS:
                raise ValueError(f"the stream has no marker at byte {at}")
            (length,) = struct.unpack_from(">H", stream, at + 2)
            yield stream[at + 1], stream[at + 4 : at + 2 + length]
        at += 1 if fill else 2 + length


def _jpeg_2000_size(stream: bytes) -> tuple[int, int, int]:
    """Return rows, columns and components of a JPEG 2000 stream, inside a JP2 file or not."""
    begin = stream.find(JPEG_2000_SIZE)
    if begin < 0:
        raise ValueError("the stream has no JPEG 2000 codestream")
    # Lsiz and Rsiz, then the reference grid: size, offset, tile and its offset; Csiz.
    x, y, x0, y0, *_, components = struct.unpack_from(">8LH", stream, begin + 8)
    return y - y0, x - x0, components


def _rle_pixels(stream: bytes) -> int:
    """Return how many pixels the first segment holds: the high bytes, few runs of many."""
    segments, at, end = struct.unpack_from("<3L", stream)
    end = min(end if segments > 1 else len(stream), len(stream))
    pixels = 0
    while at < end:
        run = stream[at]  # PS3.5 G.3.1: up to 127 literal bytes follow, from 129 one to repeat
        if run < 128:
            at += run + 2
            pixels += run + 1 - max(0, at - end)
        elif run > 128 and at + 1 < end:
            at += 2
            pixels += 257 - run
        else:
            at += 1
    return pixels
