"""``builtin:bone`` on phantoms whose bones are known, and on real CT with reference bones."""

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from osteon.pipeline.bones.enclosure import framed, leakage, wall_hits
from osteon.pipeline.bones.evidence import METAL, OUTSIDE, EvidenceParameters, level, slice_evidence
from osteon.pipeline.bones.filters import box_maximum, box_minimum, gaussian, shrunk
from osteon.pipeline.bones.lumen import LumenParameters, lumens
from osteon.pipeline.bones.tissue import Tissue, measure_tissue
from osteon.pipeline.boneseg import combine
from osteon.pipeline.models.model import load_model
from osteon.pipeline.prediction import predict, predict_slices
from osteon.pipeline.volume import Geometry, Volume, read_volume

SHAPE = (60, 150, 150)
SPACING_MM = (2.0, 1.5, 1.5)


class Phantom:
    """A trunk with a spine of two vertebrae, an aorta against it, a femur, metal and a table."""

    def __init__(self, aorta_hu: float = 50.0, seed: int = 0) -> None:
        z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
        self.z, self.y, self.x = z * SPACING_MM[0], y * SPACING_MM[1], x * SPACING_MM[2]
        hu = np.full(SHAPE, -1000.0)
        hu[self.tube(112, 100, 90)] = -90.0
        hu[self.tube(112, 100, 82)] = 50.0
        self.table = (np.abs(self.y - 206) < 2) & (self.x > 20) & (self.x < 200) & (self.z > -1)
        hu[self.table] = 400.0
        self.marrow = np.zeros(SHAPE, bool)
        self.bone = np.zeros(SHAPE, bool)
        for bottom in (12, 62):
            self._vertebra(hu, bottom)
        self.aorta = self.tube(112, 88, 10)
        hu[self.aorta] = aorta_hu
        self._femur(hu)
        self.clip = (
            (np.abs(self.z - 60) < 10) & (np.abs(self.y - 60) < 4) & (np.abs(self.x - 160) < 4)
        )
        self.nail = self.tube(60, 100, 2.5) & (self.z > 70)
        hu[self.clip | self.nail] = 3071.0
        noise = np.random.default_rng(seed).normal(0, 12, SHAPE)
        self.hu = (gaussian(hu.astype(np.float32), (0.3, 0.5, 0.5)) + noise).astype(np.int16)

    def tube(self, x: float, y: float, radius: float) -> NDArray[np.bool_]:
        inside = (self.x - x) ** 2 + (self.y - y) ** 2 < radius**2
        return np.asarray(inside & (self.z > -1))

    def _vertebra(self, hu: NDArray[np.float64], bottom: float) -> None:
        height = (self.z >= bottom) & (self.z < bottom + 34)
        inner = (self.z >= bottom + 3) & (self.z < bottom + 31)
        body, canal = self.tube(112, 115, 17), self.tube(112, 141, 9)
        arch = self.tube(112, 141, 13) & ~canal & (np.abs(self.z - bottom - 17) < 9)
        cortex = (body & height) | arch
        hu[cortex] = 600.0
        marrow = self.tube(112, 115, 14.5) & inner
        hu[marrow] = 130.0
        self.marrow |= marrow
        self.bone |= cortex | marrow
        self.canal = canal

    def _femur(self, hu: NDArray[np.float64]) -> None:
        hu[self.tube(60, 100, 14)] = 1100.0
        fat = self.tube(60, 100, 8)
        hu[fat] = -70.0
        self.marrow |= fat
        self.bone |= self.tube(60, 100, 14)

    def volume(self) -> Volume:
        affine = np.diag([*SPACING_MM[::-1], 1.0])
        return Volume(self.hu, Geometry(affine, SHAPE, SPACING_MM, "1.2.3"), ())


def bones(volume: Volume) -> NDArray[np.bool_]:
    model = load_model("builtin:bone")
    labels, _ = combine(model, predict(model, volume), volume)
    return labels > 0


def dice(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    return float(2 * (found & true).sum() / (found.sum() + true.sum()))


@pytest.fixture(scope="module")
def plain() -> tuple[Phantom, NDArray[np.bool_]]:
    phantom = Phantom()
    return phantom, bones(phantom.volume())


def test_the_phantoms_bones_are_found(plain: tuple[Phantom, NDArray[np.bool_]]) -> None:
    phantom, found = plain
    assert dice(found, phantom.bone) > 0.93


def test_marrow_is_closed(plain: tuple[Phantom, NDArray[np.bool_]]) -> None:
    phantom, found = plain
    assert found[phantom.marrow].mean() > 0.98


def test_the_spinal_canal_stays_open(plain: tuple[Phantom, NDArray[np.bool_]]) -> None:
    phantom, found = plain
    assert found[phantom.canal].mean() < 0.1


def test_a_table_is_no_bone(plain: tuple[Phantom, NDArray[np.bool_]]) -> None:
    phantom, found = plain
    assert not found[phantom.table].any()


def test_metal_in_a_bone_is_bone_and_other_metal_with_its_blooming_is_not(
    plain: tuple[Phantom, NDArray[np.bool_]],
) -> None:
    phantom, found = plain
    assert found[phantom.nail].all()
    assert not found[box_maximum(phantom.clip, (2, 4, 4))].any()


def test_haze_of_metal_is_no_bone() -> None:
    phantom = Phantom()
    haze = phantom.tube(60, 69.5, 4.5) & (phantom.z > 74)
    grain = np.random.default_rng(2).normal(150, 40, SHAPE)
    phantom.hu[haze] += grain[haze].astype(np.int16)
    found = bones(phantom.volume())
    assert found[haze].mean() < 0.1


def test_a_cortex_in_parts_as_faint_as_muscle_holds_fatty_marrow_in_fat() -> None:
    phantom = Phantom()
    inside = (phantom.z > 30) & (phantom.z < 90)
    bone = phantom.tube(165, 110, 15) & inside
    marrow = phantom.tube(165, 110, 12) & inside & (phantom.z > 33) & (phantom.z < 87)
    faint = bone & (phantom.x > 165) & (phantom.z // 2 % 6 == 0)
    hu = phantom.hu.astype(np.float32)
    hu[phantom.tube(165, 110, 24)] = -95.0
    hu[bone], hu[faint], hu[marrow] = 300.0, 95.0, -30.0
    hu += np.random.default_rng(1).normal(0, 8, hu.shape)
    phantom.hu = hu.astype(np.int16)
    assert bones(phantom.volume())[marrow].mean() > 0.95


@pytest.mark.parametrize("aorta_hu", [180.0, 300.0, 450.0])
def test_an_aorta_full_of_contrast_against_the_spine_stays_out(aorta_hu: float) -> None:
    phantom = Phantom(aorta_hu)
    found = bones(phantom.volume())
    voxel_ml = np.prod(SPACING_MM) / 1000
    assert (found & phantom.aorta & ~phantom.bone).sum() * voxel_ml < 1.5
    assert dice(found, phantom.bone) > 0.9


def test_the_same_input_gives_the_same_labels(plain: tuple[Phantom, NDArray[np.bool_]]) -> None:
    phantom, found = plain
    assert np.array_equal(bones(phantom.volume()), found)


def test_a_slice_is_predicted_without_its_neighbours() -> None:
    volume = Phantom().volume()
    model = load_model("builtin:bone")
    whole = predict(model, volume)
    affine = volume.geometry.affine
    for index in (0, 31, 59):
        alone = predict_slices(model, volume.hu_zyx[index : index + 1], affine)
        assert np.array_equal(alone[0], whole[index])


@pytest.mark.parametrize("hu", [-1000, 0, 40, 3000])
def test_a_volume_without_bone_has_no_segment(hu: int) -> None:
    shape = (5, 40, 30)
    volume = Volume(
        np.full(shape, hu, np.int16), Geometry(np.eye(4), shape, (1.0, 1.0, 1.0), "1.2"), ()
    )
    assert not bones(volume).any()


def test_float_and_integer_units_agree() -> None:
    volume = Phantom().volume()
    model = load_model("builtin:bone")
    real = predict_slices(model, volume.hu_zyx[:3].astype(np.float32), volume.geometry.affine)
    assert np.array_equal(real, predict(model, volume)[:3])


def test_evidence_tells_air_table_density_and_metal() -> None:
    hu = np.full((120, 120), -1000, np.int16)
    hu[20:80, 20:100] = 40
    hu[40:50, 40:50] = 3071
    hu[60:70, 60:70] = 500
    hu[110:113, 5:115] = 300
    evidence = slice_evidence(hu, (1.0, 1.0), EvidenceParameters())
    assert (evidence[5, 5], evidence[111, 60]) == (OUTSIDE, OUTSIDE)
    assert evidence[45, 45] == METAL
    assert evidence[30, 80] == pytest.approx(level(40), abs=1)
    assert evidence[65, 65] == pytest.approx(level(500), abs=1)


def test_tissue_is_measured() -> None:
    levels = level(60.0) + np.random.default_rng(0).normal(0, 20.0 / 5.0, (4, 60, 60))
    tissue = measure_tissue(np.rint(levels).astype(np.uint8), 1.0)
    assert tissue.soft_hu == pytest.approx(60, abs=10)
    assert tissue.noise_hu == pytest.approx(20, rel=0.1)


def test_noise_that_neighbours_share_is_measured_as_what_it_is() -> None:
    rng = np.random.default_rng(4)
    smooth = gaussian(rng.standard_normal((6, 120, 120)).astype(np.float32), (0.0, 1.2, 1.2))
    noise_hu = 30.0 * smooth / smooth.std()
    tissue = measure_tissue(np.rint(level(60.0) + noise_hu / 5.0).astype(np.uint8), 1.2)
    assert 18.0 < tissue.noise_hu < 30.0
    assert tissue.grain_hu < 0.7 * tissue.noise_hu


def test_coarse_noise_in_a_dense_organ_is_no_bone() -> None:
    phantom = Phantom()
    rng = np.random.default_rng(5)
    smooth = gaussian(rng.standard_normal(SHAPE).astype(np.float32), (0.0, 1.1, 1.1))
    organ = phantom.tube(165, 100, 22)
    phantom.hu[organ] += 40
    phantom.hu += np.rint(45.0 * smooth / smooth.std()).astype(np.int16)
    found = bones(phantom.volume())
    assert found[organ & ~box_maximum(phantom.clip, (3, 6, 6))].mean() < 0.15


def test_what_is_less_even_than_the_grain_is_no_lumen() -> None:
    uneven = level(220.0) + np.random.default_rng(6).integers(-9, 10, (24, 40, 40))
    density = np.full((24, 40, 40), round(level(50.0)), np.uint8)
    block = (slice(6, 18), slice(10, 30), slice(10, 30))
    density[block] = uneven[block].astype(np.uint8)
    for grain_hu, found in ((5.0, False), (20.0, True)):
        tissue = Tissue(50.0, 20.0, grain_hu)
        spaces = lumens(density, (1.5, 1.5, 1.5), tissue, LumenParameters())
        assert spaces[block].any() == found


def test_rays_meet_walls_as_counted_by_hand() -> None:
    wall = np.random.default_rng(3).random((5, 6, 7)) < 0.08
    hits = wall_hits(wall, (2.0, 1.0, 1.0), 3.0)
    last = np.array(wall.shape) - 1
    for voxel in np.ndindex(wall.shape):
        count = 0
        for direction in itertools.product((-1, 0, 1), repeat=3):
            if any(direction):
                step_mm = np.linalg.norm(np.multiply(direction, (2.0, 1.0, 1.0)))
                steps = max(1, int(3.0 / step_mm))
                path = [np.add(voxel, np.multiply(direction, k + 1)) for k in range(steps)]
                count += any(wall[tuple(np.clip(place, 0, last))] for place in path)
        assert hits[voxel] == count


def test_the_outside_leaks_through_wide_openings_only() -> None:
    wall = np.zeros((31, 31, 31), bool)
    wall[5:26, 5:26, 5:26] = True
    wall[6:25, 6:25, 6:25] = False
    inside, outside = np.zeros_like(wall), np.ones_like(wall)
    inside[6:25, 6:25, 6:25] = True
    outside[5:26, 5:26, 5:26] = False
    conductance = np.ones(wall.shape, np.float32)
    levels = []
    for width in (0, 2, 19):
        opened = inside.copy()
        opened[5, 6 : 6 + width, 6 : 6 + width] = True
        levels.append(leakage(opened, outside, conductance, (2.0, 2.0, 2.0), 30.0)[15, 15, 15])
    assert levels[0] == 0.0
    assert levels[1] < 0.2
    assert levels[2] > 0.5


def test_what_walls_surround_in_two_planes_is_framed() -> None:
    wall = np.zeros((15, 15, 15), bool)
    wall[3:12, 3:12, 3:12] = True
    wall[4:11, 4:11, 4:11] = False
    room = np.zeros_like(wall)
    room[4:11, 4:11, 4:11] = True
    assert np.array_equal(framed(wall), room)
    wall[7, 7, 3] = False
    room[7, 7, 4:11] = False  # two of the three planes through this row meet the gap
    assert np.array_equal(framed(wall), room)
    wall[[3, 11], 4:11, 4:11] = False
    assert not framed(wall).any()


def test_filters_agree_with_their_definitions() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 7, 9)).astype(np.uint8)
    wide = np.pad(image, ((1, 1), (2, 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 5, 1))
    assert np.array_equal(box_maximum(image, (1, 2, 0)), windows.max((3, 4, 5)))
    assert np.array_equal(box_minimum(image, (1, 2, 0)), windows.min((3, 4, 5)))
    blocks = np.pad(image, ((0, 0), (0, 1), (0, 0)), mode="edge").reshape(2, 2, 4, 2, 3, 3)
    assert np.allclose(shrunk(image, (2, 2, 3)), blocks.mean((1, 3, 5)))
    peak = np.zeros((41,), np.float32)
    peak[20] = 1.0
    smooth = gaussian(peak, (2.0,))
    assert smooth.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.sqrt((smooth * (np.arange(41) - 20) ** 2).sum()) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    ("series", "slices", "least"),
    [
        ("ts_pelvis_3mm", slice(None), 0.92),
        ("tptbox_vertebra", slice(None), 0.88),
        # Elsewhere this reference leaves out vertebrae that the ends of the scan cut.
        ("ts_siemens_j2k", slice(4, 14), 0.84),
    ],
)
def test_real_bones_agree_with_their_reference(
    shared_data: Path, series: str, slices: slice, least: float
) -> None:
    volume = read_volume(sorted((shared_data / series / "dicom").iterdir()))
    labels = nibabel.load(shared_data / series / "labels.nii.gz")
    reference = np.asarray(labels.dataobj).transpose(2, 1, 0) > 0
    assert dice(bones(volume)[slices], reference[slices]) >= least


def test_an_ankle_is_covered_and_its_marrow_closed(shared_data: Path) -> None:
    volume = read_volume(sorted((shared_data / "vhf_ankle_jpegll" / "dicom").iterdir()))
    found = bones(volume)
    bright = volume.hu_zyx > 200
    assert found[bright].mean() > 0.95
    assert found.sum() > 1.1 * (found & bright).sum()
