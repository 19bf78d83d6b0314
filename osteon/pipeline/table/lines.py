"""Which jobs stand where: in line before the throttler, before the workers, running, or due.

Read by the observer, the throttler's admission and the dispatcher at every tick; nothing is written
here, and each query goes through an index that holds only the rows that it asks for.
"""

from osteon.pipeline.job import WORKER_STAGES
from osteon.pipeline.table.connection import Row, Table


def inside(table: Table) -> list[Row]:
    """Return the jobs between admission and delivery, with what the throttler counts of each."""
    return table.rows(
        "SELECT id, priority, calling_ae_title, model, cost, input_bytes FROM job"
        " INDEXED BY job_inside WHERE stage IN ('prediction', 'boneseg', 'encode')"
        " AND state IN ('waiting', 'running', 'backoff')"
    )


def most_urgent(table: Table) -> int | None:
    """Return the class of the most urgent job before the throttler, or None where none waits."""
    row = table.row(
        "SELECT min(priority) AS priority FROM job INDEXED BY job_waiting"
        " WHERE state = 'waiting' AND stage = 'admission'"
    )
    return None if row is None or row["priority"] is None else int(row["priority"])


def heads(table: Table) -> list[Row]:
    """Return the first job of every line: of what one source has waiting for one model.

    Lines are found by jumping through the index, so that one of 20,000 costs no more than one of
    two.
    """
    return table.rows(
        "WITH RECURSIVE line (source, model) AS ("
        " SELECT * FROM (SELECT calling_ae_title, model FROM job INDEXED BY job_line"
        " WHERE state = 'waiting' AND stage = 'admission'"
        " ORDER BY calling_ae_title, model LIMIT 1)"
        " UNION ALL SELECT following.calling_ae_title, following.model FROM line"
        " JOIN job AS following ON following.id = (SELECT id FROM job INDEXED BY job_line"
        " WHERE state = 'waiting' AND stage = 'admission'"
        " AND (calling_ae_title, model) > (line.source, line.model)"
        " ORDER BY calling_ae_title, model LIMIT 1))"
        " SELECT job.* FROM line JOIN job ON job.id = (SELECT id FROM job INDEXED BY job_line"
        " WHERE state = 'waiting' AND stage = 'admission'"
        " AND calling_ae_title = line.source AND model = line.model ORDER BY priority, id LIMIT 1)"
    )


def head(table: Table, source: str, model: str) -> Row | None:
    """Return the first job of one line, or None where it is empty."""
    return table.row(
        "SELECT * FROM job INDEXED BY job_line WHERE state = 'waiting' AND stage = 'admission'"
        " AND calling_ae_title = ? AND model = ? ORDER BY priority, id LIMIT 1",
        (source, model),
    )


def ahead_of(table: Table, job: Row, limit: int) -> int:
    """Return how many jobs of its line are before a waiting job, at most a limit."""
    row = table.row(
        "SELECT count(*) AS n FROM (SELECT 1 FROM job INDEXED BY job_line"
        " WHERE state = 'waiting' AND stage = 'admission'"
        " AND calling_ae_title = ? AND model = ? AND (priority, id) < (?, ?) LIMIT ?)",
        (job["calling_ae_title"], job["model"], job["priority"], job["id"], limit),
    )
    return 0 if row is None else int(row["n"])


def ready(table: Table, limit: int) -> list[Row]:
    """Return admitted jobs that wait for a worker: those furthest on the route, then let in first.

    Across stages the more urgent class comes first.
    """
    found: list[Row] = []
    for stage in reversed(WORKER_STAGES):
        found += table.rows(
            "SELECT * FROM job INDEXED BY job_waiting WHERE state = 'waiting' AND stage = ?"
            " ORDER BY priority, admitted, id LIMIT ?",
            (stage, limit),
        )
    return sorted(found, key=lambda job: int(job["priority"]))[:limit]


def running(table: Table) -> list[Row]:
    """Return the jobs that a worker holds."""
    return table.rows("SELECT * FROM job WHERE state = 'running'")


def leases(table: Table) -> set[tuple[int, int]]:
    """Return id and attempt of every job that a worker holds: asked often, of many."""
    rows = table.rows("SELECT id, attempt FROM job WHERE state = 'running'")
    return {(row["id"], row["attempt"]) for row in rows}


def lapsed(table: Table) -> list[Row]:
    """Return the running jobs whose lease is over."""
    return table.rows(
        "SELECT * FROM job WHERE state = 'running' AND lease_until < ?", (table.clock(),)
    )


def resumable(table: Table) -> list[Row]:
    """Return the jobs whose backoff is over, the longest first."""
    return table.rows(
        "SELECT * FROM job WHERE state = 'backoff' AND not_before <= ?"
        " ORDER BY not_before LIMIT 100",
        (table.clock(),),
    )


def next_resume(table: Table) -> float | None:
    """Return when the next backoff ends, in seconds since 1970."""
    row = table.row("SELECT min(not_before) AS at FROM job WHERE state = 'backoff'")
    return None if row is None or row["at"] is None else float(row["at"])


def earlier_unfinished(table: Table, of: Row, route: str) -> list[Row]:
    """Return the jobs that a route made of a series' earlier generations and that are not over."""
    return table.rows(
        "SELECT job.* FROM job JOIN series ON series.id = job.series_id"
        " WHERE series_instance_uid = ? AND generation < ? AND route = ?"
        " AND job.state IN ('waiting', 'running', 'backoff')",
        (of["series_instance_uid"], of["generation"], route),
    )


def has_unfinished(table: Table, series_id: int) -> bool:
    """Return whether a series generation has a job, no shadow, that workers still have to do."""
    row = table.row(
        "SELECT 1 FROM job WHERE series_id = ? AND shadow_of IS NULL AND stage <> 'deliver'"
        " AND state IN ('waiting', 'running', 'backoff')",
        (series_id,),
    )
    return row is not None


def all_delivered(table: Table) -> list[Row]:
    """Return the jobs at their last stage of which no delivery is under way any more."""
    return table.rows(
        "SELECT * FROM job WHERE stage = 'deliver' AND state = 'waiting' AND NOT EXISTS ("
        " SELECT 1 FROM delivery JOIN result ON result.id = delivery.result_id"
        " WHERE result.job_id = job.id AND delivery.state IN ('waiting', 'sending'))"
    )


def outputs(table: Table, job_id: int) -> dict[str, str]:
    """Return the accepted output folder of each finished stage, under the data directory."""
    rows = table.rows("SELECT stage, path FROM output WHERE job_id = ?", (job_id,))
    return {row["stage"]: row["path"] for row in rows}


def made_way_for(table: Table, job: Row) -> Row | None:
    """Return the job of the last earlier generation that was superseded by this one, or None."""
    return table.row(
        "SELECT job.* FROM job JOIN series AS old ON old.id = job.series_id"
        " JOIN series AS new ON new.id = ? AND old.generation < new.generation"
        " AND old.series_instance_uid = new.series_instance_uid"
        " WHERE job.route = ? AND job.state = 'superseded' ORDER BY old.generation DESC LIMIT 1",
        (job["series_id"], job["route"]),
    )
