"""The gate: a sound result passes, and every way of being unsound is found."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from osteon.errors import EncodingError, StageError
from osteon.results.gate import check_result
from osteon.results.seg import write_part10
from tests.unit.results.series import Frame, encode, labels, write_series


@pytest.fixture
def frames(tmp_path: Path) -> list[Frame]:
    return write_series(tmp_path)


def test_a_sound_result_passes_as_data_set_and_as_file(frames: list[Frame], tmp_path: Path) -> None:
    encoded = encode(frames)
    check_result(encoded, frames, labels())
    write_part10(encoded, tmp_path / "seg.dcm")
    check_result(tmp_path / "seg.dcm", frames, labels())


def per_frame(dataset: Dataset, number: int = 2) -> Dataset:
    return dataset.PerFrameFunctionalGroupsSequence[number]


def shift(dataset: Dataset) -> None:
    per_frame(dataset).PlanePositionSequence[0].ImagePositionPatient[1] += 0.02


def turn(dataset: Dataset) -> None:
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def stretch(dataset: Dataset) -> None:
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [0.75, 0.502]


def flip_a_voxel(dataset: Dataset) -> None:
    pixel_data = bytearray(dataset.PixelData)
    pixel_data[9] ^= 0b100
    dataset.PixelData = bytes(pixel_data)


def swap_two_segments(dataset: Dataset) -> None:
    for number, segment in ((0, 2), (3, 1)):
        groups = per_frame(dataset, number)
        groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber = segment


def refer_elsewhere(dataset: Dataset) -> None:
    source = per_frame(dataset).DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPInstanceUID = "1.2.3.4.77"


def refer_to_the_next_slice(dataset: Dataset) -> None:
    source = per_frame(dataset, 0).DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedSOPInstanceUID = "1.2.3.4.3"


def lose_a_frame(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[-1]


def lose_a_reference(dataset: Dataset) -> None:
    del dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]


def renumber(dataset: Dataset) -> None:
    dataset.SegmentSequence[0].SegmentNumber = 4


def unlabel(dataset: Dataset) -> None:
    del dataset.SegmentSequence[1].SegmentLabel


def setter(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def remover(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, keyword)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shift, "frame 3 lies 0.020 mm from its source"),
        (turn, "mm from its source"),
        (stretch, "mm from its source"),
        (flip_a_voxel, "differs from the label map in slice 2"),
        (swap_two_segments, "not one per slice and segment|differs from the label map"),
        (refer_elsewhere, "frame 3 refers to .*1.2.3.4.77"),
        (refer_to_the_next_slice, "frame 1 lies 2.500 mm from its source"),
        (lose_a_frame, "Number of Frames differs"),
        (lose_a_reference, "does not list the source instances"),
        (renumber, "the segments are numbered"),
        (unlabel, "lacks SegmentLabel"),
        (setter("FrameOfReferenceUID", "1.2.3.8"), "FrameOfReferenceUID is 1.2.3.8"),
        (setter("StudyInstanceUID", "1.2.4"), "StudyInstanceUID is 1.2.4"),
        (setter("SegmentationType", "FRACTIONAL"), "SegmentationType is 'FRACTIONAL'"),
        (setter("ContentLabel", ""), "lacks ContentLabel"),
        (setter("NumberOfFrames", 6), "Number of Frames differs"),
        (setter("Rows", 8), "mm from its source|the frames are"),
        (remover("PatientBirthDate"), "lacks PatientBirthDate"),
        (remover("DeviceSerialNumber"), "lacks DeviceSerialNumber"),
        (remover("PixelData"), "lacks PixelData"),
    ],
)
def test_an_unsound_result_is_stopped(
    frames: list[Frame], damage: Callable[[Dataset], None], reason: str
) -> None:
    encoded = encode(frames)
    damage(encoded)
    with pytest.raises(EncodingError, match=reason):
        check_result(encoded, frames, labels())


def test_another_label_map_is_noticed(frames: list[Frame]) -> None:
    encoded = encode(frames)
    more, less = labels(), labels()
    more[0, 0, 0] = 1
    less[4, 0, 8] = 0
    with pytest.raises(EncodingError, match="not one per slice and segment"):
        check_result(encoded, frames, more)
    with pytest.raises(EncodingError, match="no voxel belongs to segment 3"):
        check_result(encoded, frames, less)
    with pytest.raises(EncodingError, match="the mask is empty"):
        check_result(encoded, frames, np.zeros_like(labels()))


def test_a_file_that_is_no_segmentation(frames: list[Frame], tmp_path: Path) -> None:
    with pytest.raises(EncodingError, match="lacks"):
        check_result(frames[0].path, frames, labels())
    with pytest.raises(StageError, match="cannot be read"):
        check_result(tmp_path / "seg.dcm", frames, labels())
    (tmp_path / "seg.dcm").write_bytes(b"no DICOM at all")
    with pytest.raises(EncodingError, match="not a readable Segmentation"):
        check_result(tmp_path / "seg.dcm", frames, labels())
