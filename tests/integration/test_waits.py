"""What waits says for what, since when and until when: by predict, jobs, watch and trace."""

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from osteon.cli.jobs import wait_of
from osteon.cli.main import cli
from osteon.config.load import load_settings
from osteon.errors import StageError
from osteon.pipeline.table import views, workers
from osteon.pipeline.workers.request import StageReport, StageRequest
from tests.pipeline_parts import SERIES, Node, ThreadEngine, write_stage
from tests.tools import free_port

CONFIG = """\
data_dir = "{folder}/data"
[scp]
quiet_s = 5
gap_wait_s = 60
[pipeline]
disk_reserve_gb = 0
ahead = false
running_max = 1
[delivery]
retry_first_s = 100
[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
"""


class Stages:
    """What stages do: they wait until they may go on, and fail as often as was asked for."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.failures = 0

    def __call__(self, request: StageRequest) -> StageReport:
        if self.failures:
            self.failures -= 1
            raise StageError("out of GPU memory")
        self.go_on.wait(30)
        return write_stage(request)


@pytest.fixture
def stages() -> Iterator[Stages]:
    made = Stages()
    yield made
    made.go_on.set()


@pytest.fixture
def node(tmp_path: Path, stages: Stages) -> Iterator[Node]:
    config = tmp_path / "osteon.toml"
    config.write_text(CONFIG.format(folder=tmp_path, port=free_port()))
    settings = load_settings(config)
    made = Node(settings.data_dir, settings, ThreadEngine(stages))
    yield made
    stages.go_on.set()
    made.close()


def told(node: Node, name: str = SERIES) -> dict[str, Any]:
    """What predict says of a waiting job; every command must say the same."""
    assert node.observer.tick()
    said = views.predict(node.table, name)
    assert said["waiting_for"] == said["reason"]
    for command in (["jobs", "list"], ["jobs", "show", name], ["watch", "--once"], ["trace", name]):
        line = [*command, "--config", str(node.data_dir.parent / "osteon.toml")]
        result = CliRunner().invoke(cli, line)
        assert result.exit_code == 0, result.output
        assert said["waiting_for"] in result.output, command
        words = f"since     {datetime.fromisoformat(said['since']).astimezone():%Y-%m-%d %H:%M:%S}"
        assert command != ["jobs", "show", name] or words in result.output
        assert command[:2] == ["jobs", "show"] or ", for 0 s" in result.output
    return said


def at(node: Node, seconds: float = 0.0) -> str | None:
    return views.iso(node.clock.now + seconds)


def test_quiet_time(node: Node) -> None:
    node.receive([1, 2, 3], settle_s=2.0)
    said = told(node)
    assert said["waiting_for"] == "waits for 5 s without a new instance"
    assert (said["since"], said["until"]) == (at(node, -2.0), at(node, 3.0))


def test_missing_slices(node: Node) -> None:
    node.receive([1, 2, 5, 6], settle_s=8.0)
    said = told(node)
    assert said["waiting_for"] == "waits for slices 3–4 missing"
    assert (said["since"], said["until"]) == (at(node), at(node, 52.0))


def test_a_limit_of_the_throttler(node: Node) -> None:
    node.receive([1, 2, 3])
    node.tick_until_state("running")
    node.receive([1, 2, 3], series="1.2.3.2")
    node.observer.tick()
    node.clock.advance(7.0)
    said = told(node, "2")
    assert said["waiting_for"] == "waits for room: 1 job may run at once"
    assert said["since"] == at(node, -7.0)


def test_no_free_worker(node: Node, stages: Stages) -> None:
    node.engine.slots = 0
    node.receive([1, 2, 3])
    node.observer.tick()
    node.clock.advance(3.0)
    said = told(node, "1")
    assert said["waiting_for"].startswith("waits for a worker")
    assert said["since"] == at(node, -3.0)


def test_an_engine_without_a_scheduler(node: Node) -> None:
    node.engine.slots = 0
    node.receive([1, 2, 3])
    node.observer.tick()
    workers.note_engine(node.table, 0, "the scheduler tls://gpu:8786 does not answer")
    node.engine.reason = "the scheduler tls://gpu:8786 does not answer"
    said = told(node, "1")
    assert said["waiting_for"] == (
        "waits for a worker; there is none: the scheduler tls://gpu:8786 does not answer"
    )


def test_the_next_attempt(node: Node, stages: Stages) -> None:
    stages.failures = 2
    node.receive([1, 2, 3])
    job = node.tick_until_state("backoff")
    said = told(node, "1")
    assert said["waiting_for"] == "tries again: attempt 1 of 3 failed: out of GPU memory"
    assert (said["since"], said["until"]) == (at(node), views.iso(job["not_before"]))
    node.clock.advance(300.0)
    node.tick_until(lambda: node.job()["failures"] == 2)
    assert "attempt 2 of 3 failed" in told(node, "1")["waiting_for"]


def test_a_destination_that_failed_and_one_whose_breaker_is_open(
    node: Node, stages: Stages
) -> None:
    stages.go_on.set()
    node.receive([1, 2, 3])
    node.receive([1, 2, 3], series="1.2.3.2")
    node.tick_until(lambda: {job["stage"] for job in node.jobs()} == {"deliver"})

    def failed() -> bool:
        return any(d["attempts"] and d["state"] == "waiting" for d in deliveries())

    def deliveries() -> list[dict[str, Any]]:
        return [dict(d) for d in node.table.rows("SELECT * FROM delivery ORDER BY id")]

    node.tick_until(failed)
    tried = next(d["id"] for d in deliveries() if d["attempts"])
    node.observer.tick()
    said, other = told(node, str(tried)), told(node, str(3 - tried))
    why = "PACS at 127.0.0.1:"
    assert said["waiting_for"].startswith(f"waits for pacs after 1 attempt: {why}")
    assert other["waiting_for"].startswith(
        f"waits for pacs: it rests after a failure, the last: {why}"
    )
    for one, row in ((said, deliveries()[tried - 1]), (other, deliveries()[2 - tried])):
        assert one["until"] == views.iso(row["not_before"]) > at(node)


@pytest.mark.parametrize(
    ("since", "until", "words"),
    [
        (None, None, ""),
        (100.0, None, ", for 20 s"),
        (0.0, 180.0, ", for 2 min, 60 s more at most"),
        (-9000.0, 90.0, ", for 2 h 32 min, due now"),
    ],
)
def test_how_long_in_words(since: float | None, until: float | None, words: str) -> None:
    job = {"since": views.iso(since), "until": views.iso(until)}
    assert wait_of(job, now=120.0) == words
