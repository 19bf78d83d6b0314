"""Rows of deliveries: one for every result and destination, until it is proven or given up.

Called by the delivery loop; the same rule as for jobs holds: every UPDATE names what it leaves.
"""

from osteon.errors import StaleTransition
from osteon.pipeline.table.connection import Row, Table

TRANSITIONS: dict[tuple[str, str], str] = {
    ("waiting", "claim"): "sending",
    ("sending", "deliver"): "delivered",
    ("sending", "retry"): "waiting",
    ("sending", "refuse"): "refused",
    ("sending", "give_up"): "given_up",
    ("sending", "recover"): "waiting",
    ("waiting", "cancel"): "cancelled",
}
FINAL = frozenset({"delivered", "refused", "given_up", "cancelled"})


def due(table: Table, limit: int) -> list[Row]:
    """Return the deliveries that may be tried now, with their file and job."""
    return table.rows(
        "SELECT delivery.*, result.path, result.sop_instance_uid, result.job_id FROM delivery"
        " JOIN result ON result.id = delivery.result_id"
        " WHERE delivery.state = 'waiting' AND not_before <= ? ORDER BY not_before LIMIT ?",
        (table.clock(), limit),
    )


def next_due(table: Table) -> float | None:
    """Return when the next delivery may be tried, in seconds since 1970."""
    row = table.row("SELECT min(not_before) AS at FROM delivery WHERE state = 'waiting'")
    return None if row is None or row["at"] is None else float(row["at"])


def of_job(table: Table, job_id: int) -> list[Row]:
    """Return the deliveries of a job's results."""
    return table.rows(
        "SELECT delivery.* FROM delivery JOIN result ON result.id = delivery.result_id"
        " WHERE result.job_id = ? ORDER BY delivery.id",
        (job_id,),
    )


def claim(table: Table, delivery: Row) -> None:
    """Start one attempt."""
    with table.write():
        _move(table, delivery, "claim", "")
        table.change("UPDATE delivery SET attempts = attempts + 1 WHERE id = ?", (delivery["id"],))


def deliver(table: Table, delivery: Row, why: str) -> None:
    """Record that the destination has the result."""
    _move(table, delivery, "deliver", why, leaves="sending")


def retry(table: Table, delivery: Row, not_before: float, why: str) -> None:
    """Record a failed attempt and when the next one is due."""
    with table.write():
        _move(table, delivery, "retry", why, leaves="sending")
        table.change(
            "UPDATE delivery SET not_before = ? WHERE id = ?", (not_before, delivery["id"])
        )


def rest(table: Table, delivery: Row, not_before: float, why: str) -> None:
    """Put a delivery off without an attempt, because its destination rests."""
    table.change(
        "UPDATE delivery SET not_before = ?, reason = ? WHERE id = ? AND state = 'waiting'",
        (not_before, why, delivery["id"]),
    )


def refuse(table: Table, delivery: Row, why: str) -> None:
    """Record that the destination refused the result for good."""
    _move(table, delivery, "refuse", why, leaves="sending")


def give_up(table: Table, delivery: Row, why: str) -> None:
    """Record that the result could not be sent for as long as is configured."""
    _move(table, delivery, "give_up", why, leaves="sending")


def recover(table: Table) -> int:
    """Take back, at start, every delivery that a killed process was sending."""
    with table.write():
        return table.change(
            "UPDATE delivery SET state = 'waiting', not_before = ?, updated = ?,"
            " reason = 'the node stopped while sending' WHERE state = 'sending'",
            (table.clock(), table.clock()),
        )


def _move(table: Table, delivery: Row, event: str, why: str, *, leaves: str = "waiting") -> None:
    with table.write():
        changed = table.change(
            "UPDATE delivery SET state = ?, reason = ?, updated = ? WHERE id = ? AND state = ?",
            (TRANSITIONS[leaves, event], why, table.clock(), delivery["id"], leaves),
        )
        if changed != 1:
            raise StaleTransition(f"delivery {delivery['id']} is no longer {leaves}")
