"""Chains that are handed over before their slot is free: what the table says, and who makes way."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.errors import WorkerLostError
from osteon.pipeline.table import jobs, views, workers
from osteon.pipeline.workers.request import StageReport, StageRequest
from tests.pipeline_parts import Node, ThreadEngine, store_slices, write_stage
from tests.tools import wait_until


class Held:
    """Stages of which the first of each series waits until it is let go."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.go = threading.Semaphore(0)

    def __call__(self, request: StageRequest) -> StageReport:
        if request.stage == "prediction":
            self.entered.append(request.job_id)
            assert self.go.acquire(timeout=30)
        return write_stage(request)


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def node(tmp_path: Path, held: Held) -> Iterator[Node]:
    settings = Settings(
        data_dir=tmp_path / "data",
        source=[{"ae_title": "ER", "priority": "stat"}, {"ae_title": "CT1"}],
        pipeline={"disk_reserve_gb": 0.0, "ahead": False},
    )
    node = Node(settings.data_dir, settings, ThreadEngine(held, depth=1))
    yield node
    for _ in range(20):
        held.go.release()
    node.close()


def send(node: Node, number: int, source: str = "CT1") -> None:
    origin = node.intake.open_association(source, "OSTEON", "::1")
    store_slices(node.intake, [1, 2], series=f"1.9.{number}", origin=origin)
    node.clock.advance(5.0)


def states(node: Node) -> list[str]:
    return [job["state"] for job in node.jobs()]


def offered(node: Node) -> list[int]:
    return [chain.requests[0].job_id for chain in node.engine._queue]


def test_the_table_says_on_which_worker_a_job_runs_and_ran(node, held):
    for number in (1, 2):
        send(node, number)
    node.tick_until(lambda: held.entered == [1])
    first = views.predict(node.table, "1")
    assert (first["worker"], first["reason"]) == ("threads", "runs on threads")
    assert views.predict(node.table, "2")["worker"] is None
    held.go.release()
    held.go.release()
    node.tick_until(lambda: states(node) == ["done", "done"])
    for name in ("1", "2"):
        (story,) = views.trace(node.table, name)
        finished = [e["why"] for e in story["events"] if e["event"] == "finish"]
        assert len(finished) == 3
        assert all(why.endswith(" s on threads") for why in finished), finished
        assert story["jobs"][0]["worker"] is None
        claimed = [e["why"] for e in story["events"] if e["event"] == "claim"]
        assert claimed[1:] == ["runs on threads"] * 2


def test_a_job_runs_when_its_chain_has_begun_and_not_before(node, held):
    for number in (1, 2, 3):
        send(node, number)
    node.tick_until(lambda: held.entered == [1])
    assert offered(node) == [2]
    assert states(node) == ["running", "waiting", "waiting"]
    held.go.release()
    node.tick_until(lambda: held.entered == [1, 2] and states(node)[1] == "running")
    assert states(node)[0] == "done"
    assert [job["attempt"] for job in node.jobs()] == [3, 1, 0]
    held.go.release()
    held.go.release()
    node.tick_until(lambda: states(node) == ["done"] * 3)
    assert [request.attempt for request in node.engine.requests] == [1, 2, 3] * 3
    assert node.events(2)[:4] == ["create", "admit", "claim", "finish"]


def test_what_is_urgent_takes_the_place_of_what_has_not_begun(node, held):
    for number in (1, 2):
        send(node, number)
    node.tick_until(lambda: held.entered == [1])
    send(node, 3, "ER")
    node.tick_until(lambda: offered(node) == [3])
    assert states(node) == ["running", "waiting", "waiting"]
    for _ in range(3):
        held.go.release()
    node.tick_until(lambda: states(node) == ["done"] * 3)
    assert held.entered == [1, 3, 2]
    assert [job["failures"] for job in node.jobs()] == [0, 0, 0]


def test_a_job_that_is_cancelled_before_it_begins_never_does(node, held):
    for number in (1, 2, 3):
        send(node, number)
    node.tick_until(lambda: held.entered == [1])
    jobs.cancel(node.receiver_table, jobs.get(node.receiver_table, 2), "ada")
    node.tick_until(lambda: offered(node) == [3])
    held.go.release()
    held.go.release()
    node.tick_until(lambda: states(node) == ["done", "cancelled", "done"])
    assert held.entered == [1, 3]
    assert node.engine.kills == 0


def test_a_job_that_is_cancelled_as_it_begins_is_stopped(node, held):
    """The chain begins while the table says that nobody wants it any more."""
    for number in (1, 2):
        send(node, number)
    node.tick_until(lambda: held.entered == [1])
    jobs.cancel(node.receiver_table, jobs.get(node.receiver_table, 2), "ada")
    held.go.release()
    wait_until(lambda: held.entered == [1, 2], 10)
    node.tick_until(lambda: node.engine.free and states(node) == ["done", "cancelled"])
    assert node.engine.kills == 1


def test_a_worker_lost_because_of_another_job_counts_as_no_failure(node, held, monkeypatch):
    send(node, 1)
    node.tick_until(lambda: held.entered == [1])
    (chain,) = node.engine._busy.values()
    node.engine._busy.clear()
    chain.settle(WorkerLostError("the worker process died by SIGKILL", counts=False))
    job = node.tick_until_state("backoff")
    assert job["failures"] == 0
    node.clock.advance(3.0)
    held.go.release()
    held.go.release()
    node.tick_until_state("done")


def test_progress_within_a_stage_is_shown_and_never_falls(node, held):
    send(node, 1)
    node.tick_until(lambda: held.entered == [1])
    (future,) = node.observer._dispatcher._running
    shown = [views.predict(node.table, "1")["progress"]]
    for fraction in (0.25, 0.75, 0.5):
        node.engine.fractions[future] = fraction
        node.clock.advance(1.1)
        assert node.observer.tick()
        shown.append(views.predict(node.table, "1")["progress"])
    assert shown == pytest.approx([0.2, 0.25, 0.35, 0.35])
    held.go.release()
    node.tick_until_state("done")
    assert views.predict(node.table, "1")["progress"] == 1.0


def test_progress_is_written_once_a_second_at_most(node, held):
    send(node, 1)
    node.tick_until(lambda: held.entered == [1])
    (future,) = node.observer._dispatcher._running
    version = node.receiver_table.version
    for fraction in (0.1, 0.2, 0.3):
        node.engine.fractions[future] = fraction
        node.clock.advance(0.3)
        assert node.observer.tick()
    assert node.receiver_table.version == version + 1
    assert not node.observer._dispatcher.finished
    node.clock.advance(1.0)
    assert node.observer._dispatcher.finished  # There is news: the observer wakes for it.


def test_the_engine_says_why_there_is_no_slot(node):
    assert node.observer.tick()
    assert workers.engine_state(node.table).slots == 1
    node.engine.slots, node.engine.reason = 0, "no worker has joined the cluster"
    node.clock.advance(7.0)
    assert node.observer.tick()
    said = workers.engine_state(node.table)
    assert (said.slots, said.reason) == (0, "no worker has joined the cluster")
    assert said.updated == node.clock()
