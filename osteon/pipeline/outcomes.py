"""What becomes of a job whose stage is over: on to the next, again later, or given up.

Reports and errors of stages enter, with the folder that each wrote to; transitions and published
results leave. The dispatcher calls it.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from osteon.config.settings import PipelineSettings
from osteon.errors import (
    OsteonError,
    OutOfResourcesError,
    VolumeError,
    WorkerLostError,
)
from osteon.pipeline.backoff import JITTER, backoff_s
from osteon.pipeline.instances.spool import free_bytes, link_files, move_durably
from osteon.pipeline.intake import GIGABYTE
from osteon.pipeline.job import Stage
from osteon.pipeline.table import jobs, lines
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.jobs import NewResult
from osteon.pipeline.workers.request import StageReport
from osteon.pipeline.worklock import WORK

RESULTS = "results"
RESULT_FILES = {"seg": ("seg.dcm", "application/dicom"), "preview": ("preview.png", "image/png")}
RETRY_FIRST_S, RETRY_MAX_S = 2.0, 120.0
LONGEST_RETRY_S = RETRY_MAX_S * (1 + JITTER)
DISK_WAIT_S = 10.0
UNCOUNTED_MAX = 30  # Attempts of a job after which every failure counts, whoever is to blame.
log = structlog.get_logger(__name__)


class Outcomes:
    """Put on record how stages ended.

    Parameters
    ----------
    limits : PipelineSettings
        Attempts, and the disk reserve.
    """

    def __init__(self, limits: PipelineSettings, table: Table) -> None:
        self._limits = limits
        self._table = table
        self._jitter = random.Random()  # noqa: S311 - it spreads retries and keeps no secret

    def adopt(self, job: Row, attempt: int, out: Path) -> Path:
        """Return the folder of an attempt, which has by then what its stage wrote."""
        own = self._table.data_dir / WORK / str(job["id"]) / str(attempt)
        # What was run ahead stays where it is: what follows it there may be reading it.
        return own if out == own else link_files(out, own)

    def finish(
        self,
        job: Row,
        attempt: int,
        out: Path,
        report: StageReport,
        worker: str,
        *,
        ahead: bool,
    ) -> None:
        """Move a job on whose stage went well; what it encoded is published.

        Parameters
        ----------
        out : Path
            The attempt's own folder.
        worker : str
            Who ran it: a slot, or a worker of the cluster.
        ahead : bool
            Whether the stage was run before its job was there.

        Raises
        ------
        StaleTransition
            The attempt is no longer the job's present one.
        OSError
            A result could not be published.
        """
        table = self._table
        seconds, early = report.seconds, ", ahead" if ahead else ""
        why = f"{report.why} in {seconds:.1f} s on {worker}{early}"
        log.info(
            "stage finished",
            job=job["id"],
            stage=job["stage"],
            why=why,
            began=round(report.began, 3),
            seconds=round(report.seconds, 3),
            worker=report.worker,
        )
        if job["stage"] != Stage.ENCODE:
            jobs.finish(table, job, attempt, str(out.relative_to(table.data_dir)), why)
            return
        results = [self._publish(job, out, kind, report.facts) for kind in RESULT_FILES]
        jobs.finish_encode(table, job, attempt, results, report.facts["segments"], why)
        shutil.rmtree(out.parent, ignore_errors=True)

    def give_back(
        self, job: Row, attempt: int, out: Path, error: BaseException, killed: str
    ) -> None:
        """Let a job try again whose stage failed, or end it.

        Parameters
        ----------
        killed : str
            Why its worker was ended on purpose; "" where it was not.

        Raises
        ------
        StaleTransition
            The attempt is no longer the job's present one.
        """
        table = self._table
        shutil.rmtree(out, ignore_errors=True)
        reason = killed or (error.message if isinstance(error, OsteonError) else str(error))
        # The worker may have died of another job that it had; then this one is not to blame.
        innocent = isinstance(error, WorkerLostError) and not error.counts
        counts = not innocent or job["attempt"] >= UNCOUNTED_MAX
        log.warning("stage failed", job=job["id"], stage=job["stage"], why=reason)
        if isinstance(error, VolumeError):
            self._end(jobs.reject, job, reason)
        elif isinstance(error, OsteonError) and not error.retryable:
            self._end(jobs.fail, job, reason)
        elif self._is_disk_full(error):
            why = f"waits for disk space: {reason}"
            not_before = table.clock() + DISK_WAIT_S
            jobs.retry(table, job, attempt, not_before, why, counts=False)
        elif counts and job["failures"] + 1 >= self._limits.attempts_max:
            self._end(jobs.fail, job, self._gave_up(job["stage"], reason))
        else:
            wait_s = backoff_s(
                job["failures"] + 1, first_s=RETRY_FIRST_S, max_s=RETRY_MAX_S, jitter=self._jitter
            )
            number = f"attempt {job['failures'] + 1} of {self._limits.attempts_max} failed: "
            why = f"tries again: {number if counts else ''}{reason}"
            not_before = table.clock() + wait_s
            jobs.retry(table, job, attempt, not_before, why, counts=counts)

    def rescue(self, job: Row, why: str) -> None:
        """Take back a job whose worker is gone, or give it up after so many attempts.

        Raises
        ------
        StaleTransition
            It runs no longer.
        """
        if job["failures"] + 1 >= self._limits.attempts_max:
            jobs.fail(self._table, job, self._gave_up(job["stage"], why))
        else:
            jobs.rescue(self._table, job, why)

    def _publish(self, job: Row, out: Path, kind: str, facts: dict[str, Any]) -> NewResult:
        """Give an encoded file its final name; the same again after a crash in between."""
        name, media_type = RESULT_FILES[kind]
        path = Path(RESULTS) / str(job["id"]) / name
        move_durably(out / name, self._table.data_dir / path)
        uids = facts if kind == "seg" else {}
        return NewResult(
            kind=kind,
            path=str(path),
            size=facts["files"][name]["size"],
            sha256=facts["files"][name]["sha256"],
            media_type=media_type,
            sop_instance_uid=uids.get("sop_instance_uid"),
            sop_class_uid=uids.get("sop_class_uid"),
            series_instance_uid=uids.get("series_instance_uid"),
        )

    def _end(self, event: Callable[[Table, Row, str], None], job: Row, reason: str) -> None:
        """End a job without a result; the one that made way for it goes on."""
        with self._table.write():
            event(self._table, job, reason)
            earlier = lines.made_way_for(self._table, job)
            if earlier is not None:
                why = f"job {job['id']} came to nothing: waits for the throttler"
                jobs.restore(self._table, earlier, why)

    def _is_disk_full(self, error: BaseException) -> bool:
        """Whether the disk is full without this job, whose files are removed by now."""
        reserve = self._limits.disk_reserve_gb * GIGABYTE
        return isinstance(error, OutOfResourcesError) and (
            free_bytes(self._table.data_dir) < reserve
        )

    def _gave_up(self, stage: str, reason: str) -> str:
        return f"gave up after {self._limits.attempts_max} attempts of {stage}: {reason}"
