"""How good and how fast ``builtin:bone`` is, beside plain thresholds.

A folder of CT series enters (each with ``dicom/`` or DICOM files, and ``labels.nii.gz`` where there
is a reference); a table, ``bones.json`` and pictures in three planes leave, in ``bench/out/``.

    python bench/bones.py --data ../shared/data
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from bone_measures import body_of, surface_distances_mm
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from osteon.errors import VolumeError
from osteon.pipeline.boneseg import combine
from osteon.pipeline.models.model import load_model
from osteon.pipeline.prediction import predict
from osteon.pipeline.volume import Volume, read_volume

Mask = NDArray[np.bool_]

SERIES = (
    "ts_pelvis_3mm",
    "tptbox_vertebra",
    "ts_siemens_j2k",
    "vhf_ankle_jpegll",
    "philips_tilt_phantom_jpegls",
)
# The reference of this series leaves out vertebrae that the ends of the scan cut.
COMPARED = {"ts_siemens_j2k": slice(4, 14)}
# A plastic skull in air has no body to be outside of.
BODILESS = {"philips_tilt_phantom_jpegls"}
WINDOW_HU = (-150.0, 450.0)
RED, GREEN = (255, 60, 60), (60, 255, 60)
PANEL_PX = 420


def builtin_bone(volume: Volume) -> Mask:
    model = load_model("builtin:bone")
    labels_zyx, _ = combine(model, predict(model, volume), volume)
    return labels_zyx > 0


def threshold_200(volume: Volume) -> Mask:
    return np.asarray(volume.hu_zyx > 200)


def otsu(volume: Volume) -> Mask:
    image = SimpleITK.GetImageFromArray(np.maximum(volume.hu_zyx, -200).astype(np.int16))
    # Three classes, as air and fat, soft tissue, and bone; the last one is taken.
    classes = SimpleITK.OtsuMultipleThresholds(image, 2)
    return np.asarray(SimpleITK.GetArrayFromImage(classes) == 2)


METHODS: dict[str, Callable[[Volume], Mask]] = {
    "builtin:bone": builtin_bone,
    "HU > 200": threshold_200,
    "Otsu": otsu,
}


def files_of(folder: Path) -> list[Path]:
    inner = folder / "dicom"
    found = inner.iterdir() if inner.is_dir() else folder.glob("*.dcm")
    return sorted(found)


def reference_of(folder: Path) -> Mask | None:
    path = folder / "labels.nii.gz"
    if not path.is_file():
        return None
    return np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0) > 0


def measure(folder: Path, method: str, picture: Path | None) -> dict[str, Any]:
    """Run one method on one series; called in a process of its own, so that its peak is its own."""
    started = time.perf_counter()
    try:
        volume = read_volume(files_of(folder))
    except VolumeError as error:
        return {"series": folder.name, "method": method, "refused": error.message}
    read_s = time.perf_counter() - started
    started = time.perf_counter()
    found = METHODS[method](volume)
    found_s = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    voxel_ml = abs(np.linalg.det(volume.geometry.affine[:3, :3])) / 1000
    row: dict[str, Any] = {
        "series": folder.name,
        "method": method,
        "slices": volume.hu_zyx.shape[0],
        "read_s": round(read_s, 3),
        "found_s": round(found_s, 3),
        "peak_mb": round(peak_mb),
        "volume_mb": round(volume.hu_zyx.size * 2 / 2**20, 1),
        "found_ml": round(float(found.sum() * voxel_ml), 1),
        "over_200_hu_covered": round(float(found[volume.hu_zyx > 200].mean()), 3),
    }
    if folder.name not in BODILESS:
        body = body_of(volume.hu_zyx, volume.geometry.spacing_zyx_mm)
        row["outside_ml"] = round(float((found & ~body).sum() * voxel_ml), 2)
    reference = reference_of(folder)
    if reference is not None:
        part = COMPARED.get(folder.name, slice(None))
        both = (found & reference)[part].sum()
        row["dice"] = round(float(2 * both / (found[part].sum() + reference[part].sum())), 4)
        row["false_ml"] = round(float((found & ~reference)[part].sum() * voxel_ml), 1)
        row["missed_ml"] = round(float((reference & ~found)[part].sum() * voxel_ml), 1)
        apart_mm = surface_distances_mm(
            found[part], reference[part], volume.geometry.spacing_zyx_mm
        )
        if apart_mm is not None:
            row["surface_mm"], row["surface_95_mm"] = (round(mm, 2) for mm in apart_mm)
    if picture is not None:
        three_planes(volume, found, reference).save(picture)
    return row


def three_planes(volume: Volume, found: Mask, reference: Mask | None) -> Image.Image:
    """Show three slices of each plane; the reference is red, what was found green."""
    box = _around(found if reference is None else found | reference, volume)
    found = found[box]
    masks = [(None if reference is None else reference[box], RED), (found, GREEN)]
    panels = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        present = np.flatnonzero(found.any(axis=others))
        if present.size == 0:
            present = np.arange(found.shape[axis])
        for part in (0.2, 0.5, 0.8):
            index = int(present[int(part * (present.size - 1))])
            panels.append(panel(volume, volume.hu_zyx[box], masks, axis, index))
    rows = [panels[first : first + 3] for first in (0, 3, 6)]
    heights = [max(image.height for image in row) for row in rows]
    sheet = Image.new("RGB", (3 * PANEL_PX, sum(heights)))
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            sheet.paste(image, (column * PANEL_PX, sum(heights[:number])))
    return sheet


def _around(mask: Mask, volume: Volume) -> tuple[slice, ...]:
    """Return the box of what is to be seen, 20 mm wider on each side."""
    box = []
    for axis, spacing_mm in enumerate(volume.geometry.spacing_zyx_mm):
        others = tuple(other for other in range(3) if other != axis)
        present = np.flatnonzero(mask.any(axis=others))
        margin = round(20 / spacing_mm)
        first, last = (present[0], present[-1]) if present.size else (0, mask.shape[axis])
        box.append(slice(max(0, int(first) - margin), int(last) + margin + 1))
    return tuple(box)


def panel(
    volume: Volume,
    hu_zyx: NDArray[Any],
    masks: list[tuple[Mask | None, tuple[int, int, int]]],
    axis: int,
    index: int,
) -> Image.Image:
    hu = hu_zyx.take(index, axis).astype(float)
    grey = np.clip((hu - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]), 0, 1) * 255
    spacing = [mm for other, mm in enumerate(volume.geometry.spacing_zyx_mm) if other != axis]
    height_mm, width_mm = (n * mm for n, mm in zip(hu.shape, spacing, strict=True))
    scale = PANEL_PX / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    image = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    pixels = np.repeat(np.asarray(image)[..., None], 3, axis=2)
    for mask, colour in masks:
        if mask is not None:
            shown = Image.fromarray(mask.take(index, axis)).resize(size)
            pixels[outline(np.asarray(shown))] = colour
    # The head is up in coronal and sagittal pictures.
    picture = Image.fromarray(pixels if axis == 0 else pixels[::-1])
    ImageDraw.Draw(picture).text((4, 4), f"{'zyx'[axis]} {index}", fill=(255, 255, 0))
    return picture


def outline(mask: Mask) -> Mask:
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return mask & ~inner


def print_table(rows: list[dict[str, Any]]) -> None:
    columns = ("series", "method", "dice", "surface_mm", "surface_95_mm", "false_ml",
               "missed_ml", "outside_ml", "found_ml", "over_200_hu_covered", "read_s", "found_s",
               "peak_mb", "volume_mb")  # fmt: skip
    texts = [columns, *(tuple(str(row.get(name, "-")) for name in columns) for row in rows)]
    widths = [max(len(text[at]) for text in texts) for at in range(len(columns))]
    for text in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(text, widths, strict=True)))
    for row in rows:
        if "refused" in row:
            print(f"{row['series']}: refused: {row['refused']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of series")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--series", nargs="*", default=SERIES)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for series in given.series:
        for method in METHODS:
            picture = given.out / f"{series}.png" if method == "builtin:bone" else None
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (given.data / series, method, picture)))
    print_table(rows)
    (given.out / "bones.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
