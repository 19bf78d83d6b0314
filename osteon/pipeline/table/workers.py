"""Rows of what workers say of themselves: what each has, how far that is, and if there are slots.

The dispatcher writes them, progress at most once a second; the status commands and HTTP read them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from osteon.pipeline.table.connection import Row, Table

STOPPED = "the role `work` was stopped"


@dataclass(frozen=True)
class EngineState:
    """Where stages run, as the role `work` said last.

    Attributes
    ----------
    slots : int
        How many stages can run at once.
    reason : str
        Why none can, in words: no scheduler, no worker, a certificate refused, `STOPPED`; ""
        otherwise.
    updated : float
        Since when it is so, in seconds since 1970.
    idle : str
        Which GPUs of this host no slot uses, and what to set; "" where there are none.
    """

    slots: int
    reason: str
    updated: float
    idle: str


def note_progress(table: Table, news: Iterable[tuple[Row, float]]) -> None:
    """Write down how far jobs have come at their present stage; no job goes back.

    Parameters
    ----------
    news : iterable of (Row, float)
        Job and fraction of its stage, 0 to 1.
    """
    with table.write():
        for job, fraction in news:
            table.change(
                "INSERT INTO progress (job_id, stage, admitted, fraction) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET fraction = iif(stage = excluded.stage"
                " AND admitted IS excluded.admitted, max(fraction, excluded.fraction),"
                " excluded.fraction), stage = excluded.stage, admitted = excluded.admitted",
                (job["id"], job["stage"], job["admitted"], min(1.0, max(0.0, fraction))),
            )


def note_worker(table: Table, job_id: int, attempt: int, worker: str) -> None:
    """Write down which worker a job runs on that was claimed before one had it."""
    with table.write():
        table.change(
            "UPDATE job SET worker = ?, reason = ? WHERE id = ? AND attempt = ?"
            " AND state = 'running'",
            (worker, f"runs on {worker}", job_id, attempt),
        )


def note_engine(table: Table, slots: int, reason: str) -> None:
    """Write down how many slots there are, and why there is none."""
    with table.write():
        table.change(
            "INSERT INTO engine (id, slots, reason, updated) VALUES (1, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET slots = excluded.slots, reason = excluded.reason,"
            " updated = excluded.updated",
            (slots, reason, table.clock()),
        )


def note_idle_gpus(table: Table, idle: str) -> None:
    """Write down which GPUs no slot uses; "" where there are none. It stands until said anew."""
    with table.write():
        table.change(
            "INSERT INTO engine (id, slots, reason, idle, updated) VALUES (1, 0, '', ?, ?)"
            " ON CONFLICT DO UPDATE SET idle = excluded.idle",
            (idle, table.clock()),
        )


def engine_state(table: Table) -> EngineState | None:
    """Return what was written down of the engine last; None before its first start."""
    row = table.row("SELECT slots, reason, updated, idle FROM engine")
    return None if row is None else EngineState(**dict(row))
