"""The geometry gate: which frames are one volume, and where its voxels are in the patient.

Frame headers enter, as facts without pixels; their order along the normal and the affine of the
grid leave. What cannot be one volume is refused with the slices and the reason. `volume.py`
calls it; nothing here opens a file.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from osteon.errors import VolumeError

SLICES_MIN = 3  # two slices have one spacing, which nothing confirms
VOXELS_MAX = 2**32  # 8 GiB of int16; 4,000 slices of 1024 x 1024

# A slice may be this far off the regular grid. Positions that a scanner rounds to 0.1 mm are
# 0.05 mm off at each end, so steps between them vary by 0.1 mm; the smallest CT detector rows are
# 0.25-0.6 mm. Below 0.5 mm spacing a fifth of a slice is the limit. Measured in any direction.
POSITION_TOLERANCE_MM = 0.1
POSITION_TOLERANCE_SLICES = 0.2
SAME_POSITION_MM = 0.01

# A result states the planes of all its frames by one orientation and one pixel spacing. Those of a
# frame may differ by what moves its far corner so far; both together stay below the 0.01 mm by
# which no result may be off.
CORNER_TOLERANCE_MM = 0.004
UNIT_LENGTH_TOLERANCE = 1e-3  # cosines written with three decimals

# No patient is a kilometre away, and no CT pixel is smaller or larger than these: numbers beyond
# would overflow, or make a volume of a size that nobody sent.
COORDINATE_MM_MAX = 1e6
PIXEL_SPACING_MM_MIN, PIXEL_SPACING_MM_MAX = 1e-3, 1e2
# A tilt of 30 degrees moves the slices of a whole body by 2.4 times the field of view.
SIDEWAYS_SIZES_MAX = 3.0

NAMED_MAX = 5  # slices that one message names before it counts the rest

Key = TypeVar("Key")


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a source instance, as a result refers to it.

    Attributes
    ----------
    path : Path
        The Part 10 file.
    frame : int
        Frame number from 1; 1 for a single-frame instance.
    sop_class_uid, sop_instance_uid : str
        The instance that holds the frame.
    """

    path: Path
    frame: int
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, eq=False)
class Geometry:
    """The source grid: where each voxel is in the patient.

    A constant gantry tilt makes the grid oblique: the third column of the affine is then not
    along the normal of the slices. Label maps stay on this grid, so nothing is resampled.

    Attributes
    ----------
    affine : ndarray of float64, shape (4, 4)
        Maps a voxel (column, row, slice, 1) to patient millimetres in LPS (PS3.3 C.7.6.2.1.1).
    shape_zyx : tuple of int
        (slices, rows, columns).
    spacing_zyx_mm : tuple of float
        Distance between slices along their normal, between rows, and between columns. Their
        product is the volume of a voxel, with a tilt too.
    frame_of_reference_uid : str
        Frame of Reference UID that all slices share.
    """

    affine: NDArray[np.float64]
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    frame_of_reference_uid: str


@dataclass(frozen=True)
class FrameHeader:
    """What a header says about one frame, with nothing corrected; None where it says nothing.

    Attributes
    ----------
    source : SourceFrame
        The frame itself.
    patient_id, study_instance_uid, series_instance_uid, frame_of_reference_uid : str
        Empty where absent.
    instance_number : int or None
        Instance Number (0020,0013), or the frame number in a multi-frame instance.
    image_type : tuple of str
        Image Type (0008,0008) or Frame Type (0008,9007).
    samples_per_pixel, rows, columns : int
        Image Pixel module, PS3.3 C.7.6.3.
    position_mm : tuple of float, length 3
        Image Position (Patient).
    orientation : tuple of float, length 6
        Image Orientation (Patient): cosines along a row, then along a column.
    pixel_spacing_mm : tuple of float, length 2
        Pixel Spacing: between rows, then between columns.
    """

    source: SourceFrame
    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    instance_number: int | None
    image_type: tuple[str, ...]
    samples_per_pixel: int
    rows: int
    columns: int
    position_mm: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing_mm: tuple[float, ...] | None

    @property
    def name(self) -> str:
        """How a message names this frame: what the viewer shows, else the file."""
        if self.instance_number is None:
            return f"{self.source.path.name} frame {self.source.frame}"
        return f"image {self.instance_number}"


def order_slices(headers: Sequence[FrameHeader]) -> tuple[Geometry, tuple[FrameHeader, ...]]:
    """Sort frames along the normal of their planes, or refuse them by name and reason.

    Parameters
    ----------
    headers : sequence of FrameHeader
        All frames of one series, in any order.

    Returns
    -------
    geometry : Geometry
        The grid of the volume; slices ascend along the cross product of the row and column
        directions, so the axes are right-handed.
    ordered : tuple of FrameHeader
        The same frames in the order of the slices.

    Raises
    ------
    VolumeError
        The frames are not one CT volume; the message says which, where and why.

    References
    ----------
    DICOM PS3.3 C.7.6.2 (Image Plane), C.7.6.16.2.3 and .4 (Plane Position, Plane Orientation)
    """
    _refuse_other_images(headers)
    _refuse_mixed_stacks(headers)
    row_spacing_mm, column_spacing_mm = _pixel_spacing_mm(headers)
    size_mm = max(headers[0].rows * row_spacing_mm, headers[0].columns * column_spacing_mm)
    orientation = _orientation(headers, size_mm)
    normal = np.cross(orientation[0], orientation[1])
    normal /= np.linalg.norm(normal)
    positions = np.array([header.position_mm for header in headers], np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    ordered = tuple(headers[index] for index in order)
    step = _step(ordered, positions[order], normal)
    sideways_mm = (len(ordered) - 1) * float(np.linalg.norm(step - step @ normal * normal))
    if sideways_mm > SIDEWAYS_SIZES_MAX * size_mm:
        raise VolumeError(
            f"The slices move sideways by {sideways_mm:.0f} mm in all, but are {size_mm:.0f} mm "
            "wide: this is no stack of one body"
        )
    if not ordered[0].frame_of_reference_uid:
        raise VolumeError(
            "No Frame of Reference UID: a result could not be placed on these images. "
            "Send the series as the scanner made it"
        )
    affine = np.eye(4)
    affine[:3, 0] = orientation[0] * column_spacing_mm
    affine[:3, 1] = orientation[1] * row_spacing_mm
    affine[:3, 2] = step
    affine[:3, 3] = positions[order[0]]
    geometry = Geometry(
        affine=affine,
        shape_zyx=(len(ordered), ordered[0].rows, ordered[0].columns),
        spacing_zyx_mm=(float(step @ normal), row_spacing_mm, column_spacing_mm),
        frame_of_reference_uid=ordered[0].frame_of_reference_uid,
    )
    return geometry, ordered


def _refuse_other_images(headers: Sequence[FrameHeader]) -> None:
    """Refuse what is no slice of Hounsfield units."""
    colour = [header for header in headers if header.samples_per_pixel != 1]
    if colour:
        raise VolumeError(f"Colour images have no Hounsfield units: {_names(colour)}")
    # Image Type value 3, PS3.3 C.8.2.1.1.1; CT has no other place that tells a localizer.
    localizers = [header for header in headers if "LOCALIZER" in header.image_type]
    if localizers:
        raise VolumeError(
            f"Localizer (scout) among the images: {_names(localizers)}. "
            "Send the slices without their localizer"
        )
    if len(headers) < SLICES_MIN:
        raise VolumeError(
            f"Too few slices: {len(headers)}, but a volume needs at least {SLICES_MIN}"
        )


def _refuse_mixed_stacks(headers: Sequence[FrameHeader]) -> None:
    """Refuse frames that differ in what one stack has in common."""
    _one([(h.source.sop_class_uid, h) for h in headers], "SOP Classes")
    _one([(h.patient_id, h) for h in headers], "patients")
    _one([(h.study_instance_uid, h) for h in headers], "studies")
    _one([(h.series_instance_uid, h) for h in headers], "series")
    _one([(h.frame_of_reference_uid, h) for h in headers], "frames of reference")
    _one([(f"{h.rows} x {h.columns}", h) for h in headers], "image sizes (rows x columns)")
    rows, columns = headers[0].rows, headers[0].columns
    if not 0 < rows * columns * len(headers) <= VOXELS_MAX:
        raise VolumeError(
            f"{len(headers)} slices of {rows} x {columns} pixels are not between 1 and "
            f"{VOXELS_MAX:,} voxels"
        )
    for what, lengths in (
        ("Image Position (Patient)", [(h.position_mm, 3) for h in headers]),
        ("Image Orientation (Patient)", [(h.orientation, 6) for h in headers]),
        ("Pixel Spacing", [(h.pixel_spacing_mm, 2) for h in headers]),
    ):
        without = [
            header
            for header, (value, length) in zip(headers, lengths, strict=True)
            if value is None
            or len(value) != length
            or not (np.abs(value) <= COORDINATE_MM_MAX).all()
        ]
        if without:
            raise VolumeError(f"No valid {what} in {_names(without)}")


def _orientation(headers: Sequence[FrameHeader], size_mm: float) -> NDArray[np.float64]:
    """Return the unit vectors along a row and along a column that all frames share."""
    cosines = np.array([header.orientation for header in headers], np.float64)
    _one_within(headers, cosines, CORNER_TOLERANCE_MM / size_mm, "orientations")
    shared = cosines[0].reshape(2, 3)
    if not np.allclose(shared @ shared.T, np.eye(2), rtol=0, atol=UNIT_LENGTH_TOLERANCE):
        raise VolumeError(
            f"Image Orientation (Patient) {_numbers(cosines[0])} is not two unit vectors at a "
            "right angle"
        )
    return np.asarray(shared / np.linalg.norm(shared, axis=1, keepdims=True))


def _pixel_spacing_mm(headers: Sequence[FrameHeader]) -> tuple[float, float]:
    """Return the distances between rows and between columns that all frames share."""
    spacings_mm = np.array([header.pixel_spacing_mm for header in headers], np.float64)
    tolerance_mm = CORNER_TOLERANCE_MM / max(headers[0].rows, headers[0].columns)
    _one_within(headers, spacings_mm, tolerance_mm, "pixel spacings (mm)")
    if spacings_mm[0].min() < PIXEL_SPACING_MM_MIN or spacings_mm[0].max() > PIXEL_SPACING_MM_MAX:
        raise VolumeError(
            f"Pixel Spacing {_numbers(spacings_mm[0])} is no distance of CT pixels: "
            f"{PIXEL_SPACING_MM_MIN:g} to {PIXEL_SPACING_MM_MAX:g} mm"
        )
    return float(spacings_mm[0, 0]), float(spacings_mm[0, 1])


def _step(
    ordered: Sequence[FrameHeader], positions: NDArray[np.float64], normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the vector from each slice to the next, in mm, or refuse an irregular stack."""
    along_mm = positions @ normal
    steps_mm = np.diff(along_mm)
    _refuse_same_position(ordered, along_mm, steps_mm)
    usual_mm = float(np.median(steps_mm))
    tolerance_mm = min(POSITION_TOLERANCE_MM, POSITION_TOLERANCE_SLICES * usual_mm)
    _refuse_gaps(ordered, along_mm, steps_mm, usual_mm, tolerance_mm)
    step = np.asarray((positions[-1] - positions[0]) / (len(ordered) - 1))
    off_mm = np.linalg.norm(
        positions - positions[0] - np.arange(len(ordered))[:, None] * step, axis=1
    )
    if off_mm.max() > tolerance_mm:
        worst = int(off_mm.argmax())
        raise VolumeError(
            f"The slices are not on a regular grid: {_place(ordered[worst], along_mm[worst])} is "
            f"{off_mm[worst]:.2f} mm off ({tolerance_mm:.2f} mm allowed)"
        )
    # A gantry tilts by up to 30 degrees; beyond 45 the stack is no longer one of slices.
    if np.linalg.norm(step) > np.sqrt(2) * (step @ normal):
        raise VolumeError("The slices move sideways more than they advance: no gantry tilts so far")
    return step


def _refuse_same_position(
    ordered: Sequence[FrameHeader], along_mm: NDArray[np.float64], steps_mm: NDArray[np.float64]
) -> None:
    same = np.flatnonzero(steps_mm < SAME_POSITION_MM)
    if same.size == 0:
        return
    first = int(same[0])
    here = [
        header
        for header, place_mm in zip(ordered, along_mm, strict=True)
        if abs(place_mm - along_mm[first]) < SAME_POSITION_MM
    ]
    places = len(np.split(same, np.flatnonzero(np.diff(same) > 1) + 1))
    more = f", and {places - 1} more such positions" if places > 1 else ""
    raise VolumeError(
        f"{len(here)} images at one position ({along_mm[first]:.2f} mm): {_names(here)}{more}. "
        "A repeated or dynamic acquisition is not one volume"
    )


def _refuse_gaps(
    ordered: Sequence[FrameHeader],
    along_mm: NDArray[np.float64],
    steps_mm: NDArray[np.float64],
    usual_mm: float,
    tolerance_mm: float,
) -> None:
    """Refuse missing slices, or else a spacing that changes."""
    uneven = np.flatnonzero(np.abs(steps_mm - usual_mm) > tolerance_mm + SAME_POSITION_MM)
    if uneven.size == 0:
        return
    first = int(uneven[0])
    between = (
        f"between {_place(ordered[first], along_mm[first])} and "
        f"{_place(ordered[first + 1], along_mm[first + 1])}"
    )
    more = f", and {uneven.size - 1} more such places" if uneven.size > 1 else ""
    missing = np.rint(steps_mm[uneven] / usual_mm) - 1
    whole = np.abs(steps_mm[uneven] - (missing + 1) * usual_mm) <= tolerance_mm * (missing + 1)
    if whole.all() and (missing > 0).all():
        raise VolumeError(
            f"{_count(int(missing.sum()))} missing: {steps_mm[first]:.2f} mm {between}, where "
            f"{usual_mm:.2f} mm is usual{more}"
        )
    raise VolumeError(
        f"Irregular slice spacing: {steps_mm[first]:.2f} mm {between}, where {usual_mm:.2f} mm is "
        f"usual{more}. Send the slices of each spacing as a series of their own"
    )


def _one(members: Iterable[tuple[Key, FrameHeader]], what: str) -> None:
    """Refuse frames that do not share one value."""
    groups: defaultdict[Key, list[FrameHeader]] = defaultdict(list)
    for value, header in members:
        groups[value].append(header)
    _refuse_groups([(str(value) or "none", group) for value, group in groups.items()], what)


def _one_within(
    headers: Sequence[FrameHeader], values: NDArray[np.float64], tolerance: float, what: str
) -> None:
    """Refuse frames whose numbers, shape (frames, numbers), differ by more than a tolerance."""
    groups: list[tuple[str, list[FrameHeader]]] = []
    left = np.arange(len(headers))
    while left.size:
        value = values[left[0]]
        close = np.abs(values[left] - value).max(axis=1) <= tolerance
        groups.append((_numbers(value), [headers[index] for index in left[close]]))
        left = left[~close]
    _refuse_groups(groups, what)


def _refuse_groups(groups: list[tuple[str, list[FrameHeader]]], what: str) -> None:
    if len(groups) == 1:
        return
    groups = sorted(groups, key=lambda group: -len(group[1]))
    told = "; ".join(f"{value}: {_names(members)}" for value, members in groups[:NAMED_MAX])
    raise VolumeError(f"{len(groups)} different {what} in one series: {told}")


def _names(headers: Sequence[FrameHeader]) -> str:
    names = [header.name for header in headers[:NAMED_MAX]]
    if len(set(names)) < len(names):  # Instance Numbers alone do not tell them apart.
        names = [f"{header.name} ({header.source.path.name})" for header in headers[:NAMED_MAX]]
    told = ", ".join(names)
    return told if len(headers) <= NAMED_MAX else f"{told} and {len(headers) - NAMED_MAX} more"


def _place(header: FrameHeader, along_mm: float) -> str:
    return f"{header.name} at {along_mm:.2f} mm"


def _count(slices: int) -> str:
    return "1 slice is" if slices == 1 else f"{slices} slices are"


def _numbers(values: NDArray[np.float64]) -> str:
    return "\\".join(f"{value:g}" for value in values)
