"""What is left of a job, as requests that one worker runs one after the other.

A job's row enters, stage requests leave. The dispatcher hands them to the engine.
"""

from pathlib import Path

from osteon.pipeline.job import WORKER_STAGES, Stage
from osteon.pipeline.table import lines, series
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.workers.request import CacheSettings, StageRequest
from osteon.pipeline.worklock import WORK


def requests_of(
    table: Table, job: Row, attempt: int, models_dir: Path | None, cache: CacheSettings
) -> list[StageRequest]:
    """Return the stages that are left of a job.

    Parameters
    ----------
    attempt : int
        Fencing token of the first of them. Each of the others has the next one, since each is
        claimed when the one before it has finished; its folder is known by that already.
    """
    folder = table.data_dir
    of = series.get(table, job["series_id"])
    inputs = tuple(folder / row["path"] for row in series.input_of(table, of))
    made = {Stage(stage): folder / path for stage, path in lines.outputs(table, job["id"]).items()}
    requests = []
    left = WORKER_STAGES[WORKER_STAGES.index(Stage(job["stage"])) :]
    for number, stage in enumerate(left, attempt):
        request = StageRequest(
            job_id=job["id"],
            stage=stage,
            attempt=number,
            out=folder / WORK / str(job["id"]) / str(number),
            inputs=inputs,
            outputs=dict(made),
            model=job["model"],
            models_dir=models_dir,
            input_sha256=job["input_sha256"],
            content_at=of["last"],
            cache=cache,
        )
        made[stage] = request.out
        requests.append(request)
    return requests
