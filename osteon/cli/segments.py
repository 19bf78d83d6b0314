"""How commands write the segments of a result, for people.

What `osteon.results.summary` told of them enters, a table leaves. ``osteon jobs show`` and
``osteon run`` call it.
"""

import sys
from collections.abc import Mapping, Sequence
from shutil import get_terminal_size
from typing import Any

from osteon.cli.output import write_table

COLUMNS = ("no", "segment", "ml", "side", "colour", "slices", "rows", "columns",
           "x mm", "y mm", "z mm", "type")  # fmt: skip
LEFT_OUT = ("colour", "rows", "columns", "type")
TERMINAL_COLUMNS_MIN = 120  # For all of them; below, cells would be broken in pieces.


def write_segments(segments: Sequence[Mapping[str, Any]]) -> None:
    """Print a row for each segment, with fewer columns at a terminal that is narrow.

    Cells are empty where an older version did not tell.
    """
    narrow = sys.stdout.isatty() and get_terminal_size().columns < TERMINAL_COLUMNS_MIN
    columns = [name for name in COLUMNS if not (narrow and name in LEFT_OUT)]
    rows = [_cells(segment) for segment in segments]
    write_table(columns, [[row.get(name, "") for name in columns] for row in rows], words_min=0)


def _cells(segment: Mapping[str, Any]) -> dict[str, object]:
    cells = {"segment": segment["label"], "ml": f"{segment['volume_ml']:.1f}"}
    if segment["box"] is None:
        return cells
    box, side, kind = segment["box"], segment["laterality"], segment["type"]
    slices, rows, columns = (
        f"{first}-{last}" for first, last in zip(box["first_zyx"], box["last_zyx"], strict=True)
    )
    x_mm, y_mm, z_mm = (
        f"{round(low)} to {round(high)}"
        for low, high in zip(box["min_xyz_mm"], box["max_xyz_mm"], strict=True)
    )
    return cells | {
        "no": segment["number"],
        "side": side["meaning"].lower() if side else "",
        "colour": "#{:02x}{:02x}{:02x}".format(*segment["rgb"]),
        "slices": slices,
        "rows": rows,
        "columns": columns,
        "x mm": x_mm,
        "y mm": y_mm,
        "z mm": z_mm,
        "type": f"{kind['scheme']} {kind['value']} {kind['meaning']}",
    }
