"""A worker process: started warm by the engine, runs one stage at a time, ends with its parent.

Stage requests enter by the engine's pool, reports or exceptions of ``osteon.errors`` leave. The
stages, and with them torch, are imported here and not when the dispatcher imports this module.
"""

import errno
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from pathlib import Path

import structlog

from osteon.errors import OsteonError, OutOfResourcesError, StageError
from osteon.pipeline.request import SliceRequest, StageReport, StageRequest

_STAGES = "osteon.pipeline.stages"


def begin(model: str, models_dir: Path | None) -> None:
    """Prepare a fresh worker process: load stages and model, and watch the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the dispatcher's to handle.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    structlog.configure(  # Standard output is not a worker's to write on.
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    importlib.import_module(_STAGES).warm(model, models_dir)


def worker_pid() -> int:
    """Return the process id of the worker that runs this."""
    return os.getpid()


def run(request: StageRequest | SliceRequest) -> StageReport:
    """Run one stage, or read slices early.

    Raises
    ------
    OsteonError
        The stage failed; the class says whether another attempt may succeed.
    """
    what = "reading early" if isinstance(request, SliceRequest) else request.stage
    try:
        stages = importlib.import_module(_STAGES)
        early = isinstance(request, SliceRequest)
        report: StageReport = (stages.hold_slices if early else stages.run_stage)(request)
        return report
    except OsteonError:
        raise
    except Exception as error:  # The top of the worker's loop: whatever it is costs one attempt.
        raise failure_of(what, error) from error


def failure_of(stage: str, error: Exception) -> OsteonError:
    """Return what an exception of whatever library means for a stage."""
    if isinstance(error, MemoryError):
        return StageError(f"{stage} ran out of memory")
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutOfResourcesError(f"{stage} found no space left: {error}")
    return StageError(f"{stage} failed: {type(error).__name__}: {error}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
