"""Agreement of two Segmentations: the same figures as on the label maps that they were made of."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from osteon.errors import EncodingError
from osteon.results.overlap import compare_segmentations
from osteon.results.seg import write_part10
from tests.unit.results.series import Frame, encode, labels, segments, write_enhanced, write_series


@pytest.fixture(params=["single", "enhanced"])
def frames(request: pytest.FixtureRequest, tmp_path: Path) -> list[Frame]:
    return write_series(tmp_path) if request.param == "single" else write_enhanced(tmp_path)


def seg(folder: Path, frames: list[Frame], labels_zyx: NDArray[np.uint8], label: str = "Bone"):
    path = folder / f"{label}-{labels_zyx.sum()}.seg"
    count = int(labels_zyx.max())
    write_part10(encode(frames, labels_zyx=labels_zyx, segments=segments(count, label)), path)
    return path


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2 * int((a & b).sum()) / (int(a.sum()) + int(b.sum()))


def test_a_result_agrees_with_itself(frames: list[Frame], tmp_path: Path) -> None:
    path = seg(tmp_path, frames, labels())
    overlap = compare_segmentations(path, path)
    assert overlap.dice == 1.0
    assert overlap.segments == {"Bone 1": 1.0, "Bone 2": 1.0, "Bone 3": 1.0}


def test_the_figures_are_those_of_the_label_maps(frames: list[Frame], tmp_path: Path) -> None:
    first, second = labels(), np.roll(labels(), (1, 1), axis=(1, 2))
    second[0] = 1
    second[second == 3] = 0
    overlap = compare_segmentations(
        seg(tmp_path, frames, first), seg(tmp_path, frames, second, "Bone")
    )
    assert overlap.dice == pytest.approx(dice(first > 0, second > 0))
    assert overlap.segments == {
        "Bone 1": pytest.approx(dice(first == 1, second == 1)),
        "Bone 2": pytest.approx(dice(first == 2, second == 2)),
        "Bone 3": 0.0,
    }
    swapped = compare_segmentations(
        seg(tmp_path, frames, second, "Bone"), seg(tmp_path, frames, first)
    )
    assert swapped == overlap


def test_other_names_agree_in_all_and_not_by_segment(frames: list[Frame], tmp_path: Path) -> None:
    first, second = seg(tmp_path, frames, labels()), seg(tmp_path, frames, labels(), "Rib")
    overlap = compare_segmentations(first, second)
    assert overlap.dice == 1.0
    assert set(overlap.segments) == {f"{name} {n}" for name in ("Bone", "Rib") for n in (1, 2, 3)}
    assert set(overlap.segments.values()) == {0.0}


def test_what_is_no_segmentation_is_refused(tmp_path: Path) -> None:
    frames = write_series(tmp_path)
    good = seg(tmp_path, frames, labels())
    (tmp_path / "text").write_text("no DICOM")
    for other in (frames[0].path, tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(EncodingError, match="is not a readable Segmentation"):
            compare_segmentations(good, other)
    fractional = encode(frames)
    fractional.SegmentationType = "FRACTIONAL"
    fractional.save_as(tmp_path / "fractional.dcm")
    with pytest.raises(EncodingError, match="of type FRACTIONAL is not compared"):
        compare_segmentations(good, tmp_path / "fractional.dcm")
