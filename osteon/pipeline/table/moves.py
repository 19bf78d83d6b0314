"""The one UPDATE that moves a job: it names the state that it leaves, and records the transition.

Called by the functions of ``jobs.py`` and its neighbours, one an event.
"""

from osteon.errors import StaleTransition
from osteon.pipeline.job import STAGES_OF, Event, Stage, State, next_state
from osteon.pipeline.table.connection import Row, Table


def move(
    table: Table,
    job: Row,
    event: Event,
    *,
    who: str,
    why: str,
    stage: Stage | None = None,
    attempt: int | None = None,
) -> None:
    """Move a job to where an event leads, and record who did it and why.

    Parameters
    ----------
    stage : Stage, optional
        The stage it is then at; the same where absent.
    attempt : int, optional
        The attempt that must still be its present one; that of the row where absent.

    Raises
    ------
    StaleTransition
        The event may not happen to it, or somebody else has moved it meanwhile.
    """
    to_state = next_state(State(job["state"]), event)
    to_stage = stage or Stage(job["stage"])
    if to_state is None or job["stage"] not in STAGES_OF.get(event, tuple(Stage)):
        raise StaleTransition(
            f"job {job['id']} is {job['state']} at {job['stage']}: there is nothing to {event}"
        )
    now = table.clock()
    with table.write():
        changed = table.change(
            "UPDATE job SET stage = ?, state = ?, reason = ?, updated = ?, lease_until = ?,"
            " worker = NULL, failures = iif(stage = ?, failures, 0)"
            " WHERE id = ? AND stage = ? AND state = ? AND attempt = ?",
            (
                to_stage,
                to_state,
                why,
                now,
                now if to_state is State.RUNNING else None,
                to_stage,
                job["id"],
                job["stage"],
                job["state"],
                job["attempt"] if attempt is None else attempt,
            ),
        )
        if changed != 1:
            raise StaleTransition(f"job {job['id']} is no longer {job['state']} at {job['stage']}")
        record_move(table, job, event, who, why, stage=to_stage, state=to_state)


def record_move(
    table: Table,
    job: Row,
    event: Event,
    who: str,
    why: str,
    *,
    stage: Stage | None = None,
    state: State | None = None,
) -> None:
    """Record what happened to a job, by whom and why; it has not moved where nothing is said."""
    table.insert(
        "INSERT INTO transition (at, series_id, job_id, event, from_stage, from_state,"
        " to_stage, to_state, who, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            table.clock(),
            job["series_id"],
            job["id"],
            event,
            job["stage"],
            job["state"],
            stage or job["stage"],
            state or job["state"],
            who,
            why,
        ),
    )
