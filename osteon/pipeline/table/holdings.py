"""What the rows say is on the disk and at the destinations; read by ``osteon verify`` alone."""

from collections.abc import Iterator

from osteon.pipeline.table.connection import Row, Table

_PAGE = 1000


def series_uids(table: Table) -> Iterator[str]:
    """Yield every Series Instance UID of which instances are held."""
    last = ""
    while True:
        page = table.rows(
            "SELECT DISTINCT series_instance_uid AS uid FROM instance WHERE series_instance_uid > ?"
            " ORDER BY series_instance_uid LIMIT ?",
            (last, _PAGE),
        )
        if not page:
            return
        yield from (row["uid"] for row in page)
        last = page[-1]["uid"]


def instances_of(table: Table, series_instance_uid: str) -> list[Row]:
    """Return the instances of a series, those included that a newer content has replaced."""
    return table.rows(
        "SELECT id, path, size, digest FROM instance WHERE series_instance_uid = ?",
        (series_instance_uid,),
    )


def results(table: Table) -> Iterator[Row]:
    """Yield every result."""
    last = 0
    while True:
        page = table.rows(
            "SELECT id, path, size, sha256 AS digest FROM result WHERE id > ? ORDER BY id LIMIT ?",
            (last, _PAGE),
        )
        if not page:
            return
        yield from page
        last = page[-1]["id"]


def delivered(table: Table) -> Iterator[Row]:
    """Yield every proven delivery with the UIDs by which its destination can be asked.

    Of a run before the present one the UIDs are not on record any more.
    """
    last = 0
    while True:
        page = table.rows(
            "SELECT delivery.id, delivery.destination, result.path, result.sop_instance_uid,"
            " result.series_instance_uid, series.study_instance_uid FROM delivery"
            " JOIN result ON result.id = delivery.result_id JOIN job ON job.id = result.job_id"
            " JOIN series ON series.id = job.series_id"
            " WHERE delivery.state = 'delivered' AND NOT earlier AND delivery.id > ?"
            " ORDER BY delivery.id LIMIT ?",
            (last, _PAGE),
        )
        if not page:
            return
        yield from page
        last = page[-1]["id"]


def is_held(table: Table, kind: str, row_id: int) -> bool:
    """Return whether a row of ``instance`` or ``result`` is still there; it may be purged now."""
    statement = {
        "instance": "SELECT 1 FROM instance WHERE id = ?",
        "result": "SELECT 1 FROM result WHERE id = ?",
    }[kind]
    return table.row(statement, (row_id,)) is not None
