"""Rows of proof: storage commitment that destinations were asked for, and what they reported.

The work role asks and the receive role hears, since most destinations report on an association of
their own; they meet here.
"""

from osteon.pipeline.table.connection import Row, Table

KEPT_S = 30 * 86400.0  # A destination that reports later is not heard any more.


def ask(table: Table, transaction_uid: str, destination: str, sop_instance_uid: str) -> None:
    """Record that a destination is about to be asked whether it keeps an instance."""
    now = table.clock()
    with table.write():
        table.change("DELETE FROM proof WHERE asked < ?", (now - KEPT_S,))
        table.insert(
            "INSERT INTO proof (transaction_uid, destination, sop_instance_uid, asked)"
            " VALUES (?, ?, ?, ?)",
            (transaction_uid, destination, sop_instance_uid, now),
        )


def instance_asked_for(table: Table, transaction_uid: str) -> str | None:
    """Return the SOP Instance UID that a transaction is about, or None."""
    row = table.row(
        "SELECT sop_instance_uid FROM proof WHERE transaction_uid = ?", (transaction_uid,)
    )
    return None if row is None else str(row["sop_instance_uid"])


def hear(table: Table, transaction_uid: str, failure_reason: int | None) -> None:
    """Record what a destination has reported; what it reported first stays."""
    with table.write():
        table.change(
            "UPDATE proof SET heard = ?, failure_reason = ? WHERE transaction_uid = ?"
            " AND heard IS NULL",
            (table.clock(), failure_reason, transaction_uid),
        )


def heard(table: Table, transaction_uid: str) -> Row | None:
    """Return what was reported of a transaction, or None."""
    return table.row(
        "SELECT failure_reason FROM proof WHERE transaction_uid = ? AND heard IS NOT NULL",
        (transaction_uid,),
    )


def asked(table: Table, destination: str, sop_instance_uid: str, since: float) -> float | None:
    """Return when a destination was asked last, since a time, that has not reported yet.

    None where it was not asked, or has reported; times are in seconds since 1970.
    """
    row = table.row(
        "SELECT max(asked) AS at, heard FROM proof WHERE destination = ? AND sop_instance_uid = ?"
        " AND asked >= ?",
        (destination, sop_instance_uid, since),
    )
    return None if row is None or row["heard"] is not None else row["at"]


def is_committed(table: Table, destination: str, sop_instance_uid: str, since: float) -> bool:
    """Return whether a destination has promised to keep an instance since a time."""
    return (
        table.row(
            "SELECT 1 FROM proof WHERE destination = ? AND sop_instance_uid = ? AND heard >= ?"
            " AND failure_reason IS NULL",
            (destination, sop_instance_uid, since),
        )
        is not None
    )
