"""Which jobs stand where: in line before the throttler, before the workers, running, or due.

Read by the observer, the throttler's admission and the dispatcher at every tick; nothing is written
here, and each query goes through an index that holds only the rows that it asks for.
"""

from collections.abc import Iterable

from osteon.pipeline.job import WORKER_STAGES
from osteon.pipeline.table.connection import Row, Table


def admitted_by_source(table: Table) -> dict[str, int]:
    """Return how many jobs each source has between admission and delivery."""
    rows = table.rows(
        "SELECT calling_ae_title, count(*) AS n FROM job"
        " WHERE stage IN ('prediction', 'boneseg', 'encode')"
        " AND state IN ('waiting', 'running', 'backoff') GROUP BY calling_ae_title"
    )
    return {row["calling_ae_title"]: int(row["n"]) for row in rows}


def heads_of_lines(table: Table, count: int) -> list[Row]:
    """Return, for every source, the jobs that are first in its line before the throttler.

    Sources are found by jumping through the index, so that a line of 20,000 costs no more than
    one of two.
    """
    sources = table.rows(
        "WITH RECURSIVE line (source) AS ("
        " SELECT min(calling_ae_title) FROM job INDEXED BY job_line"
        " WHERE state = 'waiting' AND stage = 'admission'"
        " UNION ALL SELECT (SELECT min(calling_ae_title) FROM job INDEXED BY job_line"
        " WHERE state = 'waiting' AND stage = 'admission' AND calling_ae_title > line.source)"
        " FROM line WHERE line.source IS NOT NULL)"
        " SELECT source FROM line WHERE source IS NOT NULL"
    )
    heads: list[Row] = []
    for row in sources:
        heads += table.rows(
            "SELECT * FROM job INDEXED BY job_line WHERE state = 'waiting'"
            " AND stage = 'admission' AND calling_ae_title = ? ORDER BY priority, id LIMIT ?",
            (row["source"], count),
        )
    return heads


def last_admitted(table: Table, sources: Iterable[str]) -> dict[str, float]:
    """Return when a job of each source was last let in, in seconds since 1970."""
    found = {}
    for source in sources:
        row = table.row(
            "SELECT max(admitted) AS at FROM job WHERE calling_ae_title = ?"
            " AND admitted IS NOT NULL",
            (source,),
        )
        if row is not None and row["at"] is not None:
            found[source] = float(row["at"])
    return found


def ready(table: Table, limit: int) -> list[Row]:
    """Return admitted jobs that wait for a worker; those furthest on the route come first."""
    found: list[Row] = []
    for stage in reversed(WORKER_STAGES):
        found += table.rows(
            "SELECT * FROM job WHERE state = 'waiting' AND stage = ? ORDER BY priority, id LIMIT ?",
            (stage, limit),
        )
    return sorted(found, key=lambda job: int(job["priority"]))[:limit]


def running(table: Table) -> list[Row]:
    """Return the jobs that a worker holds."""
    return table.rows("SELECT * FROM job WHERE state = 'running'")


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
