"""Remove what is over: inputs, results, work folders and, last, the rows that name them.

A job table and an age enter; what was freed leaves. ``osteon purge`` calls it, beside a running
node: a series is removed within one write transaction, so that nobody can begin on it meanwhile.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass

from osteon.pipeline.dispatcher import CACHE
from osteon.pipeline.outcomes import RESULTS
from osteon.pipeline.table import purging
from osteon.pipeline.table.connection import Table
from osteon.pipeline.worklock import WORK


@dataclass(frozen=True)
class Freed:
    """What one series had on the disk."""

    series_instance_uid: str
    files: int
    size: int


def purgeable(table: Table, before: float) -> list[Freed]:
    """Return the series that are over since a time, and what each has on the disk.

    Parameters
    ----------
    before : float
        Seconds since 1970.
    """
    found = []
    for uid in purging.over(table, before):
        holding = purging.holding_of(table, uid)
        found.append(Freed(uid, len(holding.paths), holding.size))
    return found


def empty_associations(table: Table, before: float) -> int:
    """Return how many associations are over since a time, and nothing held came by them.

    Those that carried C-ECHO alone are among them, and those of which all was refused.

    Parameters
    ----------
    before : float
        Seconds since 1970.
    """
    return purging.count_empty(table, before)


def purge_associations(table: Table, before: float) -> int:
    """Remove these associations from the log, and return how many they were."""
    return purging.forget_empty(table, before)


def purge(table: Table, series_instance_uid: str, before: float) -> Freed | None:
    """Remove one series, or return None where something has happened to it meanwhile.

    After a kill in the middle its rows are still there, and the next purge ends what was begun.
    """
    with table.write():
        if not purging.is_over(table, series_instance_uid, before):
            return None
        holding = purging.holding_of(table, series_instance_uid)
        folders = set()
        for name in holding.paths:
            path = table.data_dir / name
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for job_id in holding.job_ids:
            for kind in (WORK, RESULTS):
                shutil.rmtree(table.data_dir / kind / str(job_id), ignore_errors=True)
        for folder in folders:
            shutil.rmtree(table.data_dir / CACHE / folder.name, ignore_errors=True)
            with suppress(OSError):  # It holds something else, or is gone with its job.
                folder.rmdir()
        purging.forget(table, series_instance_uid)
    return Freed(series_instance_uid, len(holding.paths), holding.size)
