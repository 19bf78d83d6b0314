"""Pixel data of a CT instance as stored values.

A Part 10 file and what its header says about the pixels enter; stored values, frame by frame,
leave. `volume.py` calls it, and `rescale.py` makes Hounsfield units of them. Stored values are
bit-identical to pydicom's `pixel_array` in every lossless transfer syntax: pydicom decodes all but
the two cases where it is slow (native 16-bit, read straight from the file) or has no decoder
(12-bit and retired JPEG).
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import gdcm
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from osteon.errors import StageError, VolumeError
from osteon.pipeline.images.codestream import require_frame

JPEG_SPECTRAL_SELECTION_12_BIT = UID("1.2.840.10008.1.2.4.53")  # Processes 6 and 8, retired
JPEG_FULL_PROGRESSION_12_BIT = UID("1.2.840.10008.1.2.4.55")  # Processes 10 and 12, retired

NATIVE = frozenset(
    {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
    }
)

# One decoder per transfer syntax and never a second try with another: a stream that one decoder
# refuses and another takes is not a stream to segment. GDCM as in pydicom's own order, but CharLS
# for JPEG-LS, which takes 60 % of the time.
PYDICOM_PLUGINS = {
    RLELossless: "pydicom",
    JPEGBaseline8Bit: "gdcm",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "gdcm",
    JPEG2000: "gdcm",
}

# pydicom has no decoder for these; GDCM's own agrees with DCMTK's dcmdjpeg on every bit.
GDCM_ONLY = frozenset(
    {JPEGExtended12Bit, JPEG_SPECTRAL_SELECTION_12_BIT, JPEG_FULL_PROGRESSION_12_BIT}
)

# What pydicom and its decoders raise on damaged data sets and streams.
DAMAGED = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class PixelSource:
    """Where one instance holds its pixels, and how (Image Pixel module, PS3.3 C.7.6.3).

    Attributes
    ----------
    path : Path
        The Part 10 file.
    name : str
        How messages name the instance.
    transfer_syntax_uid : str
        Transfer Syntax UID of the data set.
    offset : int
        Where the Pixel Data element begins in the file; 0 in a deflated data set.
    frames, rows, columns, bits_allocated, bits_stored, high_bit, pixel_representation : int
        Number of Frames (1 where absent) and the attributes of these names.
    photometric_interpretation : str
        Photometric Interpretation.
    padding : tuple of int, optional
        Lowest and highest stored value that stand for no measurement (Pixel Padding Value and
        Pixel Padding Range Limit, PS3.3 C.7.5.1.1.2).
    """

    path: Path
    name: str
    transfer_syntax_uid: str
    offset: int
    frames: int
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    photometric_interpretation: str
    padding: tuple[int, int] | None

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Lowest and highest value that Bits Stored can hold; None where a decoder is trusted."""
        if self.transfer_syntax_uid not in NATIVE or self.bits_allocated != 16:
            return None
        low = -(1 << (self.bits_stored - 1)) if self.pixel_representation else 0
        return low, low + (1 << self.bits_stored) - 1


def read_frames(
    source: PixelSource, places: Iterable[NDArray[np.int16]] = ()
) -> Iterator[NDArray[Any]]:
    """Read the stored values of an instance, frame by frame.

    Parameters
    ----------
    source : PixelSource
        The file, and what its header says about its pixels.
    places : iterable of ndarray of int16, shape (rows, columns)
        Contiguous memory, one for each frame, into which native 16-bit pixels are read; the frame
        is then a view of it. Decoders allocate for themselves.

    Yields
    ------
    ndarray of integers, shape (rows, columns)
        Stored values, sign extended from Bits Stored. Padding that Bits Stored cannot hold keeps
        its value.

    Raises
    ------
    VolumeError
        The transfer syntax has no decoder, or the pixels are truncated or damaged.
    StageError
        The file cannot be read now.

    References
    ----------
    DICOM PS3.5 8 (Encoding of Pixel, Overlay and Waveform Data), PS3.5 A.4 (encapsulation)
    """
    syntax = UID(source.transfer_syntax_uid)
    if syntax not in NATIVE and syntax not in PYDICOM_PLUGINS and syntax not in GDCM_ONLY:
        raise VolumeError(
            f"{source.name}: no decoder for transfer syntax {syntax.name}. "
            "Send the series uncompressed or in another compression"
        )
    shape = (source.rows, source.columns)
    with mapped_errors(f"{source.name}: the pixel data is damaged or truncated"):
        decoded = 0
        for frame in islice(_decode(source, syntax, iter(places)), source.frames):
            if frame.shape != shape:
                raise ValueError(f"a frame of {frame.shape} pixels, not {shape}")
            decoded += 1
            yield frame
        if decoded < source.frames:
            raise EOFError(f"{decoded} of {source.frames} frames")


@contextmanager
def mapped_errors(damaged: str) -> Iterator[None]:
    """Turn what pydicom and its decoders raise into errors of this package.

    Parameters
    ----------
    damaged : str
        What to say where the file was read but makes no sense.

    Raises
    ------
    VolumeError
        The data set or a stream is damaged.
    StageError
        The operating system did not give the file.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno is None:  # pydicom's own, for a fragment that is cut off
            raise VolumeError(f"{damaged} ({exc})") from exc
        raise StageError(f"A file cannot be read now: {exc}") from exc
    except DAMAGED as exc:
        raise VolumeError(f"{damaged} ({exc})") from exc


@contextmanager
def _pixel_data(path: Path, syntax: UID, offset: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open the value of Pixel Data: the file at its first byte, and its length in bytes."""
    if syntax == DeflatedExplicitVRLittleEndian:
        value = pydicom.dcmread(path).PixelData
        yield BytesIO(value), len(value)
        return
    with path.open("rb") as file:
        # An element's header, PS3.5 7.1.2 and 7.1.3: tag, VR and two reserved bytes, length.
        file.seek(offset + (4 if syntax == ImplicitVRLittleEndian else 8))
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        (length,) = struct.unpack(f"{order}L", file.read(4))
        yield file, length


def _decode(
    source: PixelSource, syntax: UID, places: Iterator[NDArray[np.int16]]
) -> Iterator[NDArray[Any]]:
    with _pixel_data(source.path, syntax, source.offset) as (file, length):
        if syntax in NATIVE:
            _require_length(length, source)
        if syntax in NATIVE and source.bits_allocated == 16:
            yield from _native_frames(file, syntax, source, places)
            return
        if syntax not in NATIVE:
            begin = file.tell()
            for stream in generate_frames(file, number_of_frames=source.frames):
                require_frame(stream, syntax, source.rows, source.columns)
            file.seek(begin)
        if syntax in GDCM_ONLY:
            for stream in generate_frames(file, number_of_frames=source.frames):
                yield _gdcm_frame(stream, syntax, source)
        else:
            yield from _pydicom_frames(file, syntax, source)


def _require_length(length: int, source: PixelSource) -> None:
    """Refuse pixels of another size than Rows and Columns state: they would be skewed or cut."""
    expected = source.frames * source.rows * source.columns * source.bits_allocated // 8
    if length not in (expected, expected + expected % 2):  # PS3.5 8.1.1: padded to even length
        what = f"{source.frames} frames of " if source.frames > 1 else ""
        raise ValueError(
            f"{length:,} bytes, where {what}{source.rows} x {source.columns} pixels of "
            f"{source.bits_allocated} bits are {expected:,}"
        )


def _pydicom_frames(file: BinaryIO, syntax: UID, source: PixelSource) -> Iterator[NDArray[Any]]:
    frames = get_decoder(syntax).iter_array(
        file,
        decoding_plugin=PYDICOM_PLUGINS.get(syntax, ""),
        number_of_frames=source.frames,
        rows=source.rows,
        columns=source.columns,
        samples_per_pixel=1,
        photometric_interpretation=source.photometric_interpretation,
        bits_allocated=source.bits_allocated,
        bits_stored=source.bits_stored,
        pixel_representation=source.pixel_representation,
        pixel_keyword="PixelData",
    )
    for frame, _ in frames:
        yield frame


def _native_frames(
    file: BinaryIO, syntax: UID, source: PixelSource, places: Iterator[NDArray[np.int16]]
) -> Iterator[NDArray[Any]]:
    shape = (source.rows, source.columns)
    for _ in range(source.frames):
        place = next(places, None)
        if place is None:
            place = np.empty(shape, np.int16)
        read = file.readinto(place.reshape(-1).view(np.uint8))  # type: ignore[attr-defined] # so
        if read < place.nbytes:
            raise EOFError(f"{read:,} of {place.nbytes:,} bytes of a frame")
        if syntax == ExplicitVRBigEndian:
            place.byteswap(inplace=True)
        frame = place.view(f"{'ui'[source.pixel_representation]}2")
        if source.bits_stored < 16:
            _drop_other_bits(frame, source)
        yield frame


def _drop_other_bits(frame: NDArray[Any], source: PixelSource) -> None:
    """Push out the bits outside Bits Stored, which mean nothing (PS3.5 8.1.1), on both sides."""
    if source.bounds is not None and source.high_bit == source.bits_stored - 1:
        lowest, highest = source.bounds
        # A look at them costs half of what pushing does, and most writers leave nothing there.
        if frame.max() <= highest and (lowest == 0 or frame.min() >= lowest):
            return
    kept = None
    if source.padding is not None and not _overlap(source.padding, source.bounds):
        # Some writers pad with a value that Bits Stored cannot hold; cut, it could read as bone.
        padded = (frame >= source.padding[0]) & (frame <= source.padding[1])
        kept = frame[padded]
    frame <<= 15 - source.high_bit
    frame >>= 16 - source.bits_stored
    if kept is not None:
        frame[padded] = kept


def _overlap(one: tuple[int, int], other: tuple[int, int] | None) -> bool:
    return other is None or (one[0] <= other[1] and other[0] <= one[1])


def _gdcm_frame(stream: bytes, syntax: UID, source: PixelSource) -> NDArray[Any]:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((source.columns, source.rows, 1))
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    image.SetPixelFormat(
        gdcm.PixelFormat(
            1,
            source.bits_allocated,
            source.bits_stored,
            source.high_bit,
            source.pixel_representation,
        )
    )
    image.SetDataElement(element)
    buffer = image.GetBuffer()  # a str whose surrogates stand for bytes; None for a bad stream
    if buffer is None:
        raise ValueError("GDCM refuses the JPEG stream")
    dtype = np.dtype(f"{'ui'[source.pixel_representation]}{source.bits_allocated // 8}")
    pixels = np.frombuffer(buffer.encode("utf-8", "surrogateescape"), dtype)
    return pixels.reshape(source.rows, source.columns)
