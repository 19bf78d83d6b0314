"""What came of a job, as plain JSON values: result files, where they were delivered, and segments.

Rows enter; `osteon.pipeline.table.views` puts what leaves into its views of a job.
"""

import json
from typing import Any

from osteon.pipeline.job import Stage, State, status_of
from osteon.pipeline.table import deliveries, shadow
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.times import iso

# Results of older versions tell label and volume of a segment only.
_SEGMENT = dict.fromkeys(
    ("number", "label", "volume_ml", "box", "rgb", "category", "type", "laterality")
)


def results_of(table: Table, job: Row) -> list[dict[str, Any]]:
    """Return the result files of a job.

    Of each, ``deliveries`` are those of the job's present run: none before that has made its own
    result. ``delivered_before`` names the destinations that have what earlier runs made, be it by
    another route.
    """
    every = deliveries.of_job(table, job["id"])
    rows = table.rows("SELECT * FROM result WHERE job_id = ? ORDER BY kind DESC", (job["id"],))
    return [_result(row, [d for d in every if d["result_id"] == row["id"]]) for row in rows]


def _result(result: Row, of_it: list[Row]) -> dict[str, Any]:
    return {
        "kind": result["kind"],
        "path": result["path"],
        "size": result["size"],
        "sha256": result["sha256"],
        "sop_instance_uid": result["sop_instance_uid"],
        "created": iso(result["created"]),
        "superseded": iso(result["superseded"]),
        "deliveries": [_delivery(d) for d in of_it if not d["earlier"]],
        "delivered_before": [
            {"destination": d["destination"], "at": iso(d["updated"])}
            for d in of_it
            if d["earlier"] and d["state"] == "delivered"
        ],
    }


def _delivery(delivery: Row) -> dict[str, Any]:
    waits = delivery["state"] == "waiting"
    return {
        "destination": delivery["destination"],
        "state": delivery["state"],
        "attempts": delivery["attempts"],
        "next_attempt": iso(delivery["not_before"]) if waits else None,
        "reason": delivery["reason"],
        "updated": iso(delivery["updated"]),
    }


def segments_of(job: Row) -> list[dict[str, Any]]:
    """Return the segments of a job's result, with the same keys whatever version made it."""
    return [_SEGMENT | segment for segment in json.loads(job["segments"])]


def shadows_of(table: Table, job: Row) -> list[dict[str, Any]]:
    """Return the shadows of a job, and how what they found compares with its own."""
    return [_shadow(row) for row in shadow.of_job(table, job["id"])]


def _shadow(job: Row) -> dict[str, Any]:
    compared = job["compared"] == "compared"
    return {
        "id": str(job["id"]),
        "model": job["model"],
        "state": job["state"],
        "status": status_of(Stage(job["stage"]), State(job["state"])),
        "reason": job["compared_reason"] or job["reason"],
        "dice": job["dice"],
        "segments": json.loads(job["compared_segments"] if compared else "[]"),
    }
