"""The soft parts of the digital CT phantom: organs, bowel, vessels and muscles.

A random generator enters; bodies of `solids.py` leave. `torso.py` calls it. Coordinates are
(z, y, x) in mm: superior, posterior, left.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from osteon.pipeline.phantoms.skeleton import spine_y
from osteon.pipeline.phantoms.solids import (
    Body,
    Point,
    Solid,
    Tissue,
    capsule,
    ellipsoid,
    mirrored,
    tube,
)

MUSCLE, BLOOD, GAS = Tissue(54.0, 7.0), Tissue(44.0, 3.0), Tissue(-960.0, 12.0)

# One path of the colon from the caecum to the rectum, and its radius there.
COLON_MM: tuple[Point, ...] = (
    (110, -12, -88), (140, 5, -94), (190, 8, -96), (236, -10, -90), (222, -62, -60), (212, -78, 0),
    (228, -66, 58), (258, 0, 92), (210, 18, 99), (150, 14, 97), (100, -8, 78), (92, 8, 40),
    (85, 18, 18),
)  # fmt: skip
COLON_RADIUS_MM = (20, 22, 20, 17, 17, 16, 15, 14, 13, 12, 12, 13, 12)

LUNG_VESSELS, VESSEL_PIECES, VESSEL_TAPER = 64, 12, 0.88


def organs(rng: np.random.Generator) -> Iterator[Body]:
    """Yield bowel, organs and great vessels of abdomen and pelvis, in the order of painting."""
    yield from _bowel(rng)
    bladder = ellipsoid((24, -24, 0), (24, 26, 34))
    yield Body((bladder,), Tissue(8.0, 3.0))
    yield Body(tube(((5, 34, 0), (45, 34, 4), (85, 18, 18)), (15, 14, 12)), Tissue(25.0, 40.0))
    liver = (
        ellipsoid((282, -8, -72), (62, 84, 66)),
        ellipsoid((300, -48, -10), (34, 36, 52)),
    )
    yield Body(liver, Tissue(60.0, 5.0))
    gallbladder = ellipsoid((250, -42, -42), (20, 17, 14))
    yield Body((gallbladder,), Tissue(12.0, 3.0))
    spleen = ellipsoid((288, 38, 88), (42, 44, 28))
    yield Body((spleen,), Tissue(52.0, 4.0))
    yield Body((ellipsoid((285, -30, 52), (44, 40, 36)),), Tissue(35.0, 12.0))  # stomach
    yield Body((ellipsoid((287, -50, 52), (30, 14, 28)),), GAS)
    for z, x in ((214, 60), (204, -60)):  # kidneys and the fat of their sinus
        yield Body((ellipsoid((z, 38, x), (50, 25, 28)),), Tissue(34.0, 4.0))
        yield Body((ellipsoid((z, 32, x * 0.8), (24, 9, 14)),), Tissue(-60.0, 15.0))
    yield Body(_great_vessels(), BLOOD)


def chest(rng: np.random.Generator) -> Iterator[Body]:
    """Yield what is painted over the lungs: their vessels, and the heart in its fat."""
    for side in (-1, 1):
        for _ in range(LUNG_VESSELS):
            start = np.array([rng.uniform(385, 440), rng.uniform(-20, 25), side * 28.0])
            to = np.array([rng.uniform(-2.2, 0.4), rng.normal(0, 0.8), side * rng.uniform(0.3, 1)])
            radius_mm = float(rng.uniform(1.8, 3.6))
            for _ in range(VESSEL_PIECES):
                to /= np.linalg.norm(to)
                end = start + 14 * to
                piece = capsule(_point(start), _point(end), radius_mm, radius_mm * VESSEL_TAPER)
                # A body for each piece keeps the boxes that are painted small.
                yield Body((piece,), BLOOD)
                start, radius_mm = end, radius_mm * VESSEL_TAPER
                to += rng.normal(0, 0.28, 3)
    heart = (
        ellipsoid((378, -42, 26), (46, 44, 54)),
        ellipsoid((402, -28, -14), (46, 44, 40)),
    )
    yield Body(heart, Tissue(42.0, 4.0, cortex_mm=2.0, cortex_hu=-60.0))


def muscles() -> Iterator[Body]:
    """Yield muscles that a plane of fat sets off from their neighbours."""
    muscle = Tissue(MUSCLE.hu, MUSCLE.texture_hu, cortex_mm=1.6, cortex_hu=-70.0)
    psoas = tube(
        ((285, 28, 24), (230, 24, 33), (180, 20, 44), (130, 12, 56), (70, -28, 66), (20, -10, 100)),
        (6, 13, 19, 21, 17, 11),
    )
    erector = tube(
        ((96, 72, 22), (150, 62, 32), (200, 58, 36), (270, 64, 34), (350, 68, 26), (440, 68, 24)),
        (10, 19, 24, 21, 14, 13),
    )
    gluteus_maximus = tube(
        ((120, 62, 92), (80, 62, 82), (40, 52, 88), (-20, 44, 104)), (12, 25, 30, 24)
    )
    gluteus_medius = tube(
        ((150, 2, 126), (110, 4, 130), (70, 2, 130), (40, 0, 138)), (8, 17, 20, 12)
    )
    thigh = tube(((60, -50, 112), (20, -52, 108), (-30, -52, 106)), (13, 20, 26))
    adductors = tube(((18, -30, 48), (-30, -14, 52)), (11, 24))
    for left in (psoas, erector, gluteus_maximus, gluteus_medius, thigh, adductors):
        yield Body(left, muscle)
        yield Body(mirrored(left), muscle)


def _great_vessels() -> tuple[Solid, ...]:
    aorta = [
        (z, spine_y(z) - 27, 9.0 + 0.03 * (z - 160))
        for z in (162.0, 200.0, 240.0, 280.0, 320.0, 360.0, 440.0)
    ]
    cava = [(z, spine_y(z) - 27, -20.0) for z in (158.0, 200.0, 260.0, 345.0)]
    left_iliac = tube(((162, -12, 8), (118, -8, 32), (70, -42, 58), (0, -62, 76)), (7.5, 7, 6.5, 6))
    return (
        *tube(aorta, (9.5, 9.5, 9.5, 10.0, 11.0, 11.5, 12.0)),
        *tube(cava, (11.0, 11.0, 11.0, 12.0)),
        *left_iliac,
        *mirrored(left_iliac),
    )


def _bowel(rng: np.random.Generator) -> Iterator[Body]:
    """Yield loops of small bowel, then the colon with stool and gas."""
    for _ in range(90):
        z = float(rng.uniform(58, 262))
        x = float(rng.uniform(-1, 1)) * min(78.0, 20 + z / 2)
        radii = rng.uniform((9, 9, 10), (17, 14, 24))
        loop = ellipsoid((z, float(rng.uniform(-78, -8)), x), _point(radii))
        yield Body((loop,), Tissue(float(rng.uniform(15, 45)), 8.0))
    yield Body(tube(COLON_MM, COLON_RADIUS_MM), Tissue(10.0, 55.0))
    for index in rng.choice(len(COLON_MM) - 2, 6, replace=False):
        (z, y, x), radius_mm = COLON_MM[index], COLON_RADIUS_MM[index]
        bubble = ellipsoid((z, y - radius_mm * 0.45, x), (13.0, radius_mm * 0.45, 11.0))
        yield Body((bubble,), GAS)


def _point(coordinates: NDArray[np.float64]) -> Point:
    z, y, x = coordinates
    return float(z), float(y), float(x)
