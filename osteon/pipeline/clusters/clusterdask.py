"""Dask as a member of this cluster runs it: its settings, its loggers, its failures in words.

Called by everything that starts a client, a scheduler or a worker.
"""

import logging

import dask

DASK = {
    "distributed.comm.require-encryption": True,
    # The job table alone counts attempts: a stage whose worker died is over.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    # A series by value is one large argument, and is meant to be.
    "distributed.admin.large-graph-warning-threshold": "1 PiB",
    # A stage may hold Python's lock for seconds; that is no reason to warn.
    "distributed.admin.tick.limit": "60s",
    "distributed.diagnostics.nvml": False,
    "distributed.worker.profile.enabled": False,
    # A model may start processes of its own.
    "distributed.worker.daemon": False,
    # Without Dask's limit of one thread for BLAS and OpenMP: there is one stage at a time.
    "distributed.nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": 65536},
}


def configure_dask() -> None:
    """Set Dask up for this process, whatever its own files say, and let it log as we do."""
    dask.config.set(DASK)
    for name in ("distributed", "tornado"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def why_of(error: BaseException) -> str:
    """Return the innermost cause of a failed connection, which says more than the outermost."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
