"""Rows of storage commitment: one for every transaction, until its report is heard or given up.

Called by ``osteon.pipeline.commitment``. The same rule as for jobs holds: every UPDATE names what
it leaves. While a report is made and sent its row is put off, so that a killed process leaves
nothing to be taken back.
"""

from dataclasses import dataclass

from osteon.errors import OutOfResourcesError, StaleTransition
from osteon.pipeline.table.connection import Row, Table

TRANSITIONS: dict[tuple[str, str], str] = {
    ("waiting", "claim"): "waiting",
    ("waiting", "retry"): "waiting",
    ("waiting", "report"): "reported",
    ("waiting", "give_up"): "given_up",
}
KEPT_S = 7 * 86400.0  # How long what is over stays on record.


@dataclass(frozen=True)
class Transaction:
    """What a peer asks for; ``refs`` is JSON, a list of pairs of SOP Class and Instance UID."""

    transaction_uid: str
    ae_title: str
    address: str
    called_ae_title: str
    refs: str
    instances: int


def accept(
    table: Table, asked: Transaction, *, not_before: float, waiting_max: int, instances_max: int
) -> int:
    """Record a transaction and return its id.

    The same one asked for again, because the answer was lost, is the same row. A transaction UID
    that is in use for something else makes a row whose report says so.

    Parameters
    ----------
    not_before : float
        When its report is due unless it could be sent on the association it came by.
    waiting_max, instances_max : int
        How many transactions, and instances in all of them, may wait.

    Raises
    ------
    OutOfResourcesError
        More may not wait, or the disk is full.
    """
    now = table.clock()
    with table.write():
        table.change(
            "DELETE FROM commitment WHERE state <> 'waiting' AND updated < ?", (now - KEPT_S,)
        )
        in_use = table.rows(
            "SELECT id, refs FROM commitment WHERE transaction_uid = ? AND ae_title = ?"
            " AND state = 'waiting' AND duplicate = 0",
            (asked.transaction_uid, asked.ae_title),
        )
        same = [row["id"] for row in in_use if row["refs"] == asked.refs]
        if same:
            table.change(
                "UPDATE commitment SET address = ?, called_ae_title = ?, not_before = ?,"
                " created = ?, updated = ? WHERE id = ?",
                (asked.address, asked.called_ae_title, not_before, now, now, same[0]),
            )
            return int(same[0])
        waiting = table.rows(
            "SELECT count(*) AS n, coalesce(sum(instances), 0) AS instances FROM commitment"
            " WHERE state = 'waiting'"
        )[0]
        if waiting["n"] >= waiting_max or waiting["instances"] + asked.instances > instances_max:
            raise OutOfResourcesError(
                f"{waiting['n']} requests of storage commitment for {waiting['instances']}"
                " instances are waiting"
            )
        return table.insert(
            "INSERT INTO commitment (transaction_uid, ae_title, address, called_ae_title, refs,"
            " instances, duplicate, state, not_before, created, updated)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?, ?)",
            (
                asked.transaction_uid,
                asked.ae_title,
                asked.address,
                asked.called_ae_title,
                asked.refs,
                asked.instances,
                bool(in_use),
                not_before,
                now,
                now,
            ),
        )


def get(table: Table, commitment_id: int) -> Row | None:
    """Return a transaction that waits for its report, or None."""
    return table.row(
        "SELECT * FROM commitment WHERE id = ? AND state = 'waiting'", (commitment_id,)
    )


def due(table: Table) -> Row | None:
    """Return the transaction whose report is due first, or None."""
    return table.row(
        "SELECT * FROM commitment WHERE state = 'waiting' AND not_before <= ?"
        " ORDER BY not_before LIMIT 1",
        (table.clock(),),
    )


def next_due(table: Table) -> float | None:
    """Return when the next report is due, in seconds since 1970."""
    at = table.rows("SELECT min(not_before) AS at FROM commitment WHERE state = 'waiting'")[0]["at"]
    return None if at is None else float(at)


def claim(table: Table, row: Row, until: float) -> None:
    """Begin one attempt to report; nobody else begins one until then."""
    with table.write():
        _move(table, row, "claim", row["reason"], until)
        table.change("UPDATE commitment SET attempts = attempts + 1 WHERE id = ?", (row["id"],))


def retry(table: Table, row: Row, not_before: float, why: str) -> None:
    """Record an attempt that failed, and put off whatever is due at the same requester."""
    with table.write():
        _move(table, row, "retry", why, not_before)
        table.change(
            "UPDATE commitment SET not_before = ?, reason = ? WHERE state = 'waiting'"
            " AND not_before < ? AND ae_title = ? AND address = ?",
            (not_before, why, not_before, row["ae_title"], row["address"]),
        )


def report(table: Table, row: Row, why: str) -> None:
    """Record that the requester has heard the report."""
    _move(table, row, "report", why, row["not_before"])


def give_up(table: Table, row: Row, why: str) -> None:
    """Record that the requester could not be told."""
    _move(table, row, "give_up", why, row["not_before"])


def hasten(table: Table, commitment_id: int | None = None) -> None:
    """Let the report of one transaction, or of all, be due now."""
    with table.write():
        table.change(
            "UPDATE commitment SET not_before = :now WHERE state = 'waiting'"
            " AND (:id IS NULL OR id = :id)",
            {"now": table.clock(), "id": commitment_id},
        )


def newest_content(table: Table, sop_instance_uid: str) -> Row | None:
    """Return what is on record of an instance, of several contents the newest, or None."""
    return table.row(
        "SELECT sop_class_uid, path, size, digest FROM instance WHERE sop_instance_uid = ?"
        " ORDER BY id DESC LIMIT 1",
        (sop_instance_uid,),
    )


def _move(table: Table, row: Row, event: str, why: str, not_before: float) -> None:
    with table.write():
        changed = table.change(
            "UPDATE commitment SET state = ?, reason = ?, updated = ?, not_before = ?"
            " WHERE id = ? AND state = 'waiting'",
            (TRANSITIONS["waiting", event], why, table.clock(), not_before, row["id"]),
        )
        if changed != 1:
            raise StaleTransition(f"commitment {row['id']} waits no longer")
