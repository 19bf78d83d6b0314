"""The preview: head up, patient right on the left, segments in their colours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osteon.errors import StageError
from osteon.results.preview import write_preview
from tests.unit.results.series import segments

SPACING_ZYX_MM = (2.0, 1.0, 1.0)
RED, GREEN = (220, 0, 0), (0, 220, 0)


def volume() -> tuple[np.ndarray, np.ndarray]:
    """A block in the patient's right, feet, anterior corner, and one opposite to it."""
    labels_zyx = np.zeros((30, 60, 60), np.uint8)
    labels_zyx[2:14, 5:40, 5:40] = 1
    labels_zyx[14:28, 20:55, 20:55] = 2
    hu_zyx = np.where(labels_zyx > 0, 300, -1000).astype(np.int16)
    return hu_zyx, labels_zyx


def coloured() -> list:
    return [
        part.__class__(**(vars(part) | {"rgb": rgb}))
        for part, rgb in zip(segments(2), (RED, GREEN), strict=True)
    ]


def centre_of(picture: np.ndarray, channel: int) -> tuple[float, float]:
    """Row and column of the middle of what is clearly red or green."""
    other = 1 - channel
    strong = picture[..., channel].astype(int) - picture[..., other] > 60
    rows, columns = np.nonzero(strong)
    return float(rows.mean()), float(columns.mean())


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def planes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The coronal and the sagittal plane: lower left and lower right of the picture."""
    picture = read(path)
    lower = picture[picture.shape[0] // 2 + 20 :]
    middle = picture.shape[1] // 2
    return lower[:, :middle], lower[:, middle:]


def test_head_is_up_right_is_left_and_anterior_is_left(tmp_path: Path) -> None:
    path = tmp_path / "preview.png"
    write_preview(*volume(), SPACING_ZYX_MM, coloured(), path)
    coronal, sagittal = planes(path)
    (red_row, red_column), (green_row, green_column) = (centre_of(coronal, n) for n in (0, 1))
    assert red_row > green_row  # the red block is at the feet
    assert red_column < green_column  # and on the patient's right
    assert centre_of(sagittal, 0)[1] < centre_of(sagittal, 1)[1]  # and anterior


def test_the_affine_turns_a_volume_that_runs_the_other_way(tmp_path: Path) -> None:
    hu_zyx, labels_zyx = volume()
    straight, turned = tmp_path / "straight.png", tmp_path / "turned.png"
    write_preview(hu_zyx, labels_zyx, SPACING_ZYX_MM, coloured(), straight)
    # Sagittal slices from left to right, rows to the feet, columns to posterior.
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = 1.0, -2.0, -1.0, 1.0
    flipped = [array[::-1, :, ::-1].transpose(2, 0, 1) for array in (hu_zyx, labels_zyx)]
    write_preview(*flipped, (1.0, 2.0, 1.0), coloured(), turned, affine=affine)
    assert np.array_equal(read(straight), read(turned))


def test_a_picture_stays_small_for_a_tall_body(tmp_path: Path) -> None:
    labels_zyx = np.zeros((700, 40, 50), np.uint8)
    labels_zyx[5:695, 10:30, 10:40] = 1
    path = tmp_path / "preview.png"
    hu_zyx = labels_zyx.astype(np.int16) * 400
    write_preview(hu_zyx, labels_zyx, (2.5, 8.0, 8.0), segments(1), path)
    height, width, _ = read(path).shape
    assert width < 1300
    assert height < 1100


def test_an_empty_mask_cannot_be_drawn(tmp_path: Path) -> None:
    hu_zyx, labels_zyx = volume()
    with pytest.raises(StageError, match="nothing to draw"):
        write_preview(hu_zyx, labels_zyx * 0, SPACING_ZYX_MM, [], tmp_path / "preview.png")


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_preview(*volume(), SPACING_ZYX_MM, coloured(), tmp_path / "nowhere" / "p.png")
