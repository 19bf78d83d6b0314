"""Work done ahead: used when the series is complete, and of no harm when it is not."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.errors import StageError
from osteon.pipeline.job import Stage
from osteon.pipeline.table import purging
from osteon.pipeline.workers.request import SliceRequest, StageReport, StageRequest
from tests.pipeline_parts import SERIES, Node, ThreadEngine, store_slices, write_stage

WORKER = [Stage.PREDICTION, Stage.BONESEG, Stage.ENCODE]
SETTLED_S, QUIET_S = 0.3, 5.0
Start = Callable[..., Node]


class Stages:
    """Stages that write what the real ones write, and slices that are only counted."""

    def __init__(self) -> None:
        self.fails: set[Stage] = set()
        self.early: list[Path] = []
        self.at_once: list[int] = []
        self.slice_s: dict[str, float] = {}

    def __call__(self, request: StageRequest | SliceRequest) -> StageReport:
        if isinstance(request, SliceRequest):
            self.early += request.inputs
            self.at_once.append(len(request.inputs))
            seconds = self.slice_s.get(request.model, 0.0) * len(request.inputs)
            return StageReport("read", seconds)
        if request.stage in self.fails:
            self.fails.discard(request.stage)
            raise StageError("failed once")
        return write_stage(request)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    nodes = []

    def make(
        stages: Stages | None = None, routes: Sequence[object] = (), **pipeline: object
    ) -> Node:
        settings = Settings(
            data_dir=tmp_path / "data",
            scp={"quiet_s": QUIET_S},
            route=routes,
            pipeline={"disk_reserve_gb": 0.0, **pipeline},
        )
        nodes.append(Node(settings.data_dir, settings, ThreadEngine(stages or Stages())))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


def run_ahead(node: Node) -> None:
    """Let every stage of the settled series be run."""
    node.clock.advance(SETTLED_S)
    node.tick_until(lambda: begun(node) == [(0, stage) for stage in WORKER])
    node.tick_until(lambda: node.engine.free == node.engine.slots)


def begun(node: Node) -> list[tuple[int, Stage]]:
    return [(r.job_id, r.stage) for r in node.engine.requests if isinstance(r, StageRequest)]


def test_a_series_that_is_purged_is_forgotten(start: Start) -> None:
    node = start()
    store_slices(node.intake, range(1, 6))
    run_ahead(node)
    with node.table.write():
        purging.forget(node.table, SERIES)
    assert node.observer.tick()
    assert not list((node.data_dir / "work" / "ahead").iterdir())


def test_a_job_takes_over_what_was_done_in_the_quiet_time(start: Start) -> None:
    node = start()
    store_slices(node.intake, range(1, 6))
    run_ahead(node)
    assert node.jobs() == []
    node.clock.advance(QUIET_S)
    job = node.tick_until_state("done")
    assert len(begun(node)) == 3
    assert job["attempt"] == 3
    result = node.table.row("SELECT * FROM result WHERE kind = 'seg'")
    assert (node.data_dir / result["path"]).is_file()
    assert not list((node.data_dir / "work" / "ahead").iterdir())


def test_a_job_waits_for_the_stage_that_is_still_running_ahead(start: Start) -> None:
    node = start()
    store_slices(node.intake, range(1, 6))
    node.clock.advance(SETTLED_S)
    node.tick_until(lambda: begun(node))
    node.clock.advance(QUIET_S)
    node.tick_until_state("done")
    assert [stage for _, stage in begun(node)] == WORKER


def test_a_late_slice_makes_what_was_done_worthless(start: Start) -> None:
    node = start()
    store_slices(node.intake, range(1, 6))
    run_ahead(node)
    store_slices(node.intake, [6])
    node.clock.advance(QUIET_S)
    job = node.tick_until_state("done")
    last = [r for r in node.engine.requests if isinstance(r, StageRequest)][-1]
    assert len(last.inputs) == 6
    assert last.job_id == job["id"]


def test_a_stage_that_failed_ahead_is_run_by_the_job(start: Start) -> None:
    stages = Stages()
    stages.fails = {Stage.BONESEG}
    node = start(stages)
    store_slices(node.intake, range(1, 6))
    node.clock.advance(SETTLED_S)
    node.tick_until(lambda: len(begun(node)) == 2 and node.engine.free)
    node.clock.advance(QUIET_S)
    job = node.tick_until_state("done")
    assert job["failures"] == 0
    assert begun(node)[2:] == [(1, Stage.BONESEG), (1, Stage.ENCODE)]


@pytest.mark.parametrize(("slice_s", "at_once"), [(0.005, [16, 60, 24]), (1.0, [16] * 6 + [4])])
def test_as_many_slices_are_read_at_once_as_a_job_may_wait_for(
    start: Start, slice_s: float, at_once: list[int]
) -> None:
    stages = Stages()
    stages.slice_s = {BONE: slice_s}
    node = start(stages)
    store_slices(node.intake, range(1, 101))
    node.tick_until(lambda: len(stages.early) == 100)
    assert stages.at_once == at_once


def test_a_slow_model_is_not_taken_for_as_quick_as_the_one_before(start: Start) -> None:
    stages = Stages()
    stages.slice_s = {BONE: 0.001, "other": 1.0}
    thick = {"name": "thick", "match": {"SliceThickness": {"min": 3}}, "model": "other"}
    node = start(stages, routes=[thick, {"name": "rest"}])
    store_slices(node.intake, range(1, 101), series="1.2.3.1", SliceThickness=1)
    node.tick_until(lambda: len(stages.early) == 100)
    store_slices(node.intake, range(1, 41), series="1.2.3.2", SliceThickness=5)
    node.tick_until(lambda: len(stages.early) == 140)
    assert stages.at_once == [16, 64, 20, 16, 16, 8]


@pytest.mark.parametrize("numbers", [[1, 2, 3, 7, 8], [1]])
def test_what_has_gaps_or_no_route_is_not_run_ahead(start: Start, numbers: list[int]) -> None:
    node = start()
    store_slices(node.intake, numbers)
    node.clock.advance(SETTLED_S)
    for _ in range(5):
        assert node.observer.tick()
    assert begun(node) == []


def test_nothing_is_run_ahead_where_it_is_switched_off(start: Start) -> None:
    node = start(ahead=False)
    store_slices(node.intake, range(1, 6))
    node.clock.advance(SETTLED_S)
    for _ in range(5):
        assert node.observer.tick()
    assert node.engine.requests == []


def test_slices_are_read_as_they_come_each_once(start: Start) -> None:
    stages = Stages()
    node = start(stages)
    for number in range(1, 41):
        store_slices(node.intake, [number])
        node.clock.advance(0.05)
        assert node.observer.tick()
    node.tick_until(lambda: len(stages.early) == 40)
    assert len(set(stages.early)) == 40


def slices_of(request: StageRequest) -> int:
    return len(request.inputs)


def ahead_of(node: Node) -> list[tuple[int, str, Stage]]:
    """What was begun ahead: how many slices, by which model, and the stage."""
    asked = (r for r in node.engine.requests if isinstance(r, StageRequest) and not r.job_id)
    return [(slices_of(r), r.model, r.stage) for r in asked]


def tick_idle(node: Node, seconds: float = SETTLED_S) -> None:
    """Let some quiet time pass, and whatever is begun in it come to its end."""
    node.clock.advance(seconds)
    for _ in range(8):
        assert node.observer.tick()
        node.tick_until(lambda: node.engine.free == node.engine.slots)


THINNEST = {"name": "thin", "series": "thinnest", "match": {"instances": {"min": 4}}}
LARGEST = {"name": "large", "series": "largest"}
BONE = "builtin:bone"


def test_the_thinnest_series_by_what_is_held_is_run_ahead(start: Start) -> None:
    node = start(routes=[THINNEST])
    store_slices(node.intake, range(1, 8), series="1.2.3.1", SliceThickness=5)
    store_slices(node.intake, range(1, 6), series="1.2.3.2", SliceThickness=1)
    tick_idle(node)
    assert ahead_of(node) == [(5, BONE, stage) for stage in WORKER]
    node.clock.advance(QUIET_S)
    node.tick_until(lambda: {job["state"] for job in node.jobs()} == {"done", "rejected"})
    assert len(begun(node)) == 3, "the job has taken over what was done"


def test_a_thinner_series_that_has_only_begun_is_waited_for(start: Start) -> None:
    node = start(routes=[THINNEST])
    store_slices(node.intake, range(1, 8), series="1.2.3.1", SliceThickness=5)
    node.clock.advance(SETTLED_S)
    store_slices(node.intake, [1, 2], series="1.2.3.2", SliceThickness=1)  # Too few as yet.
    tick_idle(node, 0.1)
    assert ahead_of(node) == []
    tick_idle(node)
    assert ahead_of(node) == [(7, BONE, stage) for stage in WORKER], "it has come to no more"


def test_while_another_series_still_arrives_none_is_the_largest(start: Start) -> None:
    node = start(routes=[LARGEST])
    store_slices(node.intake, range(1, 8), series="1.2.3.1")
    node.clock.advance(SETTLED_S)
    store_slices(node.intake, [1, 2], series="1.2.3.2")
    tick_idle(node, 0.1)
    assert ahead_of(node) == []
    store_slices(node.intake, range(3, 10), series="1.2.3.2")
    tick_idle(node)
    assert ahead_of(node) == [(9, BONE, stage) for stage in WORKER]


def test_a_wrong_guess_is_dropped_and_leaves_nothing(start: Start) -> None:
    node = start(routes=[THINNEST])
    store_slices(node.intake, range(1, 8), series="1.2.3.1", SliceThickness=5)
    tick_idle(node)
    assert {n for n, _, _ in ahead_of(node)} == {7}
    store_slices(node.intake, range(1, 6), series="1.2.3.2", SliceThickness=1)
    tick_idle(node)
    assert ahead_of(node)[3:] == [(5, BONE, stage) for stage in WORKER]
    assert len(list((node.data_dir / "work" / "ahead").iterdir())) == 1
    node.clock.advance(QUIET_S)
    node.tick_until(lambda: {job["state"] for job in node.jobs()} == {"done", "rejected"})
    assert len(begun(node)) == 6
    assert not list((node.data_dir / "work" / "ahead").iterdir())


def test_every_route_that_takes_a_series_is_run_ahead(start: Start) -> None:
    node = start(routes=[{"name": "a"}, {"name": "b", "model": "other"}])
    store_slices(node.intake, range(1, 6))
    tick_idle(node)
    wanted = [(5, model, stage) for model in (BONE, "other") for stage in WORKER]
    assert ahead_of(node) == wanted
    outputs = [r.outputs for r in node.engine.requests if getattr(r, "stage", "") == Stage.ENCODE]
    assert not set(outputs[0].values()) & set(outputs[1].values())
    node.clock.advance(QUIET_S)
    node.tick_until(lambda: [job["state"] for job in node.jobs()] == ["done", "done"])
    assert len(begun(node)) == 6
    assert not list((node.data_dir / "work" / "ahead").iterdir())


def test_what_still_writes_when_it_is_forgotten_is_removed_at_its_end(start: Start) -> None:
    go = threading.Event()

    class Slow(Stages):
        def __call__(self, request: StageRequest | SliceRequest) -> StageReport:
            if isinstance(request, StageRequest):
                assert go.wait(30)
            return super().__call__(request)

    node = start(Slow(), routes=[THINNEST])
    store_slices(node.intake, range(1, 8), series="1.2.3.1", SliceThickness=5)
    node.clock.advance(SETTLED_S)
    node.tick_until(lambda: ahead_of(node))
    store_slices(node.intake, range(1, 6), series="1.2.3.2", SliceThickness=1)
    node.clock.advance(SETTLED_S)
    assert node.observer.tick()
    go.set()
    node.tick_until(lambda: len(ahead_of(node)) == 4 and node.engine.free == node.engine.slots)
    assert {n for n, _, _ in ahead_of(node)[1:]} == {5}
    assert len(list((node.data_dir / "work" / "ahead").iterdir())) == 1


def test_a_restart_forgets_and_does_it_again(start: Start) -> None:
    node = start()
    store_slices(node.intake, range(1, 6))
    run_ahead(node)
    node.restart()
    node.clock.advance(QUIET_S)
    node.tick_until_state("done")
    assert begun(node) == [(1, stage) for stage in WORKER]


def test_the_observer_sleeps_while_nothing_more_can_be_done_ahead(start: Start) -> None:
    node = start()
    store_slices(node.intake, range(1, 6))
    run_ahead(node)
    assert node.observer.tick()
    assert node.observer.next_due() >= node.clock() + 4.0
