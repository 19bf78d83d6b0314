"""Rows of the throttler's clocks: how far each source has been served within each class.

Read and written by admission, in the transaction that lets a job in; see ``throttler.py``.
"""

from osteon.pipeline.table.connection import Row, Table


def began(table: Table, priority: int) -> float:
    """Return the present time of a class: where the job that was admitted last began, in voxels."""
    row = table.row("SELECT max(began) AS at FROM share WHERE priority = ?", (priority,))
    return 0.0 if row is None or row["at"] is None else float(row["at"])


def served(table: Table, priority: int) -> list[Row]:
    """Return the sources of a class that are ahead of its present time, and how far."""
    return table.rows("SELECT calling_ae_title, served FROM share WHERE priority = ?", (priority,))


def advance(table: Table, priority: int, source: str, start: float, end: float) -> None:
    """Record where a source's job began and where its next one begins.

    Sources that the class has caught up with are forgotten: they would begin now in any case.

    Parameters
    ----------
    start, end : float
        On the clock of the class, in voxels for a weight of 1; see ``throttler.py``.
    """
    with table.write():
        table.change(
            "INSERT INTO share (priority, calling_ae_title, began, served) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET began = excluded.began, served = excluded.served",
            (priority, source, start, end),
        )
        table.change(
            "DELETE FROM share WHERE priority = ? AND served <= ? AND calling_ae_title <> ?",
            (priority, start, source),
        )
