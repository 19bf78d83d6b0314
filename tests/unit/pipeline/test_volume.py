"""Volumes from real series and from made ones, good and refused."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    SegmentationStorage,
)

from osteon.errors import StageError, VolumeError
from osteon.pipeline.volume import Volume, read_volume
from tests.unit.pipeline.ct import FRAME_OF_REFERENCE, enhanced, image, series, write


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "LICENSE")


def assert_slices_are_pydicoms(volume: Volume) -> None:
    for hu_yx, source in zip(volume.hu_zyx, volume.frames, strict=True):
        ds = pydicom.dcmread(source.path)
        expected = ds.pixel_array.astype(np.int64) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
        if "PixelPaddingValue" in ds:
            expected[ds.pixel_array == ds.PixelPaddingValue] = -1024
        np.testing.assert_array_equal(hu_yx, expected)
        assert source.sop_instance_uid == ds.SOPInstanceUID
        assert source.frame == 1


@pytest.mark.parametrize(
    ("folder", "shape", "spacing", "first"),
    [
        ("ts_siemens_j2k/dicom", (20, 512, 512), (2, 0.9765625, 0.9765625), "CT0286.dcm"),
        ("ts_pelvis_3mm/dicom", (112, 101, 122), (3, 3, 3), "CT0001.dcm"),
        ("tptbox_vertebra/dicom", (47, 73, 73), (1.5, 1.5, 1.5), "CT0001.dcm"),
        ("dcmqi/ct-3slice", (3, 512, 512), (1, 0.810547, 0.810547), "03.dcm"),
    ],
)
def test_real_series(
    shared_data: Path,
    folder: str,
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    first: str,
) -> None:
    volume = read_volume(files(shared_data / folder))
    assert volume.hu_zyx.dtype == np.int16
    assert volume.hu_zyx.shape == volume.geometry.shape_zyx == shape
    np.testing.assert_allclose(volume.geometry.spacing_zyx_mm, spacing, atol=1e-6)
    assert volume.frames[0].path.name == first
    assert_slices_are_pydicoms(volume)
    for index, source in enumerate(volume.frames):
        position = pydicom.dcmread(source.path, stop_before_pixels=True).ImagePositionPatient
        np.testing.assert_allclose(
            volume.geometry.affine[:3] @ [0, 0, index, 1], position, atol=1e-3
        )


def test_headers_padded_with_nul(shared_data: Path) -> None:
    paths = files(shared_data / "vhf_ankle_jpegll")
    chosen = [path for path in paths if int(path.stem[1:]) <= 12]
    volume = read_volume(chosen)
    assert volume.geometry.shape_zyx == (12, 512, 512)
    assert [source.path.stem for source in volume.frames] == [f"A{n}" for n in range(1, 13)]
    assert_slices_are_pydicoms(volume)


def test_gantry_tilt(shared_data: Path) -> None:
    geometry = read_volume(files(shared_data / "philips_tilt_phantom_jpegls")).geometry
    step = geometry.affine[:3, 2]
    np.testing.assert_allclose(step, (0, 0, 2.5), atol=1e-6)
    tilt = np.arccos(geometry.spacing_zyx_mm[0] / np.linalg.norm(step))
    assert np.rad2deg(tilt) == pytest.approx(16.5, abs=0.01)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        (
            "dicom2nifti_ct_failing/sliceincrement_001",
            "1 slice is missing: 10.00 mm between image 9 at 28.11 mm and image 10 at 38.11 mm",
        ),
        (
            "dicom2nifti_ct_failing/notavolume_001",
            r"4 images at one position \(61.50 mm\): image 23, image 24, image 25, image 26",
        ),
        ("cornerstone_ct_16ts", "15 images at one position"),
        ("dcmqi/23x38x3/seg", "label.seg is no CT image but: Segmentation Storage"),
        ("dcmqi/23x38x3/nrrd", "label.nrrd is no readable DICOM Part 10 file"),
    ],
)
def test_real_series_that_are_no_volume(shared_data: Path, folder: str, reason: str) -> None:
    with pytest.raises(VolumeError, match=reason):
        read_volume(files(shared_data / folder))


def test_legacy_converted_equals_what_it_was_converted_from(shared_data: Path) -> None:
    single = read_volume(files(shared_data / "dcmqi/24x38x3/image"))
    multi = read_volume(files(shared_data / "dcmqi/24x38x3/multiframe"))
    np.testing.assert_array_equal(single.hu_zyx, multi.hu_zyx)
    np.testing.assert_allclose(single.geometry.affine, multi.geometry.affine)
    assert {one.sop_class_uid for one in multi.frames} == {LegacyConvertedEnhancedCTImageStorage}
    assert sorted(one.frame for one in multi.frames) == [1, 2, 3]


def test_enhanced_frames_have_their_own_position_and_rescale(tmp_path: Path) -> None:
    stored = np.arange(4, dtype=np.uint16)[:, None, None] + np.full((4, 3, 5), 100, np.uint16)
    ds = enhanced(stored, [6, 2, 4, 0], [(1, -1000), (2, -1000), (1, 0), (3, 7)])
    volume = read_volume(write(tmp_path, [ds]))
    assert [one.frame for one in volume.frames] == [4, 2, 3, 1]
    assert volume.hu_zyx[:, 1, 2].tolist() == [3 * 103 + 7, 2 * 101 - 1000, 102, 100 - 1000]
    assert volume.geometry.spacing_zyx_mm == (2, 0.5, 0.75)
    assert volume.frames[0].sop_class_uid == EnhancedCTImageStorage


def test_enhanced_without_a_group_for_each_frame_is_refused(tmp_path: Path) -> None:
    ds = enhanced(np.zeros((4, 3, 5), np.uint16), [0, 2, 4, 6], [(1, 0)] * 4)
    del ds.PerFrameFunctionalGroupsSequence[3]
    with pytest.raises(VolumeError, match="3 Per-Frame Functional Groups for 4 frames"):
        read_volume(write(tmp_path, [ds]))


def test_order_of_files_does_not_matter_and_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    paths = write(tmp_path, series(5))
    volume = read_volume(paths[::-1], on_frame=lambda done, total: told.append((done, total)))
    assert volume.hu_zyx[:, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert [source.path for source in volume.frames] == paths
    assert told == [(n, 5) for n in range(1, 6)]


def test_one_frame_that_needs_it_makes_the_volume_float(tmp_path: Path) -> None:
    datasets = series(4)
    datasets[2].RescaleSlope = "0.5"
    volume = read_volume(write(tmp_path, datasets))
    assert volume.hu_zyx.dtype == np.float32
    assert volume.hu_zyx[:, 0, 0].tolist() == [1, 2, 1027 / 2 - 1024, 4]


def test_padding_becomes_air(tmp_path: Path) -> None:
    stored = np.array([[-2000, -1500, -1024, 0]] * 2, np.int16)
    datasets = [
        image(stored, n, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1500) for n in (1, 2, 3)
    ]
    volume = read_volume(write(tmp_path, datasets))
    assert volume.hu_zyx[1, 0].tolist() == [-1024, -1024, -2048, -1024]


def rewrite(path: Path, *changes: tuple[bytes, bytes]) -> None:
    raw = path.read_bytes()
    for old, new in changes:
        assert old in raw
        assert len(old) == len(new)
        raw = raw.replace(old, new)
    path.write_bytes(raw)


def test_values_padded_with_nul_or_blank_are_read(tmp_path: Path) -> None:
    paths = write(tmp_path, series(3))
    rewrite(
        paths[1],
        (b"-10\\-20\\4 ", b"-10\\-20\\4\0"),
        (b"0.5\\0.75", b" .5\\.75\0"),
        (FRAME_OF_REFERENCE.encode() + b"\0", FRAME_OF_REFERENCE.encode() + b" "),
        (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1 "),
        (b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.1.1.2 "),
        (b"\x28\x00\x53\x10DS\x02\x001 ", b"\x28\x00\x53\x10DS\x02\x001\0"),
    )
    volume = read_volume(paths)
    assert volume.hu_zyx[:, 0, 0].tolist() == [1, 2, 3]
    assert volume.geometry.frame_of_reference_uid == FRAME_OF_REFERENCE
    assert {source.sop_class_uid for source in volume.frames} == {"1.2.840.10008.5.1.4.1.1.2"}


def test_a_malformed_number_is_absent(tmp_path: Path) -> None:
    paths = write(tmp_path, series(3))
    rewrite(paths[1], (b"\x20\x00\x13\x00IS\x02\x002 ", b"\x20\x00\x13\x00IS\x02\x00A "))
    assert read_volume(paths).hu_zyx[:, 0, 0].tolist() == [1, 2, 3]
    rewrite(paths[1], (b"-10\\-20\\4 ", b"-10\\-2O\\4 "))
    with pytest.raises(VolumeError, match=r"No valid Image Position .* in 001.dcm frame 1"):
        read_volume(paths)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SOPClassUID": SegmentationStorage}, "001.dcm is no CT image but: Segmentation Storage"),
        ({"SOPClassUID": None}, "001.dcm is no CT image but: no SOP Class UID"),
        ({"PixelData": None}, "001.dcm is a CT image without pixel data"),
        ({"ImagePositionPatient": None}, r"No valid Image Position \(Patient\) in image 2$"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "Localizer.*image 2"),
        ({"RescaleSlope": None}, r"image 2 \(001.dcm\) has no valid Rescale Slope"),
        ({"RescaleSlope": 0}, r"image 2 \(001.dcm\) has no valid Rescale Slope"),
        ({"BitsStored": 17}, r"image 2 \(001.dcm\): Bits Allocated 16, Bits Stored 17"),
        ({"BitsAllocated": 12}, r"image 2 \(001.dcm\): Bits Allocated 12"),
        ({"PixelRepresentation": 2}, r"image 2 \(001.dcm\): .*Pixel Representation 2"),
        ({"NumberOfFrames": 1000000}, "1000000 is no possible Number of Frames"),
        ({"NumberOfFrames": 2}, "2 images at one position"),
        ({"PixelData": b"\0\0"}, r"image 2 \(001.dcm\): the pixel data is damaged or truncated"),
        ({"SOPClassUID": EnhancedCTImageStorage}, "2 different SOP Classes"),
    ],
)  # fmt: skip
def test_one_odd_instance_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    datasets = series(4)
    datasets[1] = image(np.full((4, 6), 9, np.uint16), 2, **change)
    with pytest.raises(VolumeError, match=reason):
        read_volume(write(tmp_path, datasets))


def test_signed_pixels_without_a_rescale_are_hounsfield_units(tmp_path: Path) -> None:
    stored = np.array([[-1000, 40]], np.int16)
    datasets = [image(stored, n, RescaleSlope=None, RescaleIntercept=None) for n in (1, 2, 3)]
    assert read_volume(write(tmp_path, datasets)).hu_zyx[0].tolist() == [[-1000, 40]]


def test_a_file_that_cannot_be_opened_may_be_tried_again(tmp_path: Path) -> None:
    paths = write(tmp_path, series(3))
    paths[1].unlink()
    with pytest.raises(StageError, match=r"cannot be read now: .*001.dcm") as failure:
        read_volume(paths)
    assert failure.value.retryable


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    paths = write(tmp_path, series(3))
    whole = paths[1].read_bytes()
    for length in range(0, len(whole), 7):
        paths[1].write_bytes(whole[:length])
        with pytest.raises(VolumeError):
            read_volume(paths)


def test_no_single_damaged_byte_escapes_as_another_error(tmp_path: Path) -> None:
    paths = write(tmp_path, series(3))
    whole = paths[1].read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole) - 48, 300):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        paths[1].write_bytes(damaged)
        try:
            read_volume(paths)
        except VolumeError:
            refused += 1
    assert refused > 50
