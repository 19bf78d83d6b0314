"""Rows of what is over and old enough to go; called by `osteon.pipeline.purge`."""

from dataclasses import dataclass

from osteon.pipeline.table.connection import Table

# All generations of a series go together, since they share instances.
_OVER = (
    " FROM series AS one WHERE {which} GROUP BY series_instance_uid"
    " HAVING max(state = 'receiving') = 0 AND max(last) < :before"
    " AND NOT EXISTS (SELECT 1 FROM series JOIN job ON job.series_id = series.id"
    " WHERE series.series_instance_uid = one.series_instance_uid"
    " AND (job.state IN ('waiting', 'running', 'backoff') OR job.updated >= :before))"
    " AND NOT EXISTS (SELECT 1 FROM series JOIN job ON job.series_id = series.id"
    " JOIN result ON result.job_id = job.id JOIN delivery ON delivery.result_id = result.id"
    " WHERE series.series_instance_uid = one.series_instance_uid"
    " AND (delivery.state IN ('waiting', 'sending') OR delivery.updated >= :before))"
)

# In the order that the foreign keys want.
_FORGET = (
    "DELETE FROM delivery WHERE result_id IN (SELECT id FROM result WHERE job_id IN"
    " (SELECT job.id FROM job JOIN series ON series.id = job.series_id"
    " WHERE series_instance_uid = :uid))",
    "DELETE FROM result WHERE job_id IN (SELECT job.id FROM job"
    " JOIN series ON series.id = job.series_id WHERE series_instance_uid = :uid)",
    "DELETE FROM output WHERE job_id IN (SELECT job.id FROM job"
    " JOIN series ON series.id = job.series_id WHERE series_instance_uid = :uid)",
    "DELETE FROM transition WHERE series_id IN"
    " (SELECT id FROM series WHERE series_instance_uid = :uid)",
    "DELETE FROM job WHERE series_id IN (SELECT id FROM series WHERE series_instance_uid = :uid)",
    "DELETE FROM instance WHERE series_instance_uid = :uid",
    "DELETE FROM series WHERE series_instance_uid = :uid",
)


@dataclass(frozen=True)
class Holding:
    """What a series has on the disk: files under the data directory, their bytes, its jobs."""

    paths: tuple[str, ...]
    size: int
    job_ids: tuple[int, ...]


def over(table: Table, before: float) -> list[str]:
    """Return the series of which nothing has happened or is to happen since a time.

    Parameters
    ----------
    before : float
        Seconds since 1970.
    """
    rows = table.rows(
        f"SELECT series_instance_uid AS uid{_OVER.format(which='true')} ORDER BY min(id)",
        {"before": before},
    )
    return [row["uid"] for row in rows]


def is_over(table: Table, series_instance_uid: str, before: float) -> bool:
    """Return whether that still holds of one series."""
    rows = table.rows(
        f"SELECT 1{_OVER.format(which='series_instance_uid = :uid')}",
        {"before": before, "uid": series_instance_uid},
    )
    return bool(rows)


def holding_of(table: Table, series_instance_uid: str) -> Holding:
    """Return what a series has on the disk."""
    uid = {"uid": series_instance_uid}
    files = table.rows(
        "SELECT path, size FROM instance WHERE series_instance_uid = :uid"
        " UNION ALL SELECT path, size FROM result WHERE job_id IN (SELECT job.id FROM job"
        " JOIN series ON series.id = job.series_id WHERE series_instance_uid = :uid)",
        uid,
    )
    jobs = table.rows(
        "SELECT job.id FROM job JOIN series ON series.id = job.series_id"
        " WHERE series_instance_uid = :uid",
        uid,
    )
    return Holding(
        paths=tuple(row["path"] for row in files),
        size=sum(int(row["size"]) for row in files),
        job_ids=tuple(int(row["id"]) for row in jobs),
    )


def forget(table: Table, series_instance_uid: str) -> None:
    """Remove every row of a series, and the associations of which nothing is left."""
    uid = {"uid": series_instance_uid}
    with table.write():
        came_by = table.rows(
            "SELECT DISTINCT association_id AS id FROM instance"
            " WHERE series_instance_uid = :uid AND association_id IS NOT NULL",
            uid,
        )
        for statement in _FORGET:
            table.change(statement, uid)
        for row in came_by:
            table.change(
                "DELETE FROM association WHERE id = :id AND closed IS NOT NULL"
                " AND NOT EXISTS (SELECT 1 FROM instance WHERE association_id = :id)",
                {"id": row["id"]},
            )
