"""Stored inputs and results by path, as the files API shows them.

Read by HTTP; nothing is written. A path is made of UIDs and job ids, and is never one on the disk.
"""

from pathlib import Path
from typing import Any

from osteon.errors import NotFoundError
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.times import iso

INPUTS, RESULTS = "inputs", "results"
_LAST_CHARACTER = "\U0010ffff"  # Behind every other, in UTF-8 too.


def files(
    table: Table, prefix: str = "", *, limit: int = 1000, after: str = ""
) -> list[dict[str, Any]]:
    """Return stored inputs and results by path.

    Parameters
    ----------
    prefix : str
        What the path starts with: ``inputs/<Series Instance UID>/`` or ``results/<job>/``.
    after : str
        Only paths behind this one: the next page.
    """
    rows = _input_files(table, prefix, limit, after) if not after.startswith(RESULTS) else []
    if len(rows) < limit:
        rows += table.rows(
            "SELECT *, sha256 AS digest FROM result WHERE path >= ?1 AND path < ?1 || ?2"
            " AND path > ?3 ORDER BY path LIMIT ?4",
            (prefix, _LAST_CHARACTER, after, limit - len(rows)),
        )
    keys = ("path", "size", "media_type", "digest")
    return [{k: row[k] for k in keys} | {"created": iso(row["created"])} for row in rows]


def file(table: Table, path: str) -> tuple[Path, dict[str, Any]]:
    """Return where a stored file is on this disk, and what is known of it.

    Raises
    ------
    NotFoundError
        No file has this path.
    """
    row = _input_file(table, path) or table.row(
        "SELECT path AS disk_path, size, media_type, created, sha256 AS digest"
        " FROM result WHERE path = ?",
        (path,),
    )
    if row is None:
        raise NotFoundError(f"no file {path!r}: see GET /api/v1/files")
    keys = ("size", "media_type", "digest", "created")
    return table.data_dir / row["disk_path"], {k: row[k] for k in keys}


def input_path(series_instance_uid: str, sop_instance_uid: str) -> str:
    """Return the path by which the outside asks for an instance."""
    return f"{INPUTS}/{series_instance_uid}/{sop_instance_uid}.dcm"


def _input_files(table: Table, prefix: str, limit: int, after: str) -> list[Row]:
    """Return a page of instances in the order of (Series, SOP) Instance UID, series by series."""
    room, series, instance = (*prefix.split("/", 2), "", "")[:3]
    if not (f"{INPUTS}/".startswith(room) if prefix == room else room == INPUTS):
        return []
    whole_series = prefix.count("/") > 1
    last = (*after.removesuffix(".dcm").split("/"), "", "")
    found: list[Row] = []
    uid = _next_series(table, max(series, last[1]))
    while uid is not None and len(found) < limit:
        if uid != series if whole_series else not uid.startswith(series):
            break
        behind = last[2] if uid == last[1] else ""
        found += _instances_of(table, uid, behind, instance, limit - len(found))
        uid = _next_series(table, f"{uid}\0")
    return [
        dict(row)
        | {
            "path": input_path(row["series_instance_uid"], row["sop_instance_uid"]),
            "media_type": "application/dicom",
            "created": row["received"],
        }
        for row in found
    ]


def _next_series(table: Table, uid: str) -> str | None:
    """Return the first series from a Series Instance UID on."""
    row = table.row(
        "SELECT min(series_instance_uid) AS uid FROM instance WHERE series_instance_uid >= ?",
        (uid,),
    )
    return None if row is None else row["uid"]


def _instances_of(table: Table, uid: str, behind: str, prefix: str, limit: int) -> list[Row]:
    """Return instances of one series in the order of their UIDs: of each the newest content."""
    return table.rows(
        "SELECT *, max(id) FROM instance WHERE series_instance_uid = ? AND sop_instance_uid > ?"
        " AND substr(sop_instance_uid || '.dcm', 1, ?) = ?"
        " GROUP BY sop_instance_uid ORDER BY sop_instance_uid LIMIT ?",
        (uid, behind, len(prefix), prefix, limit),
    )


def _input_file(table: Table, path: str) -> Row | None:
    parts = path.removesuffix(".dcm").split("/")
    if len(parts) != 3 or parts[0] != INPUTS:
        return None
    return table.row(
        "SELECT path AS disk_path, size, 'application/dicom' AS media_type, received AS created,"
        " digest FROM instance WHERE series_instance_uid = ? AND sop_instance_uid = ?"
        " ORDER BY id DESC LIMIT 1",
        (parts[1], parts[2]),
    )
