"""The anatomy of the digital CT phantom: a torso from the hips to the middle of the chest.

A seed enters, a `Torso` leaves, and paints itself slab by slab; `phantom.py` calls it. Outlines of
the body are polar, organs are solids, bones come from `skeleton.py`. Coordinates are (z, y, x) in
mm: superior, posterior, left; z is 0 below the femoral heads. The seed varies the patient.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.phantoms.skeleton import build_skeleton, cartilage, foramina
from osteon.pipeline.phantoms.solids import (
    Array,
    Body,
    Slab,
    Solid,
    Tissue,
    coverage,
    paint,
    solid,
)
from osteon.pipeline.phantoms.viscera import MUSCLE, chest, muscles, organs

HEIGHT_MM = 400.0
CENTER_Y_MM = -12.0  # of the polar outlines

AIR_HU = -1000.0
SKIN, FAT = Tissue(20.0, 5.0), Tissue(-102.0, 6.0)
MESENTERY, LUNG = Tissue(-96.0, 12.0), Tissue(-855.0, 18.0)
SKIN_MM = 1.8

# Outlines as radius in mm over the angle from the back in degrees, at three heights.
LEVELS_Z_MM = (60.0, 200.0, 330.0)
SKIN_OUTLINE = (
    ((0, 99), (15, 108), (30, 122), (45, 140), (60, 157), (75, 167), (90, 168), (105, 160),
     (120, 144), (140, 122), (160, 108), (180, 103)),
    ((0, 104), (20, 111), (40, 128), (60, 143), (80, 148), (90, 147), (110, 141), (130, 128),
     (150, 114), (180, 106)),
    ((0, 103), (20, 111), (40, 130), (60, 148), (80, 158), (90, 158), (110, 150), (130, 133),
     (150, 116), (180, 106)),
)  # fmt: skip
FAT_MM = (
    ((0, 12), (30, 22), (60, 24), (90, 20), (130, 16), (180, 24)),
    ((0, 9), (30, 13), (60, 20), (90, 18), (130, 17), (180, 20)),
    ((0, 7), (30, 8), (60, 11), (90, 12), (130, 11), (180, 10)),
)
CAVITY_OUTLINE = (
    ((0, 48), (20, 54), (40, 62), (60, 68), (90, 74), (120, 82), (150, 78), (180, 70)),
    ((0, 10), (12, 22), (25, 50), (38, 86), (50, 103), (65, 110), (90, 113), (120, 104),
     (150, 86), (180, 77)),
    ((0, 12), (10, 22), (20, 58), (28, 88), (38, 101), (50, 111), (65, 122), (90, 132),
     (120, 121), (150, 97), (180, 82)),
)  # fmt: skip
RIB_OUTSIDE_CAVITY_MM = 4.5

# Tops of the domes of the diaphragm.
DOMES_MM = ((342.0, -15.0, -66.0), (330.0, -10.0, 66.0))


@dataclass(frozen=True, eq=False)
class Torso:
    """One phantom's anatomy.

    Attributes
    ----------
    organs : tuple of Body
        Painted first, and cut at the wall of the body's cavity.
    chest : tuple of Body
        Heart and vessels, painted over the lungs.
    muscles : tuple of Body
        Painted over the wall of the body, under its fat.
    bones : tuple of Body
        Painted last, with what lies in them.
    names : dict of int to str
        The bones of the label map.
    fat : float
        How thick the fat is; 1 on average.
    """

    organs: tuple[Body, ...]
    chest: tuple[Body, ...]
    muscles: tuple[Body, ...]
    bones: tuple[Body, ...]
    names: dict[int, str]
    fat: float


@dataclass(frozen=True, eq=False)
class Outlines:
    """Polar outlines at the pixels of a slice.

    Attributes
    ----------
    radius_yx : ndarray of float32, shape (rows, columns)
        Distance from the middle of the body.
    skin, fat, cavity : ndarray of float32, shape (levels, rows, columns)
        Radius of the skin, of the muscles under the fat, and of the cavity, in the direction of
        each pixel at each of `LEVELS_Z_MM`.
    """

    radius_yx: Array
    skin: Array
    fat: Array
    cavity: Array


def build_torso(seed: int) -> Torso:
    """Lay out the organs and bones of one phantom.

    Parameters
    ----------
    seed : int
        Varies fat, bone density, the curve of the spine, bowel and vessels.
    """
    rng = np.random.default_rng([seed, 1])
    density, fat = float(rng.uniform(0.85, 1.15)), float(rng.uniform(0.85, 1.15))
    curve_mm = float(rng.uniform(-4, 4))
    named = tuple(build_skeleton(density, curve_mm, _rib_center))
    return Torso(
        organs=tuple(organs(rng)),
        chest=tuple(chest(rng)),
        muscles=tuple(muscles()),
        bones=(*cartilage(_rib_center), *(body for _, body in named), foramina()),
        names={body.label: name for name, body in named if body.label},
        fat=fat,
    )


def outline_pixels(y_mm: Array, x_mm: Array, fat: float) -> Outlines:
    """Look up the polar outlines for the pixels of a slice.

    Parameters
    ----------
    y_mm, x_mm : ndarray, shape (rows,) and (columns,)
        Coordinates of rows and columns.
    fat : float
        How thick the fat is; 1 on average.
    """
    y, x = y_mm[:, None] - np.float32(CENTER_Y_MM), x_mm[None, :]
    degrees = np.rad2deg(np.arctan2(np.abs(x), y)).astype(np.float32)
    skin, depth, cavity = (
        np.stack([_radius(table, degrees) for table in tables])
        for tables in (SKIN_OUTLINE, FAT_MM, CAVITY_OUTLINE)
    )
    return Outlines(np.hypot(y, x).astype(np.float32), skin, skin - depth * fat, cavity)


def paint_torso(slab: Slab, torso: Torso, outlines: Outlines) -> None:
    """Paint one slab of the phantom: table, soft tissue, organs, lungs, bones.

    Parameters
    ----------
    slab : Slab
        Painted in place, whatever it held.
    torso : Torso
        What to paint.
    outlines : Outlines
        Of the slab's rows and columns.
    """
    slab.hu_zyx[:] = MESENTERY.hu + MESENTERY.texture_hu * slab.texture_zyx
    for organ in torso.organs:
        paint(slab, organ)
    inside_mm = outlines.radius_yx - _at_heights(outlines.cavity, slab.z)
    _cover(slab, _lung_distance(slab, inside_mm), LUNG)
    for body in torso.chest:
        paint(slab, body)
    _cover(slab, -inside_mm, MUSCLE)
    for muscle in torso.muscles:
        paint(slab, muscle)
    _cover(slab, _at_heights(outlines.fat, slab.z) - outlines.radius_yx, FAT)
    outside_mm = _at_heights(outlines.skin, slab.z) - outlines.radius_yx
    _cover(slab, outside_mm - np.float32(SKIN_MM), SKIN)
    _cover(slab, outside_mm, Tissue(AIR_HU, 0.0))
    for body in (*_table(), *torso.bones):
        paint(slab, body)


def _cover(slab: Slab, distance: Array, tissue: Tissue) -> None:
    hu = tissue.hu + tissue.texture_hu * slab.texture_zyx
    slab.hu_zyx[:] += coverage(distance, slab.blur_mm) * (hu - slab.hu_zyx)


def _radius(table: tuple[tuple[int, int], ...], degrees: Array) -> Array:
    """Interpolate a polar outline, without corners."""
    fine = np.arange(-180, 361)
    angles, radii = np.array(table, np.float64).T
    radius = np.interp(180 - np.abs(180 - np.abs(fine)), angles, radii)
    smooth = np.convolve(radius, np.hanning(23) / np.hanning(23).sum(), "same")
    return np.interp(degrees, fine, smooth).astype(np.float32)


def _weights(z: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Return the share of each level at heights z, without corners."""
    shares = []
    for level in range(len(LEVELS_Z_MM)):
        share = np.interp(z, LEVELS_Z_MM, np.eye(len(LEVELS_Z_MM))[level])
        shares.append(share * share * (3 - 2 * share))
    total = np.sum(shares, axis=0)
    return [share / total for share in shares]


def _at_heights(levels: Array, z: Array) -> Array:
    """Return an outline at heights z, shape (slices, rows, columns)."""
    shares = [share.astype(np.float32)[:, None, None] for share in _weights(z)]
    return np.asarray(sum(share * level for share, level in zip(shares, levels, strict=True)))


def _rib_center(z: float, angle: float) -> tuple[float, float]:
    """Return the (y, x) of a rib on the left, at a height and an angle from the back."""
    degrees = np.array([np.rad2deg(angle)], np.float32)
    radius = sum(
        float(share) * float(_radius(table, degrees)[0])
        for share, table in zip(_weights(np.array(z)), CAVITY_OUTLINE, strict=True)
    )
    radius += RIB_OUTSIDE_CAVITY_MM
    return CENTER_Y_MM + radius * float(np.cos(angle)), radius * float(np.sin(angle))


def _lung_distance(slab: Slab, inside_mm: Array) -> Array:
    """Return the distance to the lungs: in the cavity, above the domes, beside the middle."""
    z, y, x = np.ix_(slab.z, slab.y, slab.x)
    domes = []
    for top, dome_y, dome_x in DOMES_MM:
        u, v = (x - dome_x) * np.sign(dome_x), y - dome_y
        # Steep to the side and back, down into the costophrenic angle.
        fall = np.where(u > 0, 0.021, 0.007) * u * u + np.where(v > 0, 0.011, 0.004) * v * v
        domes.append(np.float32(top) - fall)
    diaphragm = (np.where(x < 0, *domes) - z) * np.float32(0.6)
    # The mediastinum: wide at the spine, narrow behind the sternum.
    half_width = np.interp(slab.y, (-95, -70, -40, 10, 45, 60), (5, 9, 24, 22, 20, 24))
    beside = half_width.astype(np.float32)[None, :, None] - np.abs(x)
    return np.asarray(np.maximum(np.maximum(inside_mm + 2, beside), diaphragm), np.float32)


def _table() -> tuple[Body, ...]:
    """Return the couch: a pad, a foam core and its thin shell."""

    def arc(y_mm: float, radius_mm: float, outwards: int) -> Solid:
        """Return all that lies outside (-1) or inside (1) a cylinder along z, lowest at y."""

        def distance(z: Array, y: Array, x: Array) -> Array:
            """Distance to the cylinder, from the side that is meant."""
            off = np.hypot(y - (y_mm - radius_mm), x) - radius_mm
            return np.asarray((outwards * off + 0 * z), np.float32)

        return solid(distance, (-1e4, -1e3, -1e3), (1e4, 1e3, 1e3))

    def between(y_mm: float, radius_mm: float, below: tuple[float, float]) -> Solid:
        """Return what lies between two such cylinders, as wide as the couch."""
        upper, lower = arc(y_mm, radius_mm, -1), arc(*below, 1)
        return solid(
            lambda z, y, x: np.maximum(
                np.maximum(upper.distance_mm(z, y, x), lower.distance_mm(z, y, x)),
                np.abs(x) - 205,
            ),
            (-1e4, 30.0, -210.0),
            (1e4, 170.0, 210.0),
        )

    pad = between(93.0, 400.0, (101.0, 420.0))
    couch = between(101.0, 420.0, (140.0, 300.0))
    return (
        Body((pad,), Tissue(-880.0, 4.0)),
        Body((couch,), Tissue(-930.0, 4.0, cortex_mm=1.6, cortex_hu=120.0)),
    )
