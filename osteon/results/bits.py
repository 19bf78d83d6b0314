"""Label maps as single-bit frames, and back.

A label map enters and the packed Pixel Data of a BINARY Segmentation leaves (the encoder), or the
other way round (the gate). One frame holds one segment in one slice.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from osteon.errors import EncodingError

LabelMap = NDArray[np.uint8] | NDArray[np.uint16]


def find_frames(labels_zyx: LabelMap, segment_count: int) -> NDArray[np.bool_]:
    """Say which segment has voxels in which slice.

    Parameters
    ----------
    labels_zyx : ndarray of uint8 or uint16, shape (slices, rows, columns)
        Label map; 0 is background.
    segment_count : int
        Number of segments, which are numbered from 1.

    Returns
    -------
    ndarray of bool, shape (slices, segments)
        True where a frame is needed.

    Raises
    ------
    EncodingError
        A label has no segment, a segment has no voxel, or there is none at all.
    """
    if labels_zyx.dtype not in (np.uint8, np.uint16):
        raise EncodingError(f"the label map is {labels_zyx.dtype}, not uint8 or uint16")
    highest = int(labels_zyx.max(initial=0))
    if highest == 0:
        raise EncodingError("the mask is empty: no voxel belongs to a segment")
    refuse_unknown(highest, segment_count)
    # Most voxels are background, and counting costs several times what leaving them out does.
    counts = [np.bincount(plane[plane > 0], minlength=segment_count + 1) for plane in labels_zyx]
    found: NDArray[np.bool_] = np.stack(counts)[:, 1:] > 0
    refuse_empty(found)
    return found


def refuse_unknown(label: int, segment_count: int) -> None:
    """Refuse a label that no segment has.

    Raises
    ------
    EncodingError
        It is greater than the number of the last segment.
    """
    if label > segment_count:
        raise EncodingError(f"label {label} has no segment; there are {segment_count}")


def refuse_empty(found: NDArray[np.bool_]) -> None:
    """Refuse segments without a voxel.

    Parameters
    ----------
    found : ndarray of bool, shape (slices, segments)
        Which segment has voxels in which slice, from number 1 on.

    Raises
    ------
    EncodingError
        One has none.
    """
    missing = np.flatnonzero(~found.any(axis=0)) + 1
    if missing.size:
        raise EncodingError(f"no voxel belongs to segment {', '.join(map(str, missing[:8]))}")


def pack(labels_zyx: LabelMap, frames: Sequence[tuple[int, int]]) -> bytes:
    """Pack frames into Pixel Data of one bit a voxel, without padding between frames.

    Parameters
    ----------
    labels_zyx : ndarray, shape (slices, rows, columns)
        Label map.
    frames : sequence of (int, int)
        Slice index (from 0) and segment number of each frame, in frame order.

    Returns
    -------
    bytes
        Of even length; the unused bits at the end are zero.

    References
    ----------
    DICOM PS3.5 8.1.1 (bits are packed from the least significant on); 8.1 (even length)
    """
    packed = bytearray()
    # Eight frames always end on a byte, whatever the matrix.
    for first in range(0, len(frames), 8):
        masks = np.stack([labels_zyx[z] == number for z, number in frames[first : first + 8]])
        packed += np.packbits(masks, axis=None, bitorder="little").tobytes()
    if len(packed) % 2:
        packed.append(0)
    return bytes(packed)


def unpack(
    pixel_data: bytes, frame_count: int, shape: tuple[int, int]
) -> Iterator[NDArray[np.bool_]]:
    """Unpack Pixel Data of one bit a voxel, frame by frame.

    Parameters
    ----------
    pixel_data : bytes
        As ``pack`` makes it.
    frame_count : int
        Number of Frames (0028,0008).
    shape : (int, int)
        Rows and columns.

    Yields
    ------
    ndarray of bool, shape (rows, columns)

    Raises
    ------
    EncodingError
        The Pixel Data has another length.
    """
    size = shape[0] * shape[1]
    length = (size * frame_count + 7) // 8
    if len(pixel_data) != length + length % 2:
        raise EncodingError(f"Pixel Data has {len(pixel_data)} bytes instead of {length}")
    packed = np.frombuffer(pixel_data, np.uint8)
    for frame in range(frame_count):
        start, stop = frame * size, (frame + 1) * size
        bits = np.unpackbits(packed[start // 8 : (stop + 7) // 8], bitorder="little")
        yield bits[start % 8 : start % 8 + size].reshape(shape).view(bool)
