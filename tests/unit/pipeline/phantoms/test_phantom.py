"""The digital phantom: a valid CT series whose bones are where its label map says."""

import hashlib
import json
import subprocess
from pathlib import Path

import cc3d
import numpy as np
import pydicom
import pytest

from osteon.pipeline.phantoms.phantom import (
    Phantom,
    default_spacing_mm,
    render_phantom,
    write_phantom,
)
from osteon.pipeline.volume import Volume, read_volume
from tests.tools import require_script


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    return write_phantom(tmp_path_factory.mktemp("phantom"))


@pytest.fixture(scope="module")
def volume(phantom: Phantom) -> Volume:
    return read_volume(sorted(phantom.dicom.iterdir(), reverse=True))


@pytest.fixture(scope="module")
def labels_zyx(phantom: Phantom) -> np.ndarray:
    return np.load(phantom.labels)


def of(phantom: Phantom, labels_zyx: np.ndarray, kind: str) -> np.ndarray:
    names = json.loads(phantom.names.read_text())
    values = [int(value) for value, name in names.items() if name.startswith(kind)]
    assert values, f"no {kind} in the phantom"
    return np.isin(labels_zyx, values)


def test_the_images_are_one_volume_on_the_grid_of_the_labels(
    phantom: Phantom, volume: Volume, labels_zyx: np.ndarray
) -> None:
    assert volume.geometry.shape_zyx == labels_zyx.shape == (60, 256, 256)
    np.testing.assert_allclose(volume.geometry.spacing_zyx_mm, (5, 1.5, 1.5))
    assert tuple(source.path for source in volume.frames) == phantom.paths
    assert pydicom.dcmread(phantom.paths[0]).SeriesInstanceUID == phantom.series_instance_uid


def test_every_image_is_a_valid_ct_image(phantom: Phantom) -> None:
    dciodvfy = require_script("dciodvfy")
    for path in (phantom.paths[0], phantom.paths[-1]):
        result = subprocess.run(
            [dciodvfy, "-new", path], check=False, capture_output=True, text=True
        )
        told = (result.stdout + result.stderr).splitlines()
        assert [line for line in told if line.startswith(("Error", "Warning"))] == []
        assert "CTImage" in told


def test_no_two_images_share_a_uid(phantom: Phantom) -> None:
    uids = {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in phantom.paths}
    assert len(uids) == 60
    assert all(len(uid) <= 64 for uid in uids)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        phantom = write_phantom(tmp_path / name, seed=seed, slices=6, rows=48, columns=64)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        assert len(files) == 8
        assert {phantom.labels, phantom.names, *phantom.paths} == set(files)
        digests.append([hashlib.sha256(path.read_bytes()).digest() for path in files])
    assert digests[0] == digests[1]
    assert not set(digests[0][:6]) & set(digests[2][:6])


@pytest.mark.parametrize(
    ("tissue", "low", "high"),
    [("air", -1010, -990), ("lung", -880, -820), ("fat", -115, -85), ("muscle", 40, 65)],
)
def test_soft_tissue_has_its_hounsfield_units(
    volume: Volume, tissue: str, low: float, high: float
) -> None:
    # Slices, rows and columns of a patch of each, found by eye.
    patch = {
        "air": np.s_[:, 2:8, 100:150],
        "lung": np.s_[55:59, 95:125, 50:60],
        "fat": np.s_[2:6, 52:56, 125:131],
        "muscle": np.s_[27:33, 156:166, 100:108],
    }[tissue]
    assert low <= float(np.median(volume.hu_zyx[patch])) <= high


def test_bone_has_a_dense_shell_around_its_marrow(
    phantom: Phantom, volume: Volume, labels_zyx: np.ndarray
) -> None:
    for kind, inner_low, inner_high, dense in (
        ("vertebra", 150, 300, 600),
        ("hip", 110, 300, 700),
        ("femur", 200, 350, 700),
        ("rib", -20, 250, 550),
    ):
        hu = volume.hu_zyx[of(phantom, labels_zyx, kind)]
        assert inner_low <= np.percentile(hu, 10) <= inner_high, kind
        assert dense <= np.percentile(hu, 95) <= 1250, kind
    assert np.percentile(volume.hu_zyx[labels_zyx == 0], 99) < 150


def test_the_bones_are_those_of_a_torso_from_feet_to_head(
    phantom: Phantom, labels_zyx: np.ndarray
) -> None:
    names = json.loads(phantom.names.read_text())
    assert set(np.unique(labels_zyx)) - {0} == {int(value) for value in names}
    assert len(names) >= 30

    def middle(kind: str) -> np.ndarray:
        return np.argwhere(of(phantom, labels_zyx, kind)).mean(axis=0)

    spine = [middle(f"vertebra {name}")[0] for name in ("L5", "L3", "L1", "T11", "T9")]
    assert spine == sorted(spine)
    assert middle("femur")[0] < middle("sacrum")[0] < spine[0] < middle("rib left 9")[0]
    for left, right in (("hip left", "hip right"), ("rib left 10", "rib right 10")):
        assert middle(left)[2] > 128 > middle(right)[2]  # columns run to the patient's left
    assert middle("sternum")[1] < 128 < middle("sacrum")[1]  # rows run to the back


def test_bones_are_solid_and_few(phantom: Phantom, labels_zyx: np.ndarray) -> None:
    for kind in ("hip left", "femur right", "sacrum", "vertebra L3", "rib left 9"):
        pieces = cc3d.connected_components(of(phantom, labels_zyx, kind), connectivity=26)
        sizes = np.sort(np.bincount(pieces.ravel())[1:])[::-1]
        assert sizes[0] > 0.97 * sizes.sum(), kind


@pytest.mark.parametrize("shape", [(3, 32, 40), (12, 96, 64), (100, 24, 24)])
def test_any_size_shows_bones(shape: tuple[int, int, int]) -> None:
    spacing_mm = default_spacing_mm(*shape)
    hu_zyx, labels_zyx, names = render_phantom(1, shape, spacing_mm)
    assert hu_zyx.shape == labels_zyx.shape == shape
    assert hu_zyx.dtype == np.int16
    assert labels_zyx.dtype == np.uint8
    assert names
    assert spacing_mm[0] <= 5


def test_a_spacing_that_is_asked_for_stands_in_the_images(tmp_path: Path) -> None:
    phantom = write_phantom(
        tmp_path, slices=4, rows=32, columns=40, spacing_mm=(2.5, 8.0, 7.123456789)
    )
    geometry = read_volume(phantom.paths).geometry
    np.testing.assert_allclose(geometry.spacing_zyx_mm, (2.5, 8.0, 7.123457), atol=1e-6)
