"""A person changes the class of what waits: the throttler's order and the workers' follow."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.config.settings import Settings
from osteon.pipeline.workers.request import StageReport, StageRequest
from tests.pipeline_parts import Node, ThreadEngine, write_stage
from tests.tools import wait_until

UIDS = ("1.9.1", "1.9.2", "1.9.3")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds the stages of all jobs until it is set."""
    made = threading.Event()
    yield made
    made.set()


def node_of(folder: Path, gate: threading.Event, running_max: int, depth: int) -> Node:
    """A node with one slot, three series that wait for it, the first of which it has."""

    def run(request: StageRequest) -> StageReport:
        gate.wait(30)
        return write_stage(request)

    (folder / "osteon.toml").write_text(f'data_dir = "{folder}/data"\n')
    pipeline = {"running_max": running_max, "disk_reserve_gb": 0, "ahead": False}
    settings = Settings.model_validate(
        {"data_dir": folder / "data", "pipeline": pipeline, "source": [{"ae_title": "CT1"}]}
    )
    node = Node(settings.data_dir, settings, ThreadEngine(run, depth=depth))
    for uid in UIDS:
        node.receive(range(1, 3), series=uid)
        node.tick_until(lambda: len(node.jobs()) == UIDS.index(uid) + 1)  # noqa: B023 - at once
    node.tick_until_state("running", 1)
    return node


def osteon(folder: Path, *line: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [*line, "--config", str(folder / "osteon.toml")])
    return result.exit_code, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("running_max", "depth"),
    [(1, 0), (8, 0), (8, 1)],
    ids=["before the throttler", "before the workers", "handed to the engine already"],
)
def test_what_became_urgent_is_next(
    tmp_path: Path, gate: threading.Event, running_max: int, depth: int
) -> None:
    node = node_of(tmp_path, gate, running_max, depth)
    code, out = osteon(tmp_path, "jobs", "priority", "1.9.3", "stat", "--json")
    (said,) = json.loads(out)
    assert (code, said) == (0, {"id": "3", "became": "prioritized", "words": "is stat now"})
    assert node.observer.tick()
    gate.set()
    node.tick_until_state("done", 2)
    ran = [request.job_id for request in node.engine.requests]
    assert list(dict.fromkeys(ran)) == [1, 3, 2]
    assert "prioritize" in node.events(3)
    assert "stat instead of routine" in osteon(tmp_path, "trace", "3")[1]
    node.close()


def test_what_became_less_urgent_gives_up_its_place(tmp_path: Path, gate: threading.Event) -> None:
    node = node_of(tmp_path, gate, 8, 1)
    wait_until(lambda: node.observer.tick() and 2 in node.observer._dispatcher._offers)
    assert osteon(tmp_path, "jobs", "priority", "2", "bulk")[0] == 0
    assert node.observer.tick()
    gate.set()
    node.tick_until_state("done", 2)
    ran = [request.job_id for request in node.engine.requests]
    assert list(dict.fromkeys(ran)) == [1, 3, 2]
    node.close()


def test_of_several_those_that_wait_and_what_runs_says_so(
    tmp_path: Path, gate: threading.Event
) -> None:
    node = node_of(tmp_path, gate, 8, 0)
    code, out = osteon(tmp_path, "jobs", "priority", "1", "stat")
    assert code == 4
    assert "job 1 is running at prediction" in out
    code, out = osteon(tmp_path, "jobs", "priority", "1.9.3", "urgent")
    assert (code, out) == (0, "job 3 is urgent now\n")
    code, out = osteon(tmp_path, "jobs", "priority", "3", "urgent")
    assert (code, out) == (0, "job 3 is urgent already\n")
    assert osteon(tmp_path, "jobs", "priority", "3", "later")[0] == 2
    gate.set()
    node.close()
