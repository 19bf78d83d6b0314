"""Rows of who could be heard: since when the receiver listens, and how associations ended.

The ``receive`` role writes them; admission reads them for every series whose quiet time is over.
"""

from osteon.pipeline.table.connection import Row, Table


def newest_association(table: Table) -> int:
    """Return the id of the newest association, or 0: a new receiver asks before it listens."""
    row = table.row("SELECT max(id) AS id FROM association")
    return 0 if row is None or row["id"] is None else int(row["id"])


def begin_listening(table: Table, at: float, newest: int, outcome: str) -> int:
    """Record that a receiver listens, and close the associations that a killed one left open.

    Parameters
    ----------
    at : float
        Since when it listens, in seconds since 1970.
    newest : int
        The newest association of before; what opened since is the new receiver's own.
    outcome : str
        How those left open ended.

    Returns
    -------
    int
        How many these were.
    """
    with table.write():
        table.change(
            "INSERT INTO receiver (id, listening) VALUES (1, ?)"
            " ON CONFLICT DO UPDATE SET listening = excluded.listening",
            (at,),
        )
        return table.change(
            "UPDATE association SET closed = ?, outcome = ?, cut = 1"
            " WHERE closed IS NULL AND id <= ?",
            (at, outcome, newest),
        )


def end_listening(table: Table) -> None:
    """Record that the receiver was stopped in good order: nobody need wait for it."""
    with table.write():
        table.change("UPDATE receiver SET listening = NULL")


def listening_since(table: Table) -> float | None:
    """Return since when the receiver listens, or did until it was killed.

    None where none ever has, or the last one was stopped in good order.
    """
    row = table.row("SELECT listening FROM receiver")
    return None if row is None or row["listening"] is None else float(row["listening"])


def left_open(table: Table, calling: str, called: str) -> int | None:
    """Return the newest open association between two AE titles, or None.

    A draft that a killed receiver has left came over it.
    """
    row = table.row(
        "SELECT max(id) AS id FROM association INDEXED BY association_open WHERE closed IS NULL"
        " AND calling_ae_title = ? AND called_ae_title = ?",
        (calling, called),
    )
    return None if row is None or row["id"] is None else int(row["id"])


def decisive_association(table: Table, series: Row) -> Row | None:
    """Return the association that says most of whether more of a series generation is to come.

    That is one that was cut off, or is open, and after which no other has begun to bring slices:
    whoever sends again has come back. Else it is any of them; None where all came by HTTP.

    Returns
    -------
    Row or None
        The association with ``unfinished``, whether it is one of the former, and ``is_back``,
        whether its sender has opened another since that is still open. What comes over that one
        may be held already, and then it says nothing of itself.
    """
    return table.row(
        "WITH came AS (SELECT * FROM association WHERE id IN (SELECT association_id FROM instance"
        " WHERE series_instance_uid = ? AND generation = ?))"
        " SELECT *, (closed IS NULL OR cut = 1) AND NOT EXISTS (SELECT 1 FROM came AS later"
        " WHERE later.id > came.id AND later.opened >= came.closed) AS unfinished,"
        " EXISTS (SELECT 1 FROM association AS other INDEXED BY association_open"
        " WHERE other.closed IS NULL AND other.id > came.id AND other.opened >= came.closed"
        " AND other.calling_ae_title = came.calling_ae_title"
        " AND other.address = came.address) AS is_back"
        " FROM came ORDER BY unfinished DESC, cut DESC, closed IS NULL DESC, closed DESC LIMIT 1",
        (series["series_instance_uid"], series["generation"]),
    )


def bring_forward(table: Table) -> int:
    """Let what ended or began in the future have done so now: the clock was set back since.

    Returns
    -------
    int
        How many associations would have kept their series waiting.
    """
    now = table.clock()
    table.change("UPDATE receiver SET listening = ? WHERE listening > ?", (now, now))
    return table.change(
        "UPDATE association SET closed = ? WHERE cut = 1 AND closed > ?", (now, now)
    )
