"""Rows of shadows: a second model's jobs beside the first's, and how their results compare.

`jobs` calls `follow` when a result is accepted; ``pipeline/shadow.py`` compares what is due; views,
metrics and ``osteon shadow`` read. A shadow is a job like any other, but for these: it has no
destination, its class is behind all others, and at most `OPEN_MAX` of them are unfinished.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osteon.config.settings import Priority
from osteon.pipeline.job import Stage, State
from osteon.pipeline.table.connection import Row, Table

PRIORITY = len(Priority)  # Behind the last class: it runs only when nothing else waits.
OPEN_MAX = 1000  # What a slow shadow cannot keep pace with is left out; a sample judges it as well.


@dataclass(frozen=True)
class Compared:
    """How a shadow's result compares with the first's.

    Attributes
    ----------
    dice : float
        Of all that is segmented, 0 to 1.
    segments : mapping of str to float
        Segment Label → Dice, of every segment of either.
    """

    dice: float
    segments: Mapping[str, float]


def follow(table: Table, job: Row) -> None:
    """Go on from an accepted result, in its transaction: open its shadows, or have one compared."""
    if job["shadow_of"] is not None:
        _compare_anew(table, job)
        return
    table.change(
        "UPDATE comparison SET state = 'due', reason = '', dice = NULL, segments = '[]',"
        " updated = ? WHERE job_id IN (SELECT id FROM job WHERE shadow_of = ?)",
        (table.clock(), job["id"]),
    )
    for model in json.loads(job["shadow"]):
        if count_open(table) < OPEN_MAX:
            _open(table, job, model)


def count_open(table: Table) -> int:
    """Return how many shadows are not finished."""
    row = table.row(
        "SELECT count(*) AS n FROM job INDEXED BY job_shadow_open WHERE shadow_of IS NOT NULL"
        " AND state IN ('waiting', 'running', 'backoff')"
    )
    return 0 if row is None else int(row["n"])


def count_failed(table: Table) -> int:
    """Return how many shadows have failed; they are among the failed jobs of the counts."""
    row = table.row(
        "SELECT count(*) AS n FROM job INDEXED BY job_shadow_failed"
        " WHERE shadow_of IS NOT NULL AND state = 'failed'"
    )
    return 0 if row is None else int(row["n"])


def count_waiting(table: Table) -> int:
    """Return how many shadows wait for admission."""
    row = table.row(
        "SELECT count(*) AS n FROM job INDEXED BY job_shadow_open WHERE shadow_of IS NOT NULL"
        " AND state IN ('waiting', 'running', 'backoff') AND stage = 'admission'"
    )
    return 0 if row is None else int(row["n"])


def _open(table: Table, first: Row, model: str) -> None:
    """Create the job of a shadow, unless there is one from an earlier run of the same input."""
    now = table.clock()
    reason = f"runs beside job {first['id']}: waits for the throttler"
    changed = table.change(
        "INSERT INTO job (series_id, route, model, calling_ae_title, priority, stage, state,"
        " reason, input_sha256, cost, input_bytes, shadow_of, created, updated)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            first["series_id"],
            f"{first['route']} shadow {model}",  # No route of the configuration has a space.
            model,
            first["calling_ae_title"],
            PRIORITY,
            Stage.ADMISSION,
            State.WAITING,
            reason,
            first["input_sha256"],
            first["cost"],
            first["input_bytes"],
            first["id"],
            now,
            now,
        ),
    )
    if changed:
        table.insert(
            "INSERT INTO transition (at, series_id, job_id, event, to_stage, to_state, who, why)"
            " SELECT ?, series_id, id, 'create', stage, state, 'observer', reason FROM job"
            " WHERE shadow_of = ? AND model = ?",
            (now, first["id"], model),
        )


def _compare_anew(table: Table, job: Row) -> None:
    table.change(
        "INSERT INTO comparison (job_id, route, model, first_model, state, updated)"
        " SELECT ?, route, ?, model, 'due', ? FROM job WHERE id = ?"
        " ON CONFLICT (job_id) DO UPDATE SET state = 'due', reason = '', dice = NULL,"
        " segments = '[]', updated = excluded.updated",
        (job["id"], job["model"], table.clock(), job["shadow_of"]),
    )


def next_due(table: Table) -> Row | None:
    """Return the oldest comparison that is due, with the paths of both results, or None."""
    return table.row(
        "SELECT comparison.*, first.path AS first_path, own.path AS own_path FROM comparison"
        " JOIN job ON job.id = comparison.job_id"
        " JOIN result AS own ON own.job_id = job.id AND own.kind = 'seg'"
        " JOIN result AS first ON first.job_id = job.shadow_of AND first.kind = 'seg'"
        " WHERE comparison.state = 'due' ORDER BY comparison.id LIMIT 1"
    )


def record(table: Table, comparison: Row, compared: Compared) -> None:
    """Keep how a shadow's result compares, with the volumes of both."""
    row = table.row(
        "SELECT job.segments AS own, first.segments AS first FROM job"
        " JOIN job AS first ON first.id = job.shadow_of WHERE job.id = ?",
        (comparison["job_id"],),
    )
    if row is None:
        return  # It was purged meanwhile.
    own_ml, first_ml = _volumes_ml(row["own"]), _volumes_ml(row["first"])
    segments = [
        {
            "label": label,
            "dice": round(dice, 6),
            "volume_ml": own_ml.get(label, 0.0),
            "first_volume_ml": first_ml.get(label, 0.0),
        }
        for label, dice in compared.segments.items()
    ]
    _settle(table, comparison, "compared", "", compared.dice, segments)


def record_failure(table: Table, comparison: Row, why: str) -> None:
    """Keep why two results could not be compared; the jobs are not touched by it."""
    _settle(table, comparison, "failed", why, None, ())


def _settle(
    table: Table,
    comparison: Row,
    state: str,
    why: str,
    dice: float | None,
    segments: Sequence[Mapping[str, Any]],
) -> None:
    with table.write():
        table.change(
            "UPDATE comparison SET state = ?, reason = ?, dice = ?, segments = ?, updated = ?"
            " WHERE id = ? AND state = 'due' AND updated = ?",
            (
                state,
                why,
                dice,
                json.dumps(segments),
                table.clock(),
                comparison["id"],
                comparison["updated"],
            ),
        )


def _volumes_ml(segments: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for segment in json.loads(segments):
        found[segment["label"]] = found.get(segment["label"], 0.0) + segment["volume_ml"]
    return found


def of_job(table: Table, job_id: int) -> list[Row]:
    """Return the shadows of a job, each with its comparison where there is one."""
    return table.rows(
        "SELECT job.*, comparison.state AS compared, comparison.dice,"
        " comparison.segments AS compared_segments, comparison.reason AS compared_reason"
        " FROM job LEFT JOIN comparison ON comparison.job_id = job.id"
        " WHERE shadow_of = ? ORDER BY job.id",
        (job_id,),
    )


def summaries(table: Table) -> list[Row]:
    """Return, of every pair of a shadow and a first model, how its comparisons came out."""
    return table.rows(
        "SELECT model, first_model, count(*) AS n, avg(dice) AS mean_dice, min(dice) AS min_dice"
        " FROM comparison WHERE state = 'compared' GROUP BY model, first_model"
        " ORDER BY model, first_model"
    )


def worst(table: Table, model: str, first_model: str, limit: int) -> list[Row]:
    """Return the comparisons of a pair that agree least; no series where it was purged."""
    return table.rows(
        "SELECT comparison.*, job.shadow_of, series.series_instance_uid, series.accession_number"
        " FROM comparison LEFT JOIN job ON job.id = comparison.job_id"
        " LEFT JOIN series ON series.id = job.series_id WHERE comparison.state = 'compared'"
        " AND comparison.model = ? AND first_model = ? ORDER BY dice LIMIT ?",
        (model, first_model, limit),
    )
