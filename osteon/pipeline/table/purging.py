"""Rows of what is over and old enough to go; called by `osteon.pipeline.purge`."""

from collections.abc import Iterator
from dataclasses import dataclass

from osteon.pipeline.table.connection import Row, Table

_PAGE = 1000
EMPTY_ASSOCIATIONS_MAX = 100_000  # Of those that stored nothing; about 20 MB of rows.
# All generations of a series go together, since they share instances.
_OVER = (
    " FROM series AS one WHERE series_instance_uid = :uid GROUP BY series_instance_uid"
    " HAVING max(state = 'receiving') = 0 AND max(last) < :before"
    " AND NOT EXISTS (SELECT 1 FROM series JOIN job ON job.series_id = series.id"
    " WHERE series.series_instance_uid = one.series_instance_uid"
    " AND (job.state IN ('waiting', 'running', 'backoff') OR job.updated >= :before))"
    " AND NOT EXISTS (SELECT 1 FROM series JOIN job ON job.series_id = series.id"
    " JOIN result ON result.job_id = job.id JOIN delivery ON delivery.result_id = result.id"
    " WHERE series.series_instance_uid = one.series_instance_uid"
    " AND (delivery.state IN ('waiting', 'sending') OR delivery.updated >= :before))"
)

# Nothing that is held came by it, as after C-ECHO alone; what it brought may have been purged.
_LEFT_NOTHING = (
    " closed IS NOT NULL AND NOT EXISTS (SELECT 1 FROM instance WHERE association_id = one.id)"
    " AND NOT EXISTS (SELECT 1 FROM duplicate WHERE association_id = one.id)"
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
    "DELETE FROM duplicate WHERE series_instance_uid = :uid",
    "DELETE FROM series WHERE series_instance_uid = :uid",
)


@dataclass(frozen=True)
class Holding:
    """What a series has on the disk: files under the data directory, their bytes, its jobs."""

    paths: tuple[str, ...]
    size: int
    job_ids: tuple[int, ...]


def over(table: Table, before: float) -> Iterator[str]:
    """Yield the series of which nothing has happened or is to happen since a time, oldest first.

    Parameters
    ----------
    before : float
        Seconds since 1970.
    """
    last, last_id = 0.0, 0
    while True:
        page = table.rows(
            "SELECT id, last, series_instance_uid AS uid FROM series INDEXED BY series_over"
            " WHERE state = 'complete' AND last < ? AND (last, id) > (?, ?)"
            " ORDER BY last, id LIMIT ?",
            (before, last, last_id, _PAGE),
        )
        if not page:
            return
        last, last_id = page[-1]["last"], page[-1]["id"]
        for row in page:
            if _is_newest(table, row) and is_over(table, row["uid"], before):
                yield row["uid"]


def _is_newest(table: Table, row: Row) -> bool:
    """Return whether a series has no later generation, with which it is looked at."""
    newest = table.row(
        "SELECT id FROM series WHERE series_instance_uid = ? ORDER BY generation DESC LIMIT 1",
        (row["uid"],),
    )
    return newest is not None and newest["id"] == row["id"]


def is_over(table: Table, series_instance_uid: str, before: float) -> bool:
    """Return whether that still holds of one series."""
    rows = table.rows(
        f"SELECT 1{_OVER}",
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
            " WHERE series_instance_uid = :uid AND association_id IS NOT NULL"
            " UNION SELECT association_id FROM duplicate WHERE series_instance_uid = :uid",
            uid,
        )
        for statement in _FORGET:
            table.change(statement, uid)
        for row in came_by:
            table.change(
                f"DELETE FROM association AS one WHERE id = ? AND{_LEFT_NOTHING}",  # noqa: S608
                (row["id"],),
            )


def count_empty(table: Table, before: float) -> int:
    """Return how many associations are over since a time, and nothing held came by them.

    Parameters
    ----------
    before : float
        Seconds since 1970.
    """
    row = table.row(
        f"SELECT count(*) AS n FROM association AS one WHERE opened < :before"  # noqa: S608
        f" AND closed < :before AND{_LEFT_NOTHING}",
        {"before": before},
    )
    return 0 if row is None else int(row["n"])


def forget_empty(table: Table, before: float) -> int:
    """Remove these associations, and return how many they were.

    They go a thousand at a time, so that the receiver never waits for long.
    """
    gone = 0
    while True:
        with table.write():
            page = table.change(
                "DELETE FROM association WHERE id IN (SELECT id FROM association AS one"  # noqa: S608
                f" WHERE opened < :before AND closed < :before AND{_LEFT_NOTHING} LIMIT :page)",
                {"before": before, "page": _PAGE},
            )
        gone += page
        if page < _PAGE:
            return gone


def bound_empty(table: Table) -> int:
    """Remove the oldest associations that stored nothing where there are too many.

    At most a thousand go at once; who calls it every minute keeps up with 16 a second.

    Returns
    -------
    int
        How many went.
    """
    excess = table.rows(
        "SELECT closed FROM association INDEXED BY association_empty WHERE stored = 0"
        " ORDER BY closed DESC LIMIT 1 OFFSET ?",
        (EMPTY_ASSOCIATIONS_MAX,),
    )
    if not excess:
        return 0
    with table.write():
        return table.change(
            "DELETE FROM association WHERE id IN (SELECT id FROM association AS one"  # noqa: S608
            " INDEXED BY association_empty WHERE stored = 0 AND closed <= :closed"
            f" AND{_LEFT_NOTHING} ORDER BY closed LIMIT :page)",
            {"closed": excess[0]["closed"], "page": _PAGE},
        )
