"""A picture of a result for people: three planes of the CT with the bones in their colours.

Volume, label map and segments enter, a PNG leaves; called by the encode stage for the status page
and the API. It shows no identity of the patient, and it is no diagnostic image.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from osteon.errors import StageError
from osteon.results.bits import LabelMap
from osteon.results.segment import Segment

_WINDOW_HU = (-350.0, 1150.0)  # soft tissue stays visible beside bone
_GAMMA = 0.75
_MARGIN_MM = 25.0  # of the CT around the mask
_SIZE_PX = (1180, 980)  # the three planes and the legend fit into this
_GAP_PX = 18
_FILL = 0.42  # opacity of a segment; its outline is opaque
_BACKGROUND = (12, 14, 18)
_INK = (222, 226, 232)
_FAINT = (128, 136, 148)
_LEGEND_ROW_PX = 22
_COMPRESS_LEVEL = 2  # A third of the time of zlib's own choice, for a tenth more bytes.

HU = NDArray[np.int16] | NDArray[np.float32]
Affine = NDArray[np.float64]


def write_preview(
    hu_zyx: HU,
    labels_zyx: LabelMap,
    spacing_zyx_mm: Sequence[float],
    segments: Sequence[Segment],
    path: Path,
    *,
    affine: Affine | None = None,
) -> None:
    """Draw an axial, a coronal and a sagittal plane with the segments in their colours.

    The planes meet in the voxel of the mask that is nearest to its centre of mass. The head is
    up, the patient's right is on the left of the picture, anterior is left in the sagittal plane,
    and all three planes have the same scale.

    Parameters
    ----------
    hu_zyx : ndarray, shape (slices, rows, columns)
        CT in Hounsfield units.
    labels_zyx : ndarray of uint8 or uint16, same shape
        Label map with at least one voxel.
    spacing_zyx_mm : sequence of float
        Distance between slices, rows and columns.
    segments : sequence of Segment
        Names and colours, numbered 1..n.
    path : Path
        The PNG to write.
    affine : ndarray, shape (4, 4), optional
        From voxel (column, row, slice) to patient coordinates in mm (LPS); axial slices from
        feet to head where it is not given.

    Raises
    ------
    StageError
        The mask is empty.
    OSError
        The disk refused; the worker tells a full one from other failures.
    """
    hu_zyx, labels_zyx, spacing_zyx_mm = _as_axial(hu_zyx, labels_zyx, spacing_zyx_mm, affine)
    if not labels_zyx.any():
        raise StageError("there is nothing to draw: the mask is empty")
    colours = np.array([(0, 0, 0), *(segment.rgb for segment in segments)], np.float32)
    z, y, x = _centre(labels_zyx)
    box = _box(labels_zyx, spacing_zyx_mm)
    height, depth, width = _size_px(box, spacing_zyx_mm)
    legend_width = max(depth, 230)
    right, below = 2 * _GAP_PX + width, 2 * _GAP_PX + depth
    canvas = Image.new(
        "RGB", (right + legend_width + _GAP_PX, below + height + _GAP_PX), _BACKGROUND
    )
    up = slice(None, None, -1)  # slices run to the head, rows of a picture run down
    for name, plane, corner, size, sides in (
        ("Axial", np.s_[z, box[1], box[2]], (_GAP_PX, _GAP_PX), (width, depth), "RLAP"),
        ("Coronal", np.s_[box[0], y, box[2]], (_GAP_PX, below), (width, height), "RLHF"),
        ("Sagittal", np.s_[box[0], box[1], x], (right, below), (depth, height), "APHF"),
    ):
        rows = slice(None) if name == "Axial" else up
        picture = _paint(hu_zyx[plane][rows], labels_zyx[plane][rows], size, colours)
        _letter(picture, name, sides)
        canvas.paste(picture, corner)
    _write_legend(canvas, segments, (right, _GAP_PX), (legend_width, depth))
    canvas.save(path, "PNG", compress_level=_COMPRESS_LEVEL)


def _as_axial(
    hu_zyx: HU, labels_zyx: LabelMap, spacing_zyx_mm: Sequence[float], affine: Affine | None
) -> tuple[HU, LabelMap, Sequence[float]]:
    """Turn the volume so that its axes run to the head, to posterior and to the left."""
    if affine is None:
        return hu_zyx, labels_zyx, spacing_zyx_mm
    directions = affine[:3, 2::-1] / np.linalg.norm(affine[:3, 2::-1], axis=0)  # xyz of z, y, x
    order = [int(np.abs(directions[axis]).argmax()) for axis in (2, 1, 0)]
    if sorted(order) != [0, 1, 2]:
        order = [0, 1, 2]
    flips = tuple(
        slice(None, None, -1 if directions[axis, source] < 0 else 1)
        for axis, source in zip((2, 1, 0), order, strict=True)
    )
    return (
        hu_zyx.transpose(order)[flips],
        labels_zyx.transpose(order)[flips],
        [spacing_zyx_mm[source] for source in order],
    )


def _centre(labels_zyx: LabelMap) -> tuple[int, int, int]:
    """Return the voxel of the mask next to its centre of mass, slice first."""
    per_slice = np.count_nonzero(labels_zyx, axis=(1, 2))
    filled = np.flatnonzero(per_slice)
    mean_z = np.average(filled, weights=per_slice[filled])
    z = int(filled[np.abs(filled - mean_z).argmin()])
    inside = np.argwhere(labels_zyx[z])
    y, x = inside[np.linalg.norm(inside - inside.mean(axis=0), axis=1).argmin()]
    return z, int(y), int(x)


def _box(labels_zyx: LabelMap, spacing_zyx_mm: Sequence[float]) -> tuple[slice, slice, slice]:
    """Return the mask's bounding box with a margin, within the volume."""
    parts = []
    for axis, (length, spacing) in enumerate(zip(labels_zyx.shape, spacing_zyx_mm, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(labels_zyx.any(axis=others))
        margin = int(np.ceil(_MARGIN_MM / spacing))
        parts.append(slice(max(0, filled[0] - margin), min(length, filled[-1] + 1 + margin)))
    return parts[0], parts[1], parts[2]


def _size_px(
    box: tuple[slice, slice, slice], spacing_zyx_mm: Sequence[float]
) -> tuple[int, int, int]:
    """Return height, depth and width of the box in pixels, at the largest scale that fits."""
    height_mm, depth_mm, width_mm = (
        (part.stop - part.start) * spacing
        for part, spacing in zip(box, spacing_zyx_mm, strict=True)
    )
    scale = min(_SIZE_PX[0] / (width_mm + depth_mm), _SIZE_PX[1] / (depth_mm + height_mm))
    return (
        max(1, round(scale * height_mm)),
        max(1, round(scale * depth_mm)),
        max(1, round(scale * width_mm)),
    )


def _paint(
    hu: HU, labels: LabelMap, size: tuple[int, int], colours: NDArray[np.float32]
) -> Image.Image:
    """Paint one plane: grey CT, transparent segments with an opaque outline."""
    low, high = _WINDOW_HU
    grey = np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1) ** _GAMMA * 255
    ct = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    mask = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    number = np.asarray(mask)
    edge = np.zeros(number.shape, bool)
    edge[:, 1:] |= number[:, 1:] != number[:, :-1]
    edge[1:] |= number[1:] != number[:-1]
    edge[:, :-1] |= number[:, 1:] != number[:, :-1]
    edge[:-1] |= number[1:] != number[:-1]
    opacity = np.where(number > 0, np.where(edge, 1.0, _FILL), 0.0)[..., np.newaxis]
    base = np.repeat(np.asarray(ct, np.float32)[..., np.newaxis], 3, axis=2)
    blended = base * (1 - opacity) + colours[number] * opacity
    return Image.fromarray(blended.astype(np.uint8))


def _letter(picture: Image.Image, name: str, sides: str) -> None:
    """Write a plane's name, and which side of the patient is left, right, above and below."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    places = [((8.0, 6.0), "la", name, 14, _INK)]
    if height > 80:
        places += [
            ((8, height / 2), "lm", sides[0], 13, _FAINT),
            ((width - 8, height / 2), "rm", sides[1], 13, _FAINT),
            ((width / 2, 6), "ma", sides[2], 13, _FAINT),
            ((width / 2, height - 6), "md", sides[3], 13, _FAINT),
        ]
    for place, anchor, text, size, ink in places:
        font = ImageFont.load_default(size)
        draw.text(place, text, ink, font, anchor, stroke_width=2, stroke_fill=_BACKGROUND)


def _write_legend(
    canvas: Image.Image, segments: Sequence[Segment], corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """List the segments, the largest first, as far as there is room."""
    draw = ImageDraw.Draw(canvas)
    left, top = corner
    title, font = ImageFont.load_default(16), ImageFont.load_default(13)
    total_ml = sum(segment.volume_ml for segment in segments)
    noun = "segment" if len(segments) == 1 else "segments"
    draw.text((left, top), f"{len(segments)} {noun}, {total_ml:.0f} ml", _INK, title)
    rows = max(1, (size[1] - 34) // _LEGEND_ROW_PX)
    ordered = sorted(segments, key=lambda segment: -segment.volume_ml)
    shown = ordered if len(ordered) <= rows else ordered[: rows - 1]
    right = left + min(size[0], 330)
    for row, segment in enumerate(shown):
        y = top + 34 + row * _LEGEND_ROW_PX
        draw.rounded_rectangle((left, y + 2, left + 13, y + 15), 3, segment.rgb)
        draw.text((left + 22, y), segment.label[:36], _INK, font)
        draw.text((right, y), f"{segment.volume_ml:.1f} ml", _FAINT, font, anchor="ra")
    if len(shown) < len(ordered):
        y = top + 34 + len(shown) * _LEGEND_ROW_PX
        draw.text((left + 22, y), f"and {len(ordered) - len(shown)} more", _FAINT, font)
