"""The Segmentation: what it says of its source, and that it says the same every time."""

import errno
import os
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import EnhancedCTImageStorage, SegmentationStorage

from osteon.errors import EncodingError, OutOfResourcesError, StageError
from osteon.pipeline.workers.worker import failure_of
from osteon.results.gate import check_result
from osteon.results.seg import write_part10
from osteon.results.source import read_frame_headers
from tests.unit.results.series import (
    ALGORITHM,
    SLICES,
    Frame,
    encode,
    labels,
    position,
    segments,
    write_enhanced,
    write_series,
)


@pytest.fixture
def frames(tmp_path: Path) -> list[Frame]:
    return write_series(tmp_path)


def as_bytes(dataset: Dataset) -> bytes:
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def walk(dataset: Dataset, keyword: str) -> list[str]:
    return [str(element.value) for element in dataset.iterall() if element.keyword == keyword]


def test_the_same_arguments_give_the_same_bytes(frames: list[Frame]) -> None:
    assert as_bytes(encode(frames)) == as_bytes(encode(frames))
    assert as_bytes(encode(frames)) != as_bytes(encode(frames, sop_instance_uid="2.25.3"))


def test_the_only_time_is_the_given_one(frames: list[Frame]) -> None:
    encoded = encode(frames)
    for date in ("ContentDate", "SeriesDate", "InstanceCreationDate"):
        assert str(encoded[date].value) == "20260102"
    for time in ("ContentTime", "SeriesTime", "InstanceCreationTime"):
        assert str(encoded[time].value) == "030405.000678"
    assert set(walk(encoded, "ContributionDateTime")) == {"20260102030405.000678"}


def test_the_time_is_in_the_zone_of_the_source(tmp_path: Path) -> None:
    encoded = encode(
        write_series(tmp_path, TimezoneOffsetFromUTC="+0900"),
        content_at=datetime(2026, 1, 2, 22, 0, tzinfo=timezone(timedelta(hours=1))),
    )
    assert (str(encoded.ContentDate), str(encoded.ContentTime)) == ("20260103", "060000")
    assert encoded.TimezoneOffsetFromUTC == "+0900"


def test_frames_stand_by_segment_then_from_head_to_feet(frames: list[Frame]) -> None:
    encoded = encode(frames)
    order = [
        (
            groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            [float(mm) for mm in groups.PlanePositionSequence[0].ImagePositionPatient],
        )
        for groups in encoded.PerFrameFunctionalGroupsSequence
    ]
    where = [(1, 3), (1, 2), (1, 1), (2, 4), (2, 3), (2, 2), (3, 4)]
    assert order == [(segment, position(z)) for segment, z in where]
    masks = pixel_array(encoded)
    for mask, (segment, z) in zip(masks, where, strict=True):
        assert np.array_equal(mask, labels()[z] == segment)


def test_every_frame_refers_to_its_source_and_the_series_is_listed(frames: list[Frame]) -> None:
    encoded = encode(frames)
    for groups in encoded.PerFrameFunctionalGroupsSequence:
        z = round((float(groups.PlanePositionSequence[0].ImagePositionPatient[2]) - 100) / 2.5)
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == frames[z].sop_instance_uid
        assert source.ReferencedSOPClassUID == frames[z].sop_class_uid
        assert "ReferencedFrameNumber" not in source
    (series,) = encoded.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == "1.2.3.4"
    listed = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert listed == [frame.sop_instance_uid for frame in frames]
    assert encoded.FrameOfReferenceUID == "1.2.3.9"


def test_a_multi_frame_source_is_one_instance_with_frame_numbers(tmp_path: Path) -> None:
    frames = write_enhanced(tmp_path)
    encoded = encode(frames)
    check_result(encoded, frames, labels())
    (instance,) = encoded.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPClassUID == EnhancedCTImageStorage
    for groups in encoded.PerFrameFunctionalGroupsSequence:
        z = round((float(groups.PlanePositionSequence[0].ImagePositionPatient[2]) - 100) / 2.5)
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedFrameNumber == SLICES - z


def test_a_tilted_series_keeps_the_positions_of_its_slices(tmp_path: Path) -> None:
    frames = write_series(tmp_path, tilt_mm=0.7)
    encoded = encode(frames)
    check_result(encoded, frames, labels())
    positions = {
        tuple(map(float, groups.PlanePositionSequence[0].ImagePositionPatient))
        for groups in encoded.PerFrameFunctionalGroupsSequence
    }
    assert positions == {tuple(position(z, 0.7)) for z in (1, 2, 3, 4)}


def test_a_single_segment(frames: list[Frame]) -> None:
    labels_zyx = (labels() > 0).astype(np.uint16)
    encoded = encode(frames, labels_zyx=labels_zyx, segments=segments(1))
    check_result(encoded, frames, labels_zyx)
    assert encoded.NumberOfFrames == 4


def test_more_segments_than_a_byte_can_count(frames: list[Frame]) -> None:
    labels_zyx = np.zeros((SLICES, 7, 9), np.uint16)
    labels_zyx.ravel()[5:305] = np.arange(1, 301)
    encoded = encode(frames, labels_zyx=labels_zyx, segments=segments(300))
    check_result(encoded, frames, labels_zyx)


def test_a_series_without_slice_thickness_has_the_distance_of_its_slices(tmp_path: Path) -> None:
    encoded = encode(write_series(tmp_path, SliceThickness=None))
    (measures,) = encoded.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert measures.SliceThickness == measures.SpacingBetweenSlices == 2.5
    assert measures.PixelSpacing == [0.75, 0.5]


def test_segments_are_described(frames: list[Frame]) -> None:
    first, second, _ = encode(frames).SegmentSequence
    assert first.SegmentLabel == "Bone 1"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    assert first.SegmentDescription == "1.5 ml"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Bone"
    (modifier,) = second.SegmentedPropertyTypeCodeSequence[
        0
    ].SegmentedPropertyTypeModifierCodeSequence
    assert modifier.CodeMeaning == "Left"
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == ALGORITHM.name
    assert algorithm.AlgorithmVersion == ALGORITHM.version
    assert algorithm.AlgorithmParameters == f"sha256={ALGORITHM.digest}"
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert first.TrackingUID != second.TrackingUID


def test_equipment_names_the_scanner_and_osteon(frames: list[Frame]) -> None:
    encoded = encode(frames)
    assert encoded.Manufacturer == "Osteon"
    assert walk(encoded, "Manufacturer")[1:3] == ["Scanner Works", "Osteon"]


def test_a_lossy_source_makes_a_lossy_result(tmp_path: Path) -> None:
    assert encode(write_series(tmp_path)).LossyImageCompression == "00"
    encoded = encode(
        write_series(
            tmp_path,
            LossyImageCompression="01",
            LossyImageCompressionRatio=[10, 2],
            LossyImageCompressionMethod=["ISO_10918_1", "ISO_15444_1"],
        )
    )
    assert encoded.LossyImageCompression == "01"
    assert encoded.LossyImageCompressionRatio == [10, 2]
    assert encoded.LossyImageCompressionMethod == ["ISO_10918_1", "ISO_15444_1"]


def test_a_lossy_source_without_a_ratio_gets_that_of_its_stream(
    shared_data: Path, tmp_path: Path
) -> None:
    (original,) = (shared_data / "cornerstone_ct_16ts").glob("*_JPEG2000Transfer*")
    source = pydicom.dcmread(original)
    stated = source.LossyImageCompressionRatio
    del source.LossyImageCompressionRatio
    path = tmp_path / "lossy.dcm"
    source.save_as(path)
    (header,) = read_frame_headers([Frame(path, 1, source.SOPClassUID, source.SOPInstanceUID)])
    assert header.lossy is not None
    assert header.lossy.methods == ("ISO_15444_1",)
    assert header.lossy.ratios == pytest.approx((stated,), rel=0.05)


def test_an_east_asian_name_and_label_survive_the_file(tmp_path: Path) -> None:
    frames = write_series(
        tmp_path,
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=山田^太郎",
    )
    path = tmp_path / "seg.dcm"
    write_part10(encode(frames, segments=segments(label="頭蓋骨")), path)
    read = pydicom.dcmread(path)
    assert read.PatientName == "Yamada^Tarou=山田^太郎"
    assert read.SegmentSequence[0].SegmentLabel == "頭蓋骨 1"


def test_a_file_is_whole_and_its_draft_is_gone(frames: list[Frame], tmp_path: Path) -> None:
    path = tmp_path / "out" / "seg.dcm"
    path.parent.mkdir()
    write_part10(encode(frames), path)
    assert [child.name for child in path.parent.iterdir()] == ["seg.dcm"]
    assert pydicom.dcmread(path).file_meta.MediaStorageSOPClassUID == SegmentationStorage
    check_result(path, frames, labels())


def test_a_disk_that_refuses(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error leaves as it is: a full disk is waited for, and costs the job no attempt."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(OSError, match="No space left") as raised:
        write_part10(encode(frames), out / "seg.dcm")
    assert type(failure_of("encode", raised.value)) is OutOfResourcesError
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("numbers", [(1, 3), (2, 1), (0, 1), (1, 1)])
def test_segments_that_are_not_numbered_from_1(
    frames: list[Frame], numbers: tuple[int, int]
) -> None:
    wrong = [segments(3)[0].__class__(**(vars(segments(1)[0]) | {"number": n})) for n in numbers]
    with pytest.raises(EncodingError, match="not from 1 without gaps"):
        encode(frames, segments=wrong)


def test_a_label_map_of_another_shape(frames: list[Frame]) -> None:
    with pytest.raises(EncodingError, match=r"label map is \(5, 7, 8\).*are \(5, 7, 9\)"):
        encode(frames, labels_zyx=labels()[:, :, 1:])
    with pytest.raises(EncodingError, match="label map is"):
        encode(frames[1:])
    with pytest.raises(EncodingError, match="no source frame"):
        encode([])


def test_an_empty_mask(frames: list[Frame]) -> None:
    with pytest.raises(EncodingError, match="the mask is empty"):
        encode(frames, labels_zyx=np.zeros_like(labels()), segments=[])


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("FrameOfReferenceUID", "1.2.3.8", "disagree on frame_of_reference_uid"),
        ("SeriesInstanceUID", "1.2.3.5", "disagree on series_instance_uid"),
        ("StudyInstanceUID", "1.2.4", "disagree on study_instance_uid"),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, -1], "disagree on orientation"),
        ("PixelSpacing", [0.75, 0.6], "disagree on spacing_mm"),
        ("Rows", 8, "disagree on rows"),
        ("SOPInstanceUID", "1.2.3.4.9", "holds the instance 1.2.3.4.9"),
        ("ImagePositionPatient", None, "lacks a valid identifier or geometry"),
        ("FrameOfReferenceUID", None, "lacks a valid identifier or geometry"),
        ("PixelSpacing", [0.75], "lacks a valid identifier or geometry"),
        ("StudyInstanceUID", "Study 1", "not a UID"),
    ],
)
def test_sources_that_disagree_or_lack_something(
    frames: list[Frame], keyword: str, value: object, reason: str
) -> None:
    ds = pydicom.dcmread(frames[2].path)
    with pydicom.config.disable_value_validation():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
        ds.save_as(frames[2].path)
    with pytest.raises(EncodingError, match=reason):
        encode(frames)


def test_a_source_that_is_gone(frames: list[Frame]) -> None:
    frames[2].path.unlink()
    with pytest.raises(StageError, match="cannot be read") as raised:
        encode(frames)
    assert raised.value.retryable
    frames[2].path.write_bytes(b"no DICOM at all")
    with pytest.raises(EncodingError, match="is not DICOM"):
        encode(frames)
