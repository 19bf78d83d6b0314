"""When a worker process makes room for a fresh one, and what its failures mean."""

import errno
import multiprocessing

import pytest

from osteon.errors import OutOfResourcesError, StageError, WorkerLostError
from osteon.pipeline.workers import worker
from osteon.pipeline.workers.request import WorkerSettings

GIGABYTE = 10**9


@pytest.fixture
def server(monkeypatch):
    ours, _ = multiprocessing.Pipe()
    settings = WorkerSettings("builtin:bone", jobs_max=5, growth_bytes_max=2 * GIGABYTE)
    return worker._Server(ours, settings)


def test_a_worker_leaves_when_it_has_grown_since_its_first_job(server, monkeypatch):
    said = []
    for works, memory in enumerate([5.0, 6.9, 7.1], 1):
        server._works = works
        monkeypatch.setattr(worker, "resident_bytes", lambda m=memory: int(m * GIGABYTE))
        said.append(server._why_leave())
    assert said == ["", "", "it has grown by 2.1 GB"]


def test_a_worker_leaves_after_its_last_job_or_without_memory(server):
    server._works = 5
    assert server._why_leave() == "it has run 5 jobs"
    server._works, server._is_spent = 1, True
    assert server._why_leave() == "it ran out of memory"


def test_memory_of_this_process_is_known():
    assert worker.resident_bytes() > 10_000_000


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), WorkerLostError, "boneseg ran out of memory"),
        (OSError(errno.ENOSPC, "full"), OutOfResourcesError, "no space left"),
        (KeyError("x"), StageError, "boneseg failed: KeyError: 'x'"),
    ],
)
def test_what_a_foreign_exception_means(error, kind, words):
    failure = worker.failure_of("boneseg", error)
    assert type(failure) is kind
    assert words in failure.message
    assert failure.retryable


def test_progress_is_passed_on_once_a_second_at_most(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    told: list[float] = []
    hear = worker.now_and_then(told.append)
    for step in range(10):
        hear(step / 10)
        now[0] += 0.3
    assert told == [0.0, 0.4, 0.8]
