"""A worker process: started warm by the engine, runs the work it is given, ends with its parent.

Work enters by a pipe, answers leave by it. Stages run one after the other; beside them a thread
reads the volume that comes next, and another encodes and writes what was computed last, so that the
device never waits for either. The stages are imported here and not when the dispatcher imports this
module; torch, when a model needs it.
"""

import errno
import gc
import importlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import structlog

from osteon.errors import OsteonError, OutOfResourcesError, StageError, WorkerLostError
from osteon.pipeline import progress
from osteon.pipeline.job import Stage
from osteon.pipeline.workers.devices import take_gpu
from osteon.pipeline.workers.request import (
    Answer,
    Done,
    Free,
    Progressed,
    Ready,
    Request,
    SliceRequest,
    Soon,
    StageReport,
    StageRequest,
    Work,
    WorkerSettings,
)

_STAGES = "osteon.pipeline.workers.stages"
TOLD_EVERY_S = 1.0
# What OpenMP and torch, the BLAS libraries of numpy, and ITK read when they are loaded.
THREADS_OF = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
# While a model computes it holds Python's lock for moments only; what runs beside it must not
# keep it for the usual 5 ms each time.
SWITCH_S = 0.0005
COLLECT_AT = (50_000, 20, 20)
DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT}


def serve(link: Connection, settings: WorkerSettings) -> None:
    """Run the work that comes by a pipe, until a limit is reached or the parent ends."""
    _begin(settings)
    try:
        join = link.recv()  # What loads a model may need a device, which the slot has by now.
    except (EOFError, OSError):
        return  # No slot has needed it.
    take_gpu(join.gpu)
    importlib.import_module(_STAGES).warm(settings.model, settings.models_dir)
    # A Segmentation is a hundred thousand objects that live for a second: looking through them, and
    # through all modules, again and again would cost a fifth of its encoding.
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)
    _Server(link, settings).serve()


def run(request: Request) -> StageReport:
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
        return WorkerLostError(f"{stage} ran out of memory")
    if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
        return OutOfResourcesError(f"{stage} found no space left: {error}")
    return StageError(f"{stage} failed: {type(error).__name__}: {error}")


def now_and_then(tell: Callable[[float], None]) -> Callable[[float], None]:
    """Return a listener to progress that passes on what it hears once a second at most."""
    told_at = 0.0

    def hear(fraction: float) -> None:
        """Pass it on, unless that was done less than a second ago."""
        nonlocal told_at
        if time.monotonic() - told_at >= TOLD_EVERY_S:
            told_at = time.monotonic()
            tell(fraction)

    return hear


def limit_threads(threads: int) -> None:
    """Let the libraries that this process loads from now on compute with so many threads each."""
    for name in THREADS_OF:
        os.environ[name] = str(threads)


class _Server:
    """The loop of one worker process."""

    def __init__(self, link: Connection, settings: WorkerSettings) -> None:
        self._link = link
        self._settings = settings
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._reader = ThreadPoolExecutor(1, "reads ahead")
        self._writer = ThreadPoolExecutor(1, "encodes")
        self._encoding: Future[bool] | None = None
        self._is_spent = False  # It ran out of memory: what it still holds is not known.
        self._works = 0
        self._memory_first = 0

    def serve(self) -> None:
        """Answer work until it is time to leave."""
        threading.Thread(target=self._listen, name="listens", daemon=True).start()
        self._send(Ready())
        leaving = ""
        while not leaving:
            work = self._inbox.get()
            self._do(work)
            self._works += isinstance(work.requests[0], StageRequest)
            leaving = self._why_leave()
            self._send(Free(leaving))
        self._writer.shutdown()
        self._reader.shutdown()

    def _listen(self) -> None:
        """Take what the parent sends while a stage runs."""
        stages = importlib.import_module(_STAGES)
        while True:
            try:
                message = self._link.recv()
            except (EOFError, OSError):
                os._exit(1)  # The parent wants nothing any more.
            if isinstance(message, Soon):
                self._reader.submit(stages.read_ahead, message.request)
            else:
                self._inbox.put(message)

    def _do(self, work: Work) -> None:
        """Run a work's requests; what follows the last that needs the device goes beside."""
        for request in work.requests:
            beside = isinstance(request, StageRequest) and request.stage is Stage.ENCODE
            if self._encoding is not None and (beside or work.alone):
                self._encoding.result()
                self._encoding = None
            if beside and not work.alone:
                self._encoding = self._writer.submit(self._answer, work.number, request)
                return
            if not self._answer(work.number, request):
                return

    def _answer(self, number: int, request: Request) -> bool:
        """Run one request and tell of its end; return whether it went well."""
        try:
            with progress.heard_by(now_and_then(lambda f: self._send(Progressed(number, f)))):
                outcome: StageReport | OsteonError = run(request)
        except OsteonError as error:
            self._is_spent |= isinstance(error, WorkerLostError)
            outcome = error
        self._send(Done(number, outcome))
        return isinstance(outcome, StageReport)

    def _why_leave(self) -> str:
        if self._is_spent:
            return "it ran out of memory"
        if self._works >= self._settings.jobs_max:
            return f"it has run {self._works} jobs"
        memory = resident_bytes()
        if self._works == 1 and not self._memory_first:
            self._memory_first = memory
        grown = memory - self._memory_first
        if self._memory_first and grown > self._settings.growth_bytes_max:
            return f"it has grown by {grown / 1e9:.1f} GB"
        return ""

    def _send(self, answer: Answer) -> None:
        with self._sending:
            self._link.send(answer)


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """Return how much memory this process holds; 0 where the system does not say."""
    if not statm.is_file():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _begin(settings: WorkerSettings) -> None:
    """Prepare a fresh worker process: load the stages, and watch the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the dispatcher's to handle.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, name="parent-watch", daemon=True).start()
    structlog.configure(  # Standard output is not a worker's to write on.
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    sys.setswitchinterval(SWITCH_S)
    # Both are switched for a while by several modules and belong to all threads of a process:
    # here they are switched once, and switching them back changes nothing.
    warnings.simplefilter("ignore")
    pydicom_config = importlib.import_module("pydicom.config")
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE
    limit_threads(settings.threads)
    importlib.import_module(_STAGES)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
