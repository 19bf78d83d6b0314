"""Shadow models under the real observer: beside the first, behind everything, harming nothing."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.errors import ModelError, VolumeError
from osteon.pipeline.table import shadow, views
from osteon.pipeline.workers.request import SliceRequest, StageReport, StageRequest
from tests.pipeline_parts import SERIES, Node, ThreadEngine, store_slices, write_stage

PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}


def stage(request: StageRequest) -> StageReport:
    if request.model == "broken":
        raise ModelError("its weights are gone")
    return write_stage(request)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node whose route has two shadows, one of them broken, and whose PACS is down."""
    settings = Settings(
        data_dir=tmp_path / "data",
        destination=[PACS],
        route=[{"name": "bone", "shadow": ["new", "broken"]}],
        pipeline={"disk_reserve_gb": 0.0, "ahead": False},
    )
    made = Node(settings.data_dir, settings, ThreadEngine(stage))
    yield made
    made.close()
    made.observer._shadow.close()


def settled(node: Node) -> bool:
    jobs = node.jobs()
    return len(jobs) == 3 and jobs[1]["state"] == "done" and jobs[2]["state"] == "failed"


def test_a_shadow_runs_after_the_first_and_its_failure_stays_its_own(node: Node) -> None:
    node.receive(range(1, 4))
    node.tick_until(lambda: settled(node))
    models = [request.model for request in node.engine.requests]
    assert models == ["builtin:bone"] * 3 + ["new"] * 3 + ["broken"]
    said = views.predict(node.table, SERIES)
    assert (said["id"], said["status"]) == ("1", "delivering")
    assert [(s["model"], s["status"]) for s in said["shadow"]] == [
        ("new", "done"),
        ("broken", "failed"),
    ]
    assert said["shadow"][1]["reason"] == "its weights are gone"
    assert node.job(2)["reason"] == "kept here: it is a shadow"
    assert (shadow.count_failed(node.table), shadow.count_open(node.table)) == (1, 0)
    assert [d["destination"] for d in node.table.rows("SELECT * FROM delivery")] == ["pacs"]


def test_a_series_that_is_rejected_has_no_shadow(node: Node) -> None:
    def refuse(request: StageRequest) -> StageReport:
        raise VolumeError("it is no volume")

    node.engine.run = refuse
    node.receive(range(1, 4))
    node.tick_until_state("rejected")
    assert node.observer.tick()
    assert len(node.jobs()) == 1


def test_results_that_cannot_be_compared_say_so_and_change_nothing(node: Node) -> None:
    node.receive(range(1, 4))
    node.tick_until(lambda: settled(node))

    def reason() -> str:
        return str(views.predict(node.table, SERIES)["shadow"][0]["reason"])

    node.tick_until(lambda: "is not a readable Segmentation" in reason(), timeout_s=60)
    assert node.job(2)["state"] == "done"
    assert node.observer.tick()


def test_a_comparison_that_dies_or_hangs_is_given_up(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.receive(range(1, 4))
    node.tick_until(lambda: node.observer._shadow._comparing is not None)
    comparing = node.observer._shadow._comparing
    assert comparing is not None
    comparing.process.kill()
    comparing.process.join(10)
    node.tick_until(lambda: node.observer._shadow._comparing is None)
    assert views.predict(node.table, "2")["status"] in {"delivering", "done"}
    said = views.predict(node.table, SERIES)["shadow"][0]
    assert said["reason"] == "the process that compared it died"


def test_a_comparison_that_was_begun_is_begun_again_after_a_restart(node: Node) -> None:
    node.receive(range(1, 4))
    node.tick_until(lambda: node.observer._shadow._comparing is not None)
    node.observer._shadow.close()
    node.restart()
    node.tick_until(lambda: node.observer._shadow._comparing is not None)
    node.clock.advance(301.0)
    node.tick_until(lambda: node.observer._shadow._comparing is None)
    reasons = [s["reason"] for s in views.predict(node.table, SERIES)["shadow"]]
    assert reasons[0].startswith(("it could not be compared within 300 s", "/"))


def shadows(requests: list[StageRequest | SliceRequest]) -> set[int]:
    """The jobs of the second model among what the engine was asked for."""
    return {r.job_id for r in requests if isinstance(r, StageRequest) and r.model == "new"}


def test_work_ahead_of_the_quiet_time_comes_before_shadows(tmp_path: Path) -> None:
    held, go_on = threading.Event(), threading.Event()

    def run(request: StageRequest | SliceRequest) -> StageReport:
        if isinstance(request, SliceRequest):
            return StageReport("read early", 0.1)
        if request.job_id == 7:
            held.set()
            go_on.wait(30)
        return write_stage(request)

    settings = Settings(
        data_dir=tmp_path / "data",
        route=[{"name": "bone", "shadow": "new"}],
        pipeline={"disk_reserve_gb": 0.0, "ahead": True},
    )
    node = Node(settings.data_dir, settings, ThreadEngine(run))
    try:
        for number in range(1, 5):
            node.receive(range(1, 4), series=f"1.2.3.{number}")
        node.tick_until(held.is_set)
        # Four jobs, and then the third of their shadows, beside which nobody finds a place.
        assert [r.job_id for r in node.engine.requests[::3]] == [1, 2, 3, 4, 5, 6, 7]
        store_slices(node.intake, range(1, 4), series="1.2.3.9")
        node.observer.tick()
        go_on.set()
        node.tick_until(lambda: all(job["state"] == "done" for job in node.jobs()))
        first = [type(request) for request in node.engine.requests].index(SliceRequest)
        assert 8 in shadows(node.engine.requests[first:]), "the last has made way"
    finally:
        go_on.set()
        node.close()
        node.observer._shadow.close()
