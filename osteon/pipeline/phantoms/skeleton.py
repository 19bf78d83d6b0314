"""The bones of the digital CT phantom, from the femoral heads to the sixth thoracic vertebra.

Density and curvature enter; named bones leave, as bodies of `solids.py`. `torso.py` calls it.
Coordinates are (z, y, x) in mm: superior, posterior, left. The sizes are those of a small adult.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.phantoms.solids import (
    FAR_MM,
    Array,
    Body,
    Point,
    Solid,
    Tissue,
    capsule,
    ellipsoid,
    mirrored,
    solid,
    tube,
)

# The middle of the vertebral bodies, and the vertebrae: name, z, height, half width, half depth,
# tilt (rise towards the back).
SPINE_Z_MM = (60.0, 127.0, 160.0, 193.0, 226.0, 258.0, 288.0, 316.0, 342.0, 367.0, 391.0, 440.0)
SPINE_Y_MM = (30.0, 20.0, 14.0, 12.0, 14.0, 18.0, 22.0, 26.0, 28.0, 30.0, 31.0, 32.0)
VERTEBRAE = (
    ("L5", 128.0, 24.0, 24.0, 16.5, 0.30),
    ("L4", 160.0, 25.0, 23.5, 16.5, 0.10),
    ("L3", 193.0, 25.5, 22.5, 16.0, 0.0),
    ("L2", 226.0, 25.5, 21.5, 15.5, -0.05),
    ("L1", 258.0, 25.0, 20.5, 15.0, -0.10),
    ("T12", 288.0, 24.0, 19.5, 14.5, -0.10),
    ("T11", 316.0, 22.5, 18.5, 14.5, -0.08),
    ("T10", 342.0, 21.0, 17.5, 14.5, -0.06),
    ("T9", 367.0, 20.0, 16.5, 14.0, -0.04),
    ("T8", 391.0, 19.5, 16.0, 14.0, 0.0),
    ("T7", 414.5, 19.0, 15.5, 13.5, 0.0),
    ("T6", 437.5, 18.5, 15.0, 13.5, 0.03),
)

# Ribs: thoracic level, angle from the back where the bone ends, how far it comes down.
RIBS = (
    (12, 62.0, 42.0), (11, 98.0, 70.0), (10, 128.0, 92.0), (9, 140.0, 100.0), (8, 148.0, 104.0),
    (7, 152.0, 104.0), (6, 155.0, 100.0), (5, 157.0, 96.0), (4, 158.0, 92.0),
)  # fmt: skip
RIB_TOP_MM = {5: 460.0, 4: 482.0}  # heads above the highest vertebra that is painted

SACRUM_Z_MM = (0.0, 12.0, 25.0, 40.0, 55.0, 70.0, 85.0, 98.0, 106.0, 114.0)
SACRUM_Y_MM = (54.0, 62.0, 66.0, 66.0, 63.0, 57.0, 48.0, 39.0, 33.0, 27.0)
SACRUM_HALF_WIDTH_MM = (4.0, 8.0, 15.0, 25.0, 36.0, 46.0, 54.0, 57.0, 54.0, 30.0)
SACRUM_HALF_DEPTH_MM = (3.0, 5.0, 7.0, 9.0, 11.0, 14.0, 17.0, 19.0, 19.0, 17.0)

# The wing of the ilium on the left, slice by slice: a curve from the back over a bend to the
# front, (y, x) each, and its half thickness at the back, in the middle and in front.
WING_Z_MM = (46.0, 58.0, 72.0, 88.0, 108.0, 130.0, 150.0, 164.0)
WING_BACK_YX_MM = (
    (32.0, 80.0), (44.0, 72.0), (68.0, 58.0), (74.0, 56.0), (72.0, 57.0), (66.0, 60.0),
    (50.0, 72.0), (20.0, 96.0),
)  # fmt: skip
WING_BEND_YX_MM = (
    (16.0, 84.0), (24.0, 82.0), (36.0, 76.0), (40.0, 79.0), (40.0, 88.0), (35.0, 106.0),
    (26.0, 112.0), (0.0, 112.0),
)  # fmt: skip
WING_FRONT_YX_MM = (
    (-22.0, 92.0), (-30.0, 97.0), (-38.0, 104.0), (-46.0, 112.0), (-52.0, 120.0),
    (-44.0, 122.0), (-32.0, 119.0), (-18.0, 112.0),
)  # fmt: skip
WING_HALF_MM = (
    (9.0, 10.0, 9.0), (8.0, 8.0, 7.0), (8.0, 5.0, 6.0), (9.0, 3.6, 5.5), (8.5, 3.0, 5.5),
    (7.0, 3.0, 5.0), (5.5, 3.6, 5.0), (3.5, 4.0, 3.5),
)  # fmt: skip
WING_SEGMENTS = 14
RIB_SEGMENTS = 18
Field = NDArray[np.floating]

SIDES = ("left", "right")

HEAD_OF_FEMUR_MM: Point = (40.0, -2.0, 88.0)


FORAMINA_MM = ((92.0, 40.0, 24.0), (74.0, 50.0, 22.0), (57.0, 57.0, 19.0), (42.0, 61.0, 16.0))


def build_skeleton(
    density: float, curve_mm: float, rib_center: Callable[[float, float], tuple[float, float]]
) -> Iterator[tuple[str, Body]]:
    """Yield the bones by name, in the order in which they are painted.

    Parameters
    ----------
    density : float
        Factor on the density of cancellous bone; 1 is that of a middle-aged adult.
    curve_mm : float
        Sideways bend of the spine (scoliosis).
    rib_center : callable
        From z in mm and the angle from the back in radians to the (y, x) of a rib on the left.
    """
    cancellous = Tissue(hu=215 * density, texture_hu=38, cortex_mm=1.2, cortex_hu=950)
    pelvic = Tissue(hu=180 * density, texture_hu=42, cortex_mm=1.6, cortex_hu=1050)
    femoral = Tissue(hu=270 * density, texture_hu=35, cortex_mm=1.6, cortex_hu=1100)
    rib = Tissue(hu=30, texture_hu=15, cortex_mm=1.3, cortex_hu=1000)
    sternal = Tissue(hu=110 * density, texture_hu=25, cortex_mm=1.2, cortex_hu=800)
    bones: tuple[tuple[str, tuple[Solid, ...], Tissue], ...] = (
        ("sacrum", _sacrum(), cancellous),
        *((f"hip {side}", _side(_hip(), side), pelvic) for side in SIDES),
        *((f"femur {side}", _side(_femur(), side), femoral) for side in SIDES),
        *(
            (f"rib {side} {level}", _side(_rib(level, end, drop_mm, rib_center), side), rib)
            for level, end, drop_mm in RIBS
            for side in SIDES
        ),
        ("sternum", _sternum(), sternal),
        *(
            (f"vertebra {name}", _vertebra(name, sizes, curve_mm), cancellous)
            for name, *sizes in VERTEBRAE
        ),
    )
    for label, (name, solids, tissue) in enumerate(bones, 1):
        yield name, Body(solids, tissue, label)


def foramina() -> Body:
    """Return the holes of the sacrum, filled with fat: painted after the bones, they are none."""
    holes = [ellipsoid(center, (4.5, 12.0, 4.0)) for center in FORAMINA_MM]
    return Body((*holes, *mirrored(holes)), Tissue(hu=-60, texture_hu=10), 0)


def cartilage(rib_center: Callable[[float, float], tuple[float, float]]) -> Iterator[Body]:
    """Yield the costal cartilages, from the bony ends of the true and false ribs to the sternum."""
    tissue = Tissue(hu=115, texture_hu=12)
    for level, end, drop_mm in RIBS:
        if level > 10:
            continue
        z, y, x = _rib_path(level, end, drop_mm, rib_center)[-1]
        sternal_z = max(346.0, z + 12)
        points = ((z, y, x), ((z + sternal_z) / 2 - 8, y - 8, x * 0.62), (sternal_z, -97.0, 18.0))
        solids = tube(points, (5.0, 5.0, 4.5), tall=1.3)
        yield Body((*solids, *mirrored(solids)), tissue)


def spine_y(z: float) -> float:
    """Return where the middle of the vertebral bodies is at a height, in mm."""
    return float(np.interp(z, SPINE_Z_MM, SPINE_Y_MM))


def _side(left: tuple[Solid, ...], side: str) -> tuple[Solid, ...]:
    return left if side == "left" else mirrored(left)


def _vertebra(name: str, sizes: Sequence[float], curve_mm: float) -> tuple[Solid, ...]:
    """Body, pedicles, lamina, facets, transverse and spinous processes."""
    z0, height, half_width, half_depth, tilt = sizes
    x0 = curve_mm * float(np.sin((z0 - 110) / 60))
    y0 = spine_y(z0)
    canal_y = y0 + half_depth + 8
    lumbar = name.startswith("L")

    def body(z: Array, y: Array, x: Array) -> Array:
        """Distance to a cylinder with a waist, tilted as its end plates are."""
        u, v = (x - x0) / half_width, (y - y0) / half_depth
        up = (z - z0 - tilt * (y - y0)) / (height / 2)
        waist = 0.93 + 0.07 * up * up
        # Flat behind, where the canal is.
        behind = np.maximum(v, 0) ** 4 + np.minimum(v, 0) ** 2
        across = (np.sqrt(u * u + behind) - waist) * min(half_width, half_depth)
        along = (np.abs(up) - 1) * (height / 2)
        return _rounded(across, along, 2.5)

    def lamina(z: Array, y: Array, x: Array) -> Array:
        """Distance to the half ring behind the canal."""
        u, v = (x - x0) / 14.5, (y - canal_y) / 12.5
        ring = np.abs(np.sqrt(u * u + v * v) - 1) * 13 - 3.0
        behind = canal_y - 7 - y
        along = np.abs(z - z0 + 4 + 0.3 * (y - canal_y)) - height * 0.40
        return _rounded(np.maximum(ring, behind), along, 1.5)

    reach = (height, half_depth + 60.0, half_width + 20.0)
    left = [
        capsule(
            (z0 + 4, y0 + half_depth - 4, half_width * 0.6),
            (z0 + 3, canal_y + 3, 15),
            4.5,
            4.2,
            1.4,
        ),
        capsule((z0 + 2, canal_y + 5, 16), (z0 + height * 0.75, canal_y + 6, 20), 4.2, 3.8),
        capsule((z0 - 3, canal_y + 9, 12), (z0 - height * 0.70, canal_y + 8, 11.5), 4.2, 3.8),
    ]
    if lumbar:
        end = (z0 + 5, canal_y + 3, half_width + 19)
        left.append(capsule((z0 + 4, canal_y, 16), end, 4.0, 2.8, 1.4))
        spinous = ((z0 - 3, canal_y + 12, 0.0), (z0 - 9, canal_y + 34, 0.0))
    else:
        left.append(capsule((z0 + 4, canal_y, 15), (z0 + 7, canal_y + 11, 31), 4.2, 3.8, 1.3))
        spinous = ((z0 - 3, canal_y + 12, 0.0), (z0 - 20, canal_y + 30, 0.0))
    around = (
        solid(body, (z0 - reach[0], y0 - reach[1], -60), (z0 + reach[0], y0 + reach[1], 60)),
        solid(lamina, (z0 - reach[0], y0, -30), (z0 + reach[0], canal_y + 25, 30)),
        capsule(*spinous, 3.4, 3.2, 2.6 if lumbar else 1.8),
    )
    return (*around, *left, *mirrored(left))


def _rounded(across: Field, along: Field, radius_mm: float) -> Array:
    """Return the distance to a cylinder whose rim is rounded."""
    u, v = across + np.float32(radius_mm), along + np.float32(radius_mm)
    outside = np.sqrt(np.maximum(u, 0) ** 2 + np.maximum(v, 0) ** 2)
    return np.asarray(outside + np.minimum(np.maximum(u, v), 0) - radius_mm, np.float32)


def _sacrum() -> tuple[Solid, ...]:
    """Body with its wings, median crest and the facets towards L5."""

    def body(z: Array, y: Array, x: Array) -> Array:
        """Distance to a body that narrows downwards and is hollow in front."""
        level = z.ravel()
        y0, width, depth = (
            np.interp(level, SACRUM_Z_MM, table).astype(np.float32).reshape(z.shape)
            for table in (SACRUM_Y_MM, SACRUM_HALF_WIDTH_MM, SACRUM_HALF_DEPTH_MM)
        )
        u = x / width
        v = (y - y0 - 0.008 * x * x + 3) / (depth * (1 - 0.35 * np.minimum(u * u, 1)))
        across = (np.sqrt(u**2 + v**2) - 1) * np.minimum(width, depth)
        # The promontory leans forward.
        return _rounded(across, np.abs(z - 57 - 0.25 * (y - y0)) - 58, 3.0)

    crest = tube(((95.0, 66.0, 0.0), (70.0, 78.0, 0.0), (35.0, 82.0, 0.0)), (4.0, 4.0, 3.0))
    facets = [capsule((112.0, 56.0, 17.0), (92.0, 58.0, 18.0), 4.0, 5.0)]
    return (
        solid(body, (-10.0, 0.0, -60.0), (130.0, 95.0, 60.0)),
        *crest,
        *facets,
        *mirrored(facets),
    )


def _hip() -> tuple[Solid, ...]:
    """Wing of the ilium, acetabulum, ischium and pubis of the left side."""
    head_z, head_y, head_x = HEAD_OF_FEMUR_MM

    def wing(z: Array, y: Array, x: Array) -> Array:
        """Distance to the wing of the ilium, slice by slice."""
        return np.concatenate([_wing_slice(float(level), y, x) for level in z.ravel()])

    def cup(z: Array, y: Array, x: Array) -> Array:
        """Distance to the acetabulum: a shell around the head of the femur."""
        w, v, u = z - head_z, y - head_y, x - head_x
        off = np.sqrt(u * u + v * v + w * w)
        shell = np.abs(off - 31.0) - 4.0
        # Open to the side, downwards and a little to the front.
        opening = (0.78 * u - 0.25 * v - 0.57 * w) - 0.10 * off
        return np.asarray(np.maximum(shell, opening), np.float32)

    ischium = tube(
        ((38.0, 26.0, 70.0), (10.0, 36.0, 64.0), (-14.0, 34.0, 58.0)), (11.0, 11.5, 13.0)
    )
    ramus = tube(((34.0, -22.0, 66.0), (22.0, -42.0, 38.0), (14.0, -54.0, 10.0)), (10.0, 7.5, 7.5))
    symphysis = capsule((18.0, -54.0, 8.5), (-12.0, -50.0, 9.0), 6.5, 6.0)
    lower = tube(((-8.0, -48.0, 11.0), (-22.0, -10.0, 40.0), (-16.0, 28.0, 57.0)), (6.0, 6.0, 8.0))
    return (
        solid(wing, (40.0, -65.0, 40.0), (172.0, 95.0, 140.0)),
        solid(cup, (0.0, -42.0, 48.0), (80.0, 38.0, 128.0)),
        *ischium,
        *ramus,
        symphysis,
        *lower,
    )


def _wing_slice(z: float, y: Array, x: Array) -> Array:
    """Return the distance to the wing in one slice, shape (1, rows, columns)."""
    back, bend, front, half = (
        [float(np.interp(z, WING_Z_MM, column)) for column in zip(*table, strict=True)]
        for table in (WING_BACK_YX_MM, WING_BEND_YX_MM, WING_FRONT_YX_MM, WING_HALF_MM)
    )
    t = np.linspace(0, 1, WING_SEGMENTS + 1)
    path_y, path_x = (
        (1 - t) ** 2 * back[axis] + 2 * t * (1 - t) * bend[axis] + t**2 * front[axis]
        for axis in (0, 1)
    )
    radius = np.interp(t, (0, 0.5, 1), half)
    nearest = np.full((1, y.shape[1], x.shape[2]), FAR_MM, np.float32)
    for i in range(WING_SEGMENTS):
        ay, ax = float(path_y[i + 1] - path_y[i]), float(path_x[i + 1] - path_x[i])
        v, u = y - float(path_y[i]), x - float(path_x[i])
        along = np.clip((v * ay + u * ax) / (ay * ay + ax * ax), 0, 1)
        off = np.hypot(v - along * ay, u - along * ax)
        off -= float(radius[i]) + along * float(radius[i + 1] - radius[i])
        np.minimum(nearest, off, out=nearest)
    # Rounded off at the crest.
    return nearest + np.float32(max(0.0, z - 160) ** 2 / 8)


def _femur() -> tuple[Solid, ...]:
    neck = tube(
        (HEAD_OF_FEMUR_MM, (24.0, 2.0, 112.0), (8.0, 8.0, 130.0), (-40.0, 8.0, 124.0)),
        (15.0, 14.0, 19.0, 15.0),
    )
    trochanter = capsule((8.0, 14.0, 134.0), (26.0, 20.0, 138.0), 15.0, 9.0)
    return (ellipsoid(HEAD_OF_FEMUR_MM, (23.5, 23.5, 23.5)), *neck, trochanter)


def _rib_path(
    level: int,
    end: float,
    drop_mm: float,
    rib_center: Callable[[float, float], tuple[float, float]],
) -> list[Point]:
    tops = {name: z0 + height / 2 - 3 for name, z0, height, *_ in VERTEBRAE}
    top = RIB_TOP_MM.get(level) or tops[f"T{level}"]
    y0 = spine_y(top)
    path: list[Point] = [(top, y0 + 10, 19.0), (top - 1, y0 + 24, 31.0)]
    for share in np.linspace(0, 1, RIB_SEGMENTS):
        angle = np.deg2rad(27 + share * (end - 27))
        z = top - 3 - drop_mm * float(np.sin(share * np.pi / 2))
        path.append((z, *rib_center(z, float(angle))))
    return path


def _rib(
    level: int,
    end: float,
    drop_mm: float,
    rib_center: Callable[[float, float], tuple[float, float]],
) -> tuple[Solid, ...]:
    path = _rib_path(level, end, drop_mm, rib_center)
    thin = 0.85 if level >= 11 else 1.0
    radii = [3.4 * thin, *np.linspace(3.8, 3.3, len(path) - 2) * thin, 3.0 * thin]
    return tube(path, radii, tall=1.7)


def _sternum() -> tuple[Solid, ...]:
    def plate(z: Array, y: Array, x: Array) -> Array:
        """Distance to a plate that leans back and is widest at the manubrium."""
        y0 = -99.0 + (z - 350) * 0.12
        width = np.interp(z.ravel(), (322, 345, 360, 420), (4, 9, 15, 19)).reshape(z.shape)
        across = (np.sqrt((x / width) ** 2 + ((y - y0) / 6.5) ** 2) - 1) * np.float32(6.5)
        return _rounded(across, np.abs(z - 400) - 76, 3.0)

    return (solid(plate, (318.0, -115.0, -25.0), (480.0, -75.0, 25.0)),)
