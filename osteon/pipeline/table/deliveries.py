"""Rows of deliveries: one for every result and destination, until it is proven or given up.

Called by the delivery loop; the same rule as for jobs holds: every UPDATE names what it leaves.
"""

from collections.abc import Collection

from osteon.errors import StaleTransition
from osteon.pipeline.job import State
from osteon.pipeline.table.connection import Row, Table

TRANSITIONS: dict[tuple[str, str], str] = {
    ("waiting", "claim"): "sending",
    ("sending", "deliver"): "delivered",
    ("sending", "retry"): "waiting",
    ("sending", "refuse"): "refused",
    ("sending", "give_up"): "given_up",
    ("sending", "recover"): "waiting",
    ("sending", "cancel"): "cancelled",
    ("waiting", "cancel"): "cancelled",
}
STATES = ("waiting", "sending", "delivered", "refused", "given_up", "cancelled")
UNWANTED = (State.CANCELLED, State.SUPERSEDED)  # A job may become so while its result is sent.


def due(table: Table) -> list[Row]:
    """Return, for every destination, the delivery that is due first, with its file and job.

    Of several that are due at once it is the one that was tried least, so that a result which a
    destination cannot take does not hold up the others.
    """
    found = []
    for destination in _destinations(table):
        row = table.row(
            "SELECT delivery.*, result.path, result.sop_instance_uid, result.job_id FROM delivery"
            " JOIN result ON result.id = delivery.result_id WHERE delivery.state = 'waiting'"
            " AND destination = ? AND not_before <= ? ORDER BY not_before, attempts LIMIT 1",
            (destination, table.clock()),
        )
        if row is not None:
            found.append(row)
    return found


def next_due(table: Table, busy: Collection[str] = ()) -> float | None:
    """Return when the next delivery may be tried, in seconds since 1970.

    Parameters
    ----------
    busy : collection of str
        Destinations that are being sent to: the end of that is waited for, not a time.
    """
    times = [
        table.rows(
            "SELECT min(not_before) AS at FROM delivery WHERE state = 'waiting'"
            " AND destination = ?",
            (destination,),
        )[0]["at"]
        for destination in _destinations(table)
        if destination not in busy
    ]
    return min((float(at) for at in times if at is not None), default=None)


def bring_forward(table: Table, wait_s_max: float) -> int:
    """End every wait that would last longer than any may: the clock was set back since."""
    now = table.clock()
    return table.change(
        "UPDATE delivery SET not_before = ? WHERE state = 'waiting' AND not_before > ?",
        (now, now + wait_s_max),
    )


def of_job(table: Table, job_id: int) -> list[Row]:
    """Return the deliveries of a job's results; those of earlier runs are marked as such."""
    return table.rows(
        "SELECT delivery.* FROM delivery JOIN result ON result.id = delivery.result_id"
        " WHERE result.job_id = ? ORDER BY delivery.id",
        (job_id,),
    )


def outdate(table: Table, job_id: int) -> None:
    """Mark what was delivered of a job as of an earlier run: it is about to run again."""
    table.change(
        "UPDATE delivery SET earlier = 1 WHERE result_id IN"
        " (SELECT id FROM result WHERE job_id = ?)",
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
    """Record a failed attempt and when the next one is due.

    There is none where the job was cancelled or superseded while the result was being sent.
    """
    with table.write():
        job = table.row("SELECT state FROM job WHERE id = ?", (delivery["job_id"],))
        unwanted = job is None or job["state"] in UNWANTED
        event = "cancel" if unwanted else "retry"
        _move(table, delivery, event, why, leaves="sending")
        table.change(
            "UPDATE delivery SET not_before = ? WHERE id = ?", (not_before, delivery["id"])
        )


def rest(table: Table, destination: str, until: float, why: str) -> None:
    """Put off, without an attempt, whatever is due at a destination before a time."""
    with table.write():
        table.change(
            "UPDATE delivery SET not_before = ?, reason = ? WHERE destination = ?"
            " AND state = 'waiting' AND not_before < ?",
            (until, why, destination, until),
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
            "UPDATE delivery SET not_before = :now, updated = :now,"
            " reason = 'the node stopped while sending', state = iif("
            "(SELECT job.state FROM result JOIN job ON job.id = result.job_id"
            " WHERE result.id = delivery.result_id) IN (:cancelled, :superseded),"
            " 'cancelled', 'waiting') WHERE state = 'sending'",
            {"now": table.clock(), "cancelled": UNWANTED[0], "superseded": UNWANTED[1]},
        )


def _destinations(table: Table) -> list[str]:
    """Destinations that something waits for, found by jumping through the index."""
    rows = table.rows(
        "WITH RECURSIVE line (name) AS (SELECT min(destination) FROM delivery"
        " WHERE state = 'waiting' UNION ALL SELECT (SELECT min(destination) FROM delivery"
        " WHERE state = 'waiting' AND destination > line.name) FROM line"
        " WHERE line.name IS NOT NULL) SELECT name FROM line WHERE name IS NOT NULL"
    )
    return [row["name"] for row in rows]


def _move(table: Table, delivery: Row, event: str, why: str, *, leaves: str = "waiting") -> None:
    with table.write():
        changed = table.change(
            "UPDATE delivery SET state = ?, reason = ?, updated = ? WHERE id = ? AND state = ?",
            (TRANSITIONS[leaves, event], why, table.clock(), delivery["id"], leaves),
        )
        if changed != 1:
            raise StaleTransition(f"delivery {delivery['id']} is no longer {leaves}")
