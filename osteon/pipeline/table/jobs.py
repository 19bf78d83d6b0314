"""Rows of jobs: one function an event; each names the state it leaves and records who and why.

Called by the observer, by people through the command line and HTTP. Zero changed rows is a
`StaleTransition`: somebody else has moved the job meanwhile, and that stands.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from osteon.config.settings import Priority
from osteon.errors import NotFoundError, NotRunnableError, StaleTransition
from osteon.pipeline.job import STAGES_OF, Event, Stage, State, next_state
from osteon.pipeline.table import deliveries, lines, shadow
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.moves import move, record_move


@dataclass(frozen=True)
class NewResult:
    """A result file that was made durable and accepted.

    Attributes
    ----------
    kind : str
        ``seg``, or ``preview``, which is never sent.
    path : str
        Under the data directory.
    """

    kind: str
    path: str
    size: int
    sha256: str
    media_type: str
    sop_instance_uid: str | None = None
    sop_class_uid: str | None = None
    series_instance_uid: str | None = None


def get(table: Table, job_id: int) -> Row:
    """Return one job.

    Raises
    ------
    NotFoundError
        There is none of this id.
    """
    job = table.row("SELECT * FROM job WHERE id = ?", (job_id,))
    if job is None:
        raise NotFoundError(f"no job {job_id}: see `osteon jobs list`")
    return job


def explain(table: Table, job: Row, why: str) -> None:
    """Say why a job still waits; it is not moved and that is no transition."""
    table.change(
        "UPDATE job SET reason = ? WHERE id = ? AND state = ?", (why, job["id"], job["state"])
    )


def bring_forward(table: Table, wait_s_max: float) -> int:
    """End every backoff that would last longer than any may: the clock was set back since."""
    now = table.clock()
    return table.change(
        "UPDATE job SET not_before = ? WHERE state = 'backoff' AND not_before > ?",
        (now, now + wait_s_max),
    )


def admit(table: Table, job: Row, why: str, at: float | None = None) -> None:
    """Let a job in: from admission to the door of prediction.

    Parameters
    ----------
    at : float, optional
        By which time it stands in line for a worker, in seconds since 1970; now where absent.
    """
    with table.write():
        move(table, job, Event.ADMIT, who="throttler", why=why, stage=Stage.PREDICTION)
        table.change("UPDATE job SET admitted = coalesce(?, updated) WHERE id = ?", (at, job["id"]))


def claim(table: Table, job: Row, worker: str, lease_s: float) -> int:
    """Take a job's lease for a worker and return its fencing token, the attempt.

    Parameters
    ----------
    worker : str
        Its name; "" where it is not known yet.
    """
    with table.write():
        move(table, job, Event.CLAIM, who="dispatcher", why=f"runs on {worker or 'a worker'}")
        table.change(
            "UPDATE job SET attempt = attempt + 1, lease_until = ?, worker = ? WHERE id = ?",
            (table.clock() + lease_s, worker or None, job["id"]),
        )
    return int(job["attempt"]) + 1


def renew(table: Table, job_id: int, attempt: int, lease_s: float) -> None:
    """Extend a running job's lease; one that was moved on meanwhile is left alone."""
    with table.write():
        table.change(
            "UPDATE job SET lease_until = ? WHERE id = ? AND attempt = ? AND state = 'running'",
            (table.clock() + lease_s, job_id, attempt),
        )


def finish(table: Table, job: Row, attempt: int, output: str, why: str) -> None:
    """Accept a stage's output folder and move the job to the next stage.

    Parameters
    ----------
    attempt : int
        The attempt that made it; of any other one nothing is accepted.
    output : str
        Under the data directory.

    Raises
    ------
    StaleTransition
        Another attempt is the present one, or there is no next stage.
    """
    stage = Stage(job["stage"]).next
    if stage is None:
        raise StaleTransition(f"job {job['id']} is at its last stage")
    with table.write():
        move(table, job, Event.FINISH, who="observer", why=why, stage=stage, attempt=attempt)
        table.change(
            "INSERT INTO output (job_id, stage, attempt, path) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET attempt = excluded.attempt, path = excluded.path",
            (job["id"], job["stage"], attempt, output),
        )


def finish_encode(
    table: Table,
    job: Row,
    attempt: int,
    results: Sequence[NewResult],
    segments: Sequence[dict[str, object]],
    why: str,
) -> None:
    """Accept the results: record them, open their deliveries, and move the job to deliver.

    What the route made of earlier generations is marked as superseded with it, and what an earlier
    route made of this one; these results where a later generation's are there already. Models that
    are to run beside it follow.
    """
    now = table.clock()
    with table.write():
        move(
            table, job, Event.FINISH, who="observer", why=why, stage=Stage.DELIVER, attempt=attempt
        )
        table.change("UPDATE job SET segments = ? WHERE id = ?", (json.dumps(segments), job["id"]))
        for result in results:
            result_id = _upsert_result(table, job, result, now)
            if result.kind != "seg":
                continue
            for destination in json.loads(job["destinations"]):
                table.change(
                    "INSERT INTO delivery (result_id, destination, state, not_before, created,"
                    " updated) VALUES (?, ?, 'waiting', ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " state = 'waiting', attempts = 0, not_before = excluded.not_before,"
                    " reason = '', earlier = 0, created = excluded.created,"
                    " updated = excluded.updated",
                    (result_id, destination, now, now, now),
                )
        _supersede_results(table, job)
        supersede_replaced(table, job["id"])
        shadow.follow(table, job)


def complete(table: Table, job: Row, why: str) -> None:
    """End a job whose deliveries are all proven."""
    move(table, job, Event.COMPLETE, who="observer", why=why)


def retry(
    table: Table, job: Row, attempt: int, not_before: float, why: str, *, counts: bool = True
) -> None:
    """Put a job whose attempt failed into backoff.

    Parameters
    ----------
    counts : bool
        Whether the attempt counts as a failure: not where the disk was full.
    """
    with table.write():
        move(table, job, Event.RETRY, who="observer", why=why, attempt=attempt)
        table.change(
            "UPDATE job SET failures = failures + ?, not_before = ? WHERE id = ?",
            (int(counts), not_before, job["id"]),
        )


def resume(table: Table, job: Row) -> None:
    """Let a job try again."""
    move(table, job, Event.RESUME, who="observer", why="waits for a worker again")


def resume_due(table: Table) -> None:
    """Let every job try again whose backoff is over."""
    for job in lines.resumable(table):
        with suppress(StaleTransition):  # A person has cancelled it meanwhile.
            resume(table, job)


def rescue(table: Table, job: Row, why: str, *, counts: bool = True) -> None:
    """Take a job back whose worker is gone.

    Parameters
    ----------
    counts : bool
        Whether the attempt counts as a failure: not where the node was stopped in good order.
    """
    with table.write():
        move(table, job, Event.RESCUE, who="observer", why=why)
        table.change(
            "UPDATE job SET failures = failures + ? WHERE id = ?", (int(counts), job["id"])
        )


def fail(table: Table, job: Row, why: str) -> None:
    """Give a job up."""
    move(table, job, Event.FAIL, who="observer", why=why)


def reject(table: Table, job: Row, why: str) -> None:
    """End a job whose input cannot be processed."""
    move(table, job, Event.REJECT, who="observer", why=why)


def supersede(table: Table, job: Row, why: str, *, who: str = "observer") -> None:
    """End an unfinished job in favour of a newer generation's, or of another route's."""
    with table.write():
        move(table, job, Event.SUPERSEDE, who=who, why=why)
        _cancel_deliveries(table, job, why)


def restore(table: Table, job: Row, why: str) -> None:
    """Let a superseded job go on: what took its place has come to nothing."""
    move(table, job, Event.RESTORE, who="observer", why=why, stage=Stage.ADMISSION)


def cancel(table: Table, job: Row, who: str) -> None:
    """Stop a job for a person."""
    with table.write():
        move(table, job, Event.CANCEL, who=who, why=f"cancelled by {who}")
        _cancel_deliveries(table, job, f"cancelled by {who}")


def prioritize(table: Table, job: Row, to: Priority, who: str) -> bool:
    """Give a job that waits another priority class; it keeps what it waits for, and since when.

    Returns
    -------
    bool
        Whether it was of another class before.

    Raises
    ------
    StaleTransition
        It does not wait for the throttler, a worker or another attempt; or it is a shadow, which
        waits behind all classes.
    """
    priority = list(Priority).index(to)
    if job["shadow_of"] is not None:
        raise StaleTransition(f"job {job['id']} is a shadow: it waits behind all classes")
    place = Stage(job["stage"]) in STAGES_OF[Event.PRIORITIZE]
    if next_state(State(job["state"]), Event.PRIORITIZE) is None or not place:
        raise StaleTransition(
            f"job {job['id']} is {job['state']} at {job['stage']}: a class means something only to"
            " what waits for the throttler, a worker or another attempt"
        )
    if job["priority"] == priority:
        return False
    why = f"{to} instead of {list(Priority)[job['priority']]}, set by {who}"
    with table.write():
        changed = table.change(
            "UPDATE job SET priority = ? WHERE id = ? AND stage = ? AND state = ? AND priority = ?",
            (priority, job["id"], job["stage"], job["state"], job["priority"]),
        )
        if changed != 1:
            raise StaleTransition(f"job {job['id']} is no longer {job['state']} at {job['stage']}")
        record_move(table, job, Event.PRIORITIZE, who, why)
    return True


def rerun(table: Table, job: Row, who: str) -> None:
    """Run the same input again for a person; the result keeps its UIDs.

    Raises
    ------
    NotRunnableError
        Something newer has taken its place, or no route took it, so that there is nothing to run.
    StaleTransition
        It is not over.
    """
    refuse_replaced(table, job)
    if not job["model"]:
        raise NotRunnableError(f"job {job['id']} was taken by no route: {job['reason']}")
    with table.write():
        move(table, job, Event.RERUN, who=who, why=f"run again by {who}", stage=Stage.ADMISSION)
        table.change("UPDATE job SET failures = 0, not_before = 0 WHERE id = ?", (job["id"],))
        deliveries.outdate(table, job["id"])


def refuse_replaced(table: Table, job: Row) -> None:
    """Refuse to run a job again whose place another one has taken.

    Raises
    ------
    NotRunnableError
        Two results of one series would stand beside each other.
    """
    if job["replaced_by"] is not None:
        raise NotRunnableError(
            f"job {job['id']} was replaced by job {job['replaced_by']}: run that one again"
        )
    if table.row("SELECT 1 FROM result WHERE job_id = ? AND superseded IS NOT NULL", (job["id"],)):
        raise NotRunnableError(
            f"job {job['id']} is of an earlier generation, whose result is superseded:"
            " run the newest job of its series again"
        )


def supersede_replaced(table: Table, job_id: int) -> None:
    """Mark the results of all jobs that a job has replaced, now that its own is there."""
    table.change(
        "UPDATE result SET superseded = ? WHERE superseded IS NULL"
        " AND job_id IN (SELECT id FROM job WHERE replaced_by = ?)",
        (table.clock(), job_id),
    )


def _upsert_result(table: Table, job: Row, result: NewResult, now: float) -> int:
    table.change(
        "INSERT INTO result (job_id, kind, path, size, sha256, media_type, sop_instance_uid,"
        " sop_class_uid, series_instance_uid, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (job_id, kind) DO UPDATE SET path = excluded.path, size = excluded.size,"
        " sha256 = excluded.sha256, sop_instance_uid = excluded.sop_instance_uid,"
        " series_instance_uid = excluded.series_instance_uid, created = excluded.created",
        (
            job["id"],
            result.kind,
            result.path,
            result.size,
            result.sha256,
            result.media_type,
            result.sop_instance_uid,
            result.sop_class_uid,
            result.series_instance_uid,
            now,
        ),
    )
    row = table.row("SELECT id FROM result WHERE job_id = ? AND kind = ?", (job["id"], result.kind))
    return int(row["id"]) if row is not None else 0


def _supersede_results(table: Table, job: Row) -> None:
    """Of the results that a route made of the generations of one series, only the last stand."""
    table.change(
        "WITH made AS (SELECT result.id, generation FROM result JOIN job ON job.id = result.job_id"
        " JOIN series ON series.id = job.series_id"
        " WHERE route = :route AND series.series_instance_uid ="
        " (SELECT series_instance_uid FROM series WHERE id = :series_id))"
        " UPDATE result SET superseded = :now WHERE superseded IS NULL AND id IN ("
        " SELECT id FROM made WHERE generation < (SELECT max(generation) FROM made))",
        {"route": job["route"], "series_id": job["series_id"], "now": table.clock()},
    )


def _cancel_deliveries(table: Table, job: Row, why: str) -> None:
    table.change(
        "UPDATE delivery SET state = 'cancelled', reason = ?, updated = ? WHERE state = 'waiting'"
        " AND result_id IN (SELECT id FROM result WHERE job_id = ?)",
        (why, table.clock(), job["id"]),
    )
