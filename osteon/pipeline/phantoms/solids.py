"""Solids in patient space, painted onto a grid with partial volume.

Centres, radii and paths in mm enter; Hounsfield units and labels on a slab of voxels leave.
`torso.py` builds its anatomy of them. A solid knows its bounds, so that a slab pays only for the
voxels near it. Coordinates are (z, y, x): superior, posterior, left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]
Distance = Callable[[Array, Array, Array], Array]

FAR_MM = 1000.0


@dataclass(frozen=True)
class Solid:
    """A body with a signed distance to its surface.

    Attributes
    ----------
    lower_mm, upper_mm : tuple of float
        Corners (z, y, x) of a box that holds the solid and the blur of its edge.
    distance_mm : callable
        From open grids of z, y and x to the distance to the surface, negative inside.
    """

    lower_mm: Point
    upper_mm: Point
    distance_mm: Distance


@dataclass(frozen=True)
class Tissue:
    """What fills a body.

    Attributes
    ----------
    hu : float
        Hounsfield units of the inside.
    texture_hu : float
        Standard deviation of the texture inside.
    cortex_mm : float
        Thickness of the shell of cortical bone; 0 for none.
    cortex_hu : float
        Hounsfield units of the shell.
    """

    hu: float
    texture_hu: float = 3.0
    cortex_mm: float = 0.0
    cortex_hu: float = 0.0


@dataclass(frozen=True)
class Body:
    """The union of solids, filled with one tissue.

    Attributes
    ----------
    solids : tuple of Solid
        What it is made of.
    tissue : Tissue
        What fills it.
    label : int or None
        Its value in the label map; None leaves the map as it is.
    """

    solids: tuple[Solid, ...]
    tissue: Tissue
    label: int | None = None


@dataclass(frozen=True)
class Slab:
    """Some slices of the volume while they are painted.

    Attributes
    ----------
    z, y, x : ndarray of float32
        Ascending coordinates of slices, rows and columns, in mm.
    blur_mm : float
        Width over which an edge goes from one tissue to the other.
    texture_zyx : ndarray of float32
        Texture of unit variance, shape of the slab.
    hu_zyx : ndarray of float32
        Painted in place.
    labels_zyx : ndarray of uint8
        Painted in place.
    """

    z: Array
    y: Array
    x: Array
    blur_mm: float
    texture_zyx: Array
    hu_zyx: Array
    labels_zyx: NDArray[np.uint8]


def paint(slab: Slab, body: Body) -> None:
    """Paint a body over what the slab holds, its edges mixed with it.

    Parameters
    ----------
    slab : Slab
        Changed in place.
    body : Body
        Outside the slab nothing happens.
    """
    lower = np.min([solid.lower_mm for solid in body.solids], axis=0)
    upper = np.max([solid.upper_mm for solid in body.solids], axis=0)
    box = _box(slab, lower, upper)
    if box is None:
        return
    distance = np.full(slab.hu_zyx[box].shape, FAR_MM, np.float32)
    for solid in body.solids:
        part = _box(slab, solid.lower_mm, solid.upper_mm)
        if part is not None:
            within = tuple(
                slice(one.start - all_.start, one.stop - all_.start)
                for one, all_ in zip(part, box, strict=True)
            )
            z, y, x = np.ix_(slab.z[part[0]], slab.y[part[1]], slab.x[part[2]])
            np.minimum(distance[within], solid.distance_mm(z, y, x), out=distance[within])
    hu = slab.hu_zyx[box]
    tissue = body.tissue
    if tissue.cortex_mm:
        hu += coverage(distance, slab.blur_mm) * (tissue.cortex_hu - hu)
    inside = tissue.hu + tissue.texture_hu * slab.texture_zyx[box]
    hu += coverage(distance + np.float32(tissue.cortex_mm), slab.blur_mm) * (inside - hu)
    if body.label is not None:
        slab.labels_zyx[box][distance < 0] = body.label


def ellipsoid(center: Point, radii: Point) -> Solid:
    """Return an ellipsoid with its axes along z, y and x (distance to first order)."""
    (cz, cy, cx), (rz, ry, rx) = center, radii

    def distance(z: Array, y: Array, x: Array) -> Array:
        """Distance to the surface, to first order."""
        u, v, w = (z - cz) / rz, (y - cy) / ry, (x - cx) / rx
        scaled = np.sqrt(u * u + v * v + w * w)
        gradient = np.sqrt((u / rz) ** 2 + (v / ry) ** 2 + (w / rx) ** 2)
        return np.asarray(scaled * (scaled - 1) / np.maximum(gradient, 1e-6), np.float32)

    return _solid(distance, [center], radii)


def capsule(start: Point, end: Point, start_mm: float, end_mm: float, tall: float = 1.0) -> Solid:
    """Return a rod from start to end whose radius runs from one value to the other.

    Parameters
    ----------
    start, end : tuple of float
        Ends of the axis (z, y, x).
    start_mm, end_mm : float
        Radius there.
    tall : float
        How many times the section is higher (along z) than wide.
    """
    stretch = np.array([1 / tall, 1, 1])
    first = np.array(start) * stretch
    along = np.array(end) * stretch - first
    length2 = max(float(along @ along), 1e-6)
    az, ay, ax = (float(value) for value in along)

    def distance(z: Array, y: Array, x: Array) -> Array:
        """Distance to the surface."""
        u, v, w = z / tall - first[0], y - first[1], x - first[2]
        t = np.clip((u * az + v * ay + w * ax) / length2, 0, 1)
        off = np.sqrt((u - t * az) ** 2 + (v - t * ay) ** 2 + (w - t * ax) ** 2)
        return np.asarray(off - (start_mm + t * (end_mm - start_mm)), np.float32)

    radius = max(start_mm, end_mm)
    return _solid(distance, [start, end], (radius * tall, radius, radius))


def tube(points: Sequence[Point], radii: Sequence[float], tall: float = 1.0) -> tuple[Solid, ...]:
    """Return the rods that join points along a path."""
    return tuple(
        capsule(points[i], points[i + 1], radii[i], radii[i + 1], tall)
        for i in range(len(points) - 1)
    )


def solid(distance: Distance, lower: Point, upper: Point) -> Solid:
    """Return a solid of any distance within a box."""
    center = tuple((a + b) / 2 for a, b in zip(lower, upper, strict=True))
    half = tuple((b - a) / 2 for a, b in zip(lower, upper, strict=True))
    return _solid(distance, [(center[0], center[1], center[2])], (half[0], half[1], half[2]))


def mirrored(solids: Sequence[Solid]) -> tuple[Solid, ...]:
    """Return the same solids on the other side of the patient."""
    return tuple(
        Solid(
            (one.lower_mm[0], one.lower_mm[1], -one.upper_mm[2]),
            (one.upper_mm[0], one.upper_mm[1], -one.lower_mm[2]),
            lambda z, y, x, one=one: one.distance_mm(z, y, -x),  # type: ignore[misc]  # default
        )
        for one in solids
    )


def _solid(distance: Distance, points: Sequence[Point], radii: Point) -> Solid:
    margin = np.array(radii) + 3.0  # the blur of an edge, at voxels of up to 4 mm
    lower, upper = np.min(points, axis=0) - margin, np.max(points, axis=0) + margin
    return Solid(
        (float(lower[0]), float(lower[1]), float(lower[2])),
        (float(upper[0]), float(upper[1]), float(upper[2])),
        distance,
    )


def _box(
    slab: Slab,
    lower: Sequence[float] | NDArray[np.float64],
    upper: Sequence[float] | NDArray[np.float64],
) -> tuple[slice, slice, slice] | None:
    ranges = [
        slice(int(np.searchsorted(axis, low)), int(np.searchsorted(axis, high)))
        for axis, low, high in zip((slab.z, slab.y, slab.x), lower, upper, strict=True)
    ]
    if any(one.start >= one.stop for one in ranges):
        return None
    return ranges[0], ranges[1], ranges[2]


def coverage(distance: Array, blur_mm: float) -> Array:
    """Return how much of a voxel, 0 to 1, lies inside a surface at this signed distance."""
    return np.asarray(np.clip(0.5 - distance / np.float32(blur_mm), 0, 1), np.float32)
