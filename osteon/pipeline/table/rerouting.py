"""Rows that the present routes are asked about anew: held series, and what became of them.

Read and written for ``pipeline/reroute.py`` alone, within its transaction.
"""

from osteon.errors import NotFoundError
from osteon.pipeline.job import Event, Stage
from osteon.pipeline.table import deliveries, jobs
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.moves import move, record_move
from osteon.pipeline.table.series import NewJob


def series_named(table: Table, name: str) -> list[Row]:
    """Return the newest generation of every series that a name means.

    Parameters
    ----------
    name : str
        A Series or Study Instance UID, an accession number or a job id.

    Raises
    ------
    NotFoundError
        Nothing held here has this name, or a number is both the id of a job and the accession
        number of another one's study.
    """
    found = table.rows(
        "SELECT *, max(generation) AS newest FROM series WHERE series_instance_uid = :name"
        " OR study_instance_uid = :name OR (accession_number = :name AND accession_number <> '')"
        " GROUP BY series_instance_uid ORDER BY id",
        {"name": name},
    )
    of_job = table.rows(
        "SELECT *, max(generation) AS newest FROM series WHERE series_instance_uid ="
        " (SELECT series_instance_uid FROM series JOIN job ON job.series_id = series.id"
        " WHERE job.id = ?) GROUP BY series_instance_uid",
        (int(name[:18]) if name.isascii() and name.isdecimal() else -1,),
    )
    if of_job and any(row["id"] != of_job[0]["id"] for row in found):
        raise NotFoundError(
            f"{name} is the id of a job and an accession number: name the Series Instance UID"
        )
    if not found and not of_job:
        raise NotFoundError(f"{name!r} is no job, series, study or accession number held here")
    return found or of_job


def never_taken(table: Table, since: float) -> list[Row]:
    """Return the complete series that no route has taken, their newest generation.

    Parameters
    ----------
    since : float
        Only those whose last instance came then or later, in seconds since 1970.
    """
    return table.rows(
        "SELECT * FROM series WHERE state = 'complete' AND last >= ?"
        " AND NOT EXISTS (SELECT 1 FROM series AS newer WHERE newer.series_instance_uid ="
        " series.series_instance_uid AND newer.generation > series.generation)"
        " AND EXISTS (SELECT 1 FROM job WHERE series_id = series.id)"
        # What was taken once has been let in, or waits to be.
        " AND NOT EXISTS (SELECT 1 FROM job WHERE series_id = series.id"
        " AND (state <> 'rejected' OR admitted IS NOT NULL)) ORDER BY id",
        (since,),
    )


def standing(table: Table, series_id: int) -> list[Row]:
    """Return the jobs of a series generation that nothing has replaced, without shadows."""
    return table.rows(
        "SELECT *, EXISTS (SELECT 1 FROM result WHERE job_id = job.id) AS has_result FROM job"
        " WHERE series_id = ? AND shadow_of IS NULL AND replaced_by IS NULL ORDER BY id",
        (series_id,),
    )


def vacate(table: Table, job: Row) -> None:
    """Free the name of a job's route for another one; no route of a configuration has a space."""
    table.change(
        "UPDATE job SET route = route || ' of job ' || id WHERE id = ?",
        (job["id"],),
    )


def rename(table: Table, job: Row, route: str, who: str) -> None:
    """Put a job that goes on, or is done, under another route of the same model."""
    table.change("UPDATE job SET route = ? WHERE id = ?", (route, job["id"]))
    why = f"its route is {route} now; before: {job['route']}"
    record_move(table, job, Event.REROUTE, who, why)


def reroute(table: Table, job: Row, to: NewJob, who: str) -> None:
    """Run the same input again for a person, as another route or another model says.

    Its results stand until it has made new ones. Destinations that it has no more are not waited
    for; what they have is theirs.
    """
    before = f"by route {job['route']}, model {job['model']}" if job["model"] else job["reason"]
    why = f"rerouted by {who} to route {to.route}, model {to.model}; before: {before}"
    its_results = "result_id IN (SELECT id FROM result WHERE job_id = ?)"
    with table.write():
        move(table, job, Event.REROUTE, who=who, why=why, stage=Stage.ADMISSION)
        table.change(
            "UPDATE job SET route = ?, model = ?, priority = ?, destinations = ?, shadow = ?,"
            " cost = ?, input_bytes = ?, failures = 0, not_before = 0 WHERE id = ?",
            (
                *(to.route, to.model, to.priority, to.destinations, to.shadow),
                *(to.cost, to.input_bytes, job["id"]),
            ),
        )
        table.change(
            f"DELETE FROM delivery WHERE {its_results} AND state <> 'delivered'"  # noqa: S608 - above
            " AND destination NOT IN (SELECT value FROM json_each(?))",
            (job["id"], to.destinations),
        )
        deliveries.outdate(table, job["id"])
        table.change(
            "UPDATE job SET route = ? || ' shadow ' || model WHERE shadow_of = ?",
            (to.route, job["id"]),
        )


def replace(table: Table, job: Row, by: int, who: str) -> None:
    """Let one job take the place of another one of its series generation.

    What is unfinished ends at once, and nothing more is sent of it. What it has made stands until
    the other one has made its own.
    """
    if job["state"] in ("waiting", "running", "backoff"):
        jobs.supersede(table, job, f"replaced by job {by}, rerouted by {who}", who=who)
    table.change(
        "UPDATE job SET replaced_by = ?, route = ? WHERE id = ?",
        (by, f"{job['route']} before job {by}", job["id"]),
    )
    table.change("UPDATE job SET replaced_by = ? WHERE replaced_by = ?", (by, job["id"]))
    if table.row("SELECT 1 FROM result WHERE job_id = ?", (by,)):
        jobs.supersede_replaced(table, by)
