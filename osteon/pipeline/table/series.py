"""Rows of series: which one is due, what it holds, and the moment it is complete.

Called by the observer; a series row and its evidence leave, or the jobs it became enter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from osteon.errors import NotFoundError, StaleTransition
from osteon.pipeline.job import Event, Stage, State
from osteon.pipeline.table.connection import Row, Table

# A series has settled when it was quiet for four times the mean distance of its instances.
_SETTLED = (
    "SELECT * FROM series WHERE state = 'receiving'"
    " AND last + max(0.25, 4.0 * (last - first) / max(1, instances - 1)) <= ?"
    " ORDER BY last LIMIT ?"
)
_NEXT_SETTLED = (
    "SELECT min(at) AS at FROM (SELECT last + max(0.25, 4.0 * (last - first)"
    " / max(1, instances - 1)) AS at FROM series WHERE state = 'receiving') WHERE at > ?"
)


@dataclass(frozen=True)
class NewJob:
    """A job that a complete series becomes.

    Attributes
    ----------
    rejected : str or None
        Why no work follows; the job is then on record as rejected.
    destinations : str
        JSON list of destination names.
    cost, input_bytes : int
        Voxels and bytes of its input.
    shadow : str
        JSON list of the models that are to run beside it.
    """

    route: str
    model: str
    priority: int
    destinations: str
    input_sha256: str
    rejected: str | None = None
    cost: int = 1
    input_bytes: int = 0
    shadow: str = "[]"


def due(table: Table, limit: int = 100) -> list[Row]:
    """Return the receiving series whose quiet time is over, the longest quiet first."""
    return table.rows(
        "SELECT * FROM series WHERE state = 'receiving' AND due <= ? ORDER BY due LIMIT ?",
        (table.clock(), limit),
    )


def next_due(table: Table) -> float | None:
    """Return when the next receiving series is due, in seconds since 1970."""
    row = table.row("SELECT min(due) AS due FROM series WHERE state = 'receiving'")
    return None if row is None or row["due"] is None else float(row["due"])


def look_anew(table: Table) -> None:
    """Let every receiving series be due now: what they wait for may be at hand."""
    table.change("UPDATE series SET due = min(due, ?) WHERE state = 'receiving'", (table.clock(),))


def bring_forward(table: Table) -> int:
    """Let what arrived in the future have arrived now: the clock was set back since.

    Returns
    -------
    int
        How many series would have waited for the clock to get there again.
    """
    now = table.clock()
    return table.change(
        "UPDATE series SET due = ? + max(0, due - last), last = ?"
        " WHERE state = 'receiving' AND last > ?",
        (now, now, now),
    )


def input_of(table: Table, series: Row) -> list[Row]:
    """Return the instances of a series generation: of each SOP Instance UID the newest."""
    return table.rows(
        "SELECT *, max(id) AS newest FROM instance WHERE series_instance_uid = ?"
        " AND generation <= ? GROUP BY sop_instance_uid ORDER BY instance_number, id",
        (series["series_instance_uid"], series["generation"]),
    )


def of_study(table: Table, study_instance_uid: str) -> list[Row]:
    """Return the newest generation of every series of a study."""
    return table.rows(
        "SELECT *, max(generation) AS newest FROM series WHERE study_instance_uid = ?"
        " GROUP BY series_instance_uid",
        (study_instance_uid,),
    )


def studies_since(table: Table, since: float) -> list[str]:
    """Return the studies of which something came at a time or later, the oldest first.

    Parameters
    ----------
    since : float
        Seconds since 1970.
    """
    rows = table.rows(
        "SELECT study_instance_uid AS uid FROM series WHERE last >= ?"
        " GROUP BY study_instance_uid ORDER BY min(id)",
        (since,),
    )
    return [row["uid"] for row in rows]


def sender_address(table: Table, of: Row) -> str | None:
    """Return the address that a series generation was sent from; None where it was uploaded."""
    row = table.row(
        "SELECT address FROM instance JOIN association ON association.id = association_id"
        " WHERE series_instance_uid = ? AND generation = ? LIMIT 1",
        (of["series_instance_uid"], of["generation"]),
    )
    return None if row is None else str(row["address"])


def settled(table: Table, limit: int = 20) -> list[Row]:
    """Return the receiving series that look whole: quiet for longer than their slices' pace."""
    return table.rows(_SETTLED, (table.clock(), limit))


def next_settled(table: Table) -> float | None:
    """Return when the next receiving series will look whole, in seconds since 1970."""
    row = table.row(_NEXT_SETTLED, (table.clock(),))
    return None if row is None or row["at"] is None else float(row["at"])


def arriving(table: Table, limit: int = 20) -> list[Row]:
    """Return the series that are receiving, the latest to have had an instance first."""
    return table.rows(
        "SELECT * FROM series WHERE state = 'receiving' ORDER BY last DESC LIMIT ?", (limit,)
    )


def arrived_after(table: Table, of: Row, instance_id: int, limit: int) -> list[Row]:
    """Return the next instances of a receiving series, in the order in which they came."""
    return table.rows(
        "SELECT id, path FROM instance WHERE series_instance_uid = ? AND generation <= ?"
        " AND id > ? ORDER BY id LIMIT ?",
        (of["series_instance_uid"], of["generation"], instance_id, limit),
    )


def get(table: Table, series_id: int) -> Row:
    """Return one series row; a job's series is never removed before the job.

    Raises
    ------
    NotFoundError
        There is none of this id.
    """
    row = table.row("SELECT * FROM series WHERE id = ?", (series_id,))
    if row is None:
        raise NotFoundError(f"no series {series_id}")
    return row


def postpone(table: Table, series: Row, due: float, waits_for: str) -> None:
    """Look at a receiving series later, and say what it waits for.

    Raises
    ------
    StaleTransition
        Another instance has arrived meanwhile; the new due time stands.
    """
    with table.write():
        changed = table.change(
            "UPDATE series SET due = ?, waits_for = ? WHERE id = ? AND state = 'receiving'"
            " AND last = ? AND instances = ?",
            (due, waits_for, series["id"], series["last"], series["instances"]),
        )
        _require_one(changed, series)
        if waits_for != series["waits_for"]:
            _record(table, series, "wait", "receiving", waits_for)


def complete(table: Table, series: Row, why: str, new_jobs: Sequence[NewJob]) -> list[int]:
    """Close a series generation and create its jobs, in one transaction.

    Returns
    -------
    list of int
        The ids of the jobs.

    Raises
    ------
    StaleTransition
        Another instance has arrived meanwhile.
    """
    now = table.clock()
    with table.write():
        changed = table.change(
            "UPDATE series SET state = 'complete', completed = ?, waits_for = ''"
            " WHERE id = ? AND state = 'receiving' AND last = ? AND instances = ?",
            (now, series["id"], series["last"], series["instances"]),
        )
        _require_one(changed, series)
        _record(table, series, "complete", "complete", why)
        return [create_job(table, series, job) for job in new_jobs]


def create_job(table: Table, series: Row, job: NewJob, who: str = "observer") -> int:
    """Create a job of a complete series and return its id."""
    now = table.clock()
    state = State.WAITING if job.rejected is None else State.REJECTED
    reason = job.rejected or "waits for the throttler"
    job_id = table.insert(
        "INSERT INTO job (series_id, route, model, calling_ae_title, priority, stage, state,"
        " reason, input_sha256, destinations, cost, input_bytes, shadow, created, updated)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            series["id"],
            job.route,
            job.model,
            series["calling_ae_title"],
            job.priority,
            Stage.ADMISSION,
            state,
            reason,
            job.input_sha256,
            job.destinations,
            job.cost,
            job.input_bytes,
            job.shadow,
            now,
            now,
        ),
    )
    event = "create" if job.rejected is None else Event.REJECT
    table.insert(
        "INSERT INTO transition (at, series_id, job_id, event, to_stage, to_state, who, why)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (now, series["id"], job_id, event, Stage.ADMISSION, state, who, reason),
    )
    return job_id


def _record(table: Table, series: Row, event: str, to_state: str, why: str) -> None:
    table.insert(
        "INSERT INTO transition (at, series_id, event, from_state, to_state, who, why)"
        " VALUES (?, ?, ?, 'receiving', ?, 'observer', ?)",
        (table.clock(), series["id"], event, to_state, why),
    )


def _require_one(changed: int, series: Row) -> None:
    if changed != 1:
        raise StaleTransition(
            f"series {series['series_instance_uid']} generation {series['generation']}"
            " has changed meanwhile"
        )
