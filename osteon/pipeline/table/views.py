"""What the outside is told: jobs, counts and the story of a series, as plain JSON values.

Read by HTTP and the command line; nothing is written. Times leave as ISO 8601 in UTC.

Every job, and every series that is still receiving, leaves as one dict of the same keys. Of these,
``reason`` is always there: what it waits for, what it does, or why it ended. Where it waits, which
backoff, a retry and a delivery are too, ``waiting_for`` has the same words, ``since`` the time when
this wait began, and ``until`` when it is over or looked at again, if that is known; elsewhere all
three are None. One job by itself also tells by ``ahead`` how many of its line enter before it.
"""

from typing import Any

from osteon.errors import NotFoundError
from osteon.pipeline.job import Stage, State, Status, progress_of, status_of
from osteon.pipeline.table import associations, resultviews, shadow, tally
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.names import as_id
from osteon.pipeline.table.times import iso
from osteon.pipeline.table.waits import Wait, Waits, failures_words

_JOBS = (
    "SELECT job.*, series.series_instance_uid, series.study_instance_uid, series.generation,"
    " series.instances, series.accession_number, series.patient_id, series.modality,"
    " EXISTS (SELECT 1 FROM result WHERE job_id = job.id AND superseded IS NOT NULL)"
    " AS is_superseded,"
    " (SELECT fraction FROM progress WHERE job_id = job.id AND progress.stage = job.stage"
    " AND progress.admitted IS job.admitted) AS fraction"
    " FROM job JOIN series ON series.id = job.series_id"
)


# The words of the schema's partial indices, which hold for nothing but these words.
_OPEN = (
    "SELECT id FROM job INDEXED BY job_open WHERE id < :before"
    " AND state IN ('waiting', 'running', 'backoff')"
)
_OVER = (
    "SELECT id FROM job INDEXED BY job_over WHERE id < :before"
    " AND state IN ('done', 'failed', 'rejected', 'cancelled', 'superseded')"
)
_PAIRS_OF: dict[Status, list[tuple[Stage, State]]] = {
    status: [(a, b) for a in Stage for b in State if status_of(a, b) is status] for status in Status
}


def count_waiting(table: Table) -> int:
    """Return how many jobs wait for admission; shadows turn nobody away and do not count."""
    waiting = tally.jobs(table).get((Stage.ADMISSION, State.WAITING), 0)
    return waiting - shadow.count_waiting(table)


def predict(table: Table, name: str) -> dict[str, Any]:
    """Return the status of a job id or of a series' newest generation.

    Parameters
    ----------
    name : str
        A job id, or a Series Instance UID.

    Raises
    ------
    NotFoundError
        Neither is known.
    """
    job = table.row(f"{_JOBS} WHERE job.id = ?", (as_id(name),))
    if job is not None:
        return _predict_job(table, job)
    series = table.row(
        "SELECT * FROM series WHERE series_instance_uid = ? ORDER BY generation DESC LIMIT 1",
        (name,),
    )
    if series is None:
        raise NotFoundError(f"{name!r} is neither a job nor a series held here")
    job = table.row(
        f"{_JOBS} WHERE series.id = ? ORDER BY job.replaced_by IS NOT NULL, job.id LIMIT 1",
        (series["id"],),
    )
    return _predict_series(Waits(table), series) if job is None else _predict_job(table, job)


def jobs(
    table: Table,
    *,
    status: Status | None = None,
    state: State | None = None,
    limit: int = 100,
    before: int | None = None,
) -> list[dict[str, Any]]:
    """Return jobs, the newest first, and before them the series that are still receiving.

    Parameters
    ----------
    status : Status, optional
        Only those.
    state : State, optional
        Only those; of the status ``failed``, those that have failed or those that were cancelled.
    before : int, optional
        Only jobs with a lower id: the next page.
    """
    shown = status in {None, Status.RECEIVING} and state is None and before is None
    waits = Waits(table)
    found = [_predict_series(waits, row) for row in _receiving(table, limit)] if shown else []
    ids = _newest(table, status, state, before or 2**62, limit - len(found))
    marks = ", ".join("?" * len(ids))
    rows = table.rows(f"{_JOBS} WHERE job.id IN ({marks}) ORDER BY job.id DESC", ids) if ids else []
    return found + [_summary(waits, job) for job in rows]


def _newest(
    table: Table, status: Status | None, state: State | None, before: int, limit: int
) -> list[int]:
    """Return the ids of the newest jobs of a status, by indices: most jobs are over and old."""
    if status is None and state is None:
        asked = ["SELECT id FROM job WHERE id < :before"]
    else:
        of_status = [p for s, pairs in _PAIRS_OF.items() if status in {None, s} for p in pairs]
        pairs = [(at, doing) for at, doing in of_status if state in {None, doing}]
        asked = [
            f"{_OVER} AND state = '{over.value}'"
            for over in sorted({doing for _, doing in pairs if doing.final})
        ]
        places = ", ".join(f"('{a.value}', '{b.value}')" for a, b in pairs if not b.final)
        if places:
            asked.append(f"{_OPEN} AND (stage, state) IN (VALUES {places})")
    union = " UNION ALL ".join(
        f"SELECT * FROM ({one} ORDER BY id DESC LIMIT :limit)"  # noqa: S608 - from above
        for one in asked
    )
    if not union or limit <= 0:
        return []
    rows = table.rows(f"{union} ORDER BY id DESC LIMIT :limit", {"before": before, "limit": limit})
    return [int(row["id"]) for row in rows]


def counts(table: Table) -> dict[str, Any]:
    """Return how many instances, series, jobs and deliveries are in which state.

    Jobs are counted by status, but for cancelled ones: these have a count of their own.
    """
    held = tally.counts(table)
    by_status = {status.value: 0 for status in Status} | {State.CANCELLED.value: 0}
    for (stage, state), count in tally.jobs(table).items():
        is_cancelled = state is State.CANCELLED
        by_status[State.CANCELLED if is_cancelled else status_of(stage, state)] += count
    by_status[Status.RECEIVING] = _count(table, "series WHERE state = 'receiving'")
    return {
        "instances": held.get("instance", 0),
        "series": held.get("series", 0),
        "associations": held.get("association", 0),
        "jobs": by_status,
        "deliveries": tally.deliveries(table),
    }


def trace(table: Table, name: str) -> list[dict[str, Any]]:
    """Return the story of a job, a series, a study or an accession number, oldest entry first.

    Raises
    ------
    NotFoundError
        Nothing held here has this name.
    """
    found = table.rows(
        "SELECT * FROM series WHERE series_instance_uid = :name OR study_instance_uid = :name"
        " OR (accession_number = :name AND accession_number <> '')"
        " OR id = (SELECT series_id FROM job WHERE id = :job_id) ORDER BY id",
        {"name": name, "job_id": as_id(name)},
    )
    if not found:
        raise NotFoundError(f"{name!r} is no job, series, study or accession number held here")
    return [_story(table, series) for series in found]


def _story(table: Table, series: Row) -> dict[str, Any]:
    entries = table.rows(
        "SELECT at, job_id, event, to_stage AS stage, to_state AS state, who, why"
        " FROM transition WHERE series_id = ? ORDER BY id",
        (series["id"],),
    )
    found = table.rows(f"{_JOBS} WHERE series.id = ? ORDER BY job.id", (series["id"],))
    receiving = series["state"] == "receiving"
    wait = Waits(table).of_series(series) if receiving else None
    return {
        "series_instance_uid": series["series_instance_uid"],
        "study_instance_uid": series["study_instance_uid"],
        "accession_number": series["accession_number"],
        "generation": series["generation"],
        "modality": series["modality"],
        "instances": series["instances"],
        "state": series["state"],
        "waits_for": series["waits_for"],
        "since": iso(wait.since) if wait is not None else None,
        "until": iso(wait.until) if wait is not None else None,
        "first": iso(series["first"]),
        "last": iso(series["last"]),
        "associations": associations.of_series(table, series),
        "uploaded": associations.uploaded(table, series),
        "source": series["calling_ae_title"],
        "jobs": [_predict_job(table, job) for job in found],
        "events": [dict(row) | {"at": iso(row["at"])} for row in entries],
    }


def _predict_series(waits: Waits, series: Row) -> dict[str, Any]:
    return _told(waits.of_series(series)) | {
        "ahead": None,
        "id": series["series_instance_uid"],
        "series_instance_uid": series["series_instance_uid"],
        "study_instance_uid": series["study_instance_uid"],
        "generation": series["generation"],
        "route": None,
        "model": None,
        "source": series["calling_ae_title"],
        "accession_number": series["accession_number"],
        "modality": series["modality"],
        "status": Status.RECEIVING,
        "stage": None,
        "state": series["state"],
        "progress": 0.0,
        "instances": series["instances"],
        "attempt": 0,
        "worker": None,
        "created": iso(series["first"]),
        "updated": iso(series["last"]),
        "results": [],
        "segments": [],
        "shadow_of": None,
        "shadow": [],
    }


def _summary(waits: Waits, job: Row) -> dict[str, Any]:
    stage, state = Stage(job["stage"]), State(job["state"])
    status = status_of(stage, state)
    return {
        "id": str(job["id"]),
        "series_instance_uid": job["series_instance_uid"],
        "study_instance_uid": job["study_instance_uid"],
        "generation": job["generation"],
        "route": job["route"],
        "model": job["model"],
        "shadow_of": None if job["shadow_of"] is None else str(job["shadow_of"]),
        "source": job["calling_ae_title"],
        "accession_number": job["accession_number"],
        "modality": job["modality"],
        "status": status,
        "stage": stage,
        "state": state,
        "progress": progress_of(stage, state, job["fraction"] or 0.0),
        "reason": _reason_of(job),
        "instances": job["instances"],
        "attempt": job["attempt"],
        "worker": job["worker"],
        "created": iso(job["created"]),
        "updated": iso(job["updated"]),
    } | _told(waits.of_job(job))


def _predict_job(table: Table, job: Row) -> dict[str, Any]:
    waits = Waits(table)
    return _summary(waits, job) | {
        "ahead": waits.ahead_of(job),
        "results": resultviews.results_of(table, job),
        "segments": resultviews.segments_of(job),
        "shadow": resultviews.shadows_of(table, job),
    }


def _told(wait: Wait | None) -> dict[str, Any]:
    if wait is None:
        return {"waiting_for": None, "since": None, "until": None}
    told = {"waiting_for": wait.words, "since": iso(wait.since), "until": iso(wait.until)}
    return told | {"reason": wait.words}


def _reason_of(job: Row) -> str:
    """Say what a job that does not wait is doing, or why it ended."""
    superseded = "; superseded by a newer generation" if job["is_superseded"] else ""
    if job["replaced_by"] is not None and job["state"] != State.SUPERSEDED:
        superseded = f"; replaced by job {job['replaced_by']}"
    retried = failures_words(job) if job["state"] == State.RUNNING else ""
    return f"{job['reason']}{superseded}{retried}"


def _receiving(table: Table, limit: int) -> list[Row]:
    return table.rows(
        "SELECT * FROM series INDEXED BY series_due WHERE state = 'receiving'"
        " ORDER BY id DESC LIMIT ?",
        (limit,),
    )


def _count(table: Table, what: str) -> int:
    # `what` is a literal of this module.
    row = table.row(f"SELECT count(*) AS n FROM {what}")  # noqa: S608 - no value from outside
    return 0 if row is None else int(row["n"])
