"""Single-bit frames: packed, unpacked, and refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from osteon.errors import EncodingError
from osteon.results.bits import find_frames, pack, unpack

label_maps = arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(0, 2),
)


@given(label_maps)
def test_what_is_packed_is_unpacked(labels_zyx: np.ndarray) -> None:
    frames = [(z, number) for number in (1, 2) for z in range(len(labels_zyx))]
    pixel_data = pack(labels_zyx, frames)
    assert len(pixel_data) % 2 == 0
    masks = list(unpack(pixel_data, len(frames), labels_zyx.shape[1:]))
    for mask, (z, number) in zip(masks, frames, strict=True):
        assert np.array_equal(mask, labels_zyx[z] == number)


def test_the_first_voxel_is_the_lowest_bit_and_the_padding_is_zero() -> None:
    labels_zyx = np.zeros((1, 3, 3), np.uint8)
    labels_zyx[0, 0, 0] = labels_zyx[0, 2, 2] = 1
    assert pack(labels_zyx, [(0, 1)]) == b"\x01\x01"
    assert pack(np.ones((1, 2, 2), np.uint8), [(0, 1)]) == b"\x0f\x00"


def test_pixel_data_of_another_length_is_refused() -> None:
    with pytest.raises(EncodingError, match="4 bytes instead of 2"):
        list(unpack(b"\0\0\0\0", 1, (3, 3)))


def test_frames_are_needed_where_a_segment_has_voxels() -> None:
    labels_zyx = np.zeros((3, 2, 2), np.uint16)
    labels_zyx[0, 0, 0], labels_zyx[2, 1, 1] = 1, 2
    assert find_frames(labels_zyx, 2).tolist() == [[True, False], [False, False], [False, True]]


@pytest.mark.parametrize(
    ("labels_zyx", "count", "reason"),
    [
        (np.zeros((2, 2, 2), np.uint8), 1, "the mask is empty"),
        (np.full((2, 2, 2), 3, np.uint8), 2, "label 3 has no segment"),
        (np.full((2, 2, 2), 2, np.uint8), 3, "no voxel belongs to segment 1, 3"),
        (np.ones((2, 2, 2), np.int32), 1, "int32, not uint8 or uint16"),
    ],
)
def test_a_label_map_that_does_not_fit_its_segments(
    labels_zyx: np.ndarray, count: int, reason: str
) -> None:
    with pytest.raises(EncodingError, match=reason):
        find_frames(labels_zyx, count)
