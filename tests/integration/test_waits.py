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
from osteon.errors import OsteonError, OutOfResourcesError, StageError, WorkerLostError
from osteon.pipeline import delivery, door, outcomes, role
from osteon.pipeline.proof import Prover
from osteon.pipeline.table import jobs, proofs, views, workers
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
        self.error: OsteonError = StageError("out of GPU memory")

    def __call__(self, request: StageRequest) -> StageReport:
        if self.failures:
            self.failures -= 1
            raise self.error
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


def test_an_engine_without_a_scheduler_is_told_before_the_throttler_too(node: Node) -> None:
    node.engine.slots = 0
    node.receive([1, 2, 3])
    node.tick_until(lambda: node.jobs() and node.job()["stage"] == "prediction")
    node.receive([1, 2, 3], series="1.2.3.2")
    node.observer.tick()
    node.engine.reason = "the scheduler tls://gpu:8786 does not answer"
    node.observer.tick()
    said = told(node, "2")
    assert said["waiting_for"] == (
        "waits for room: 1 job may run at once; no stage can run:"
        " the scheduler tls://gpu:8786 does not answer"
    )
    assert said["since"] == at(node)


def test_a_retried_job_says_that_it_failed_while_it_waits_for_a_worker(
    node: Node, stages: Stages
) -> None:
    stages.failures = 1
    node.receive([1, 2, 3])
    node.tick_until_state("backoff")
    node.engine.slots = 0
    node.clock.advance(300.0)
    node.tick_until_state("waiting")
    node.clock.advance(4.0)
    said = told(node, "1")
    assert said["waiting_for"] == "waits for a worker again; 1 attempt of this stage failed"
    assert said["since"] == at(node, -4.0)


def test_disk_space_at_the_throttler(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "free_bytes", lambda _: 0)
    node.receive([1, 2, 3])
    node.tick_until(node.jobs)
    node.clock.advance(9.0)
    said = told(node, "1")
    assert said["waiting_for"].startswith("waits for disk space: it needs 0.")
    assert said["since"] == at(node, -9.0)


def test_a_disk_that_is_full_in_a_stage(
    node: Node, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes, "free_bytes", lambda _: -1)
    stages.error = OutOfResourcesError("no space left on the device")
    stages.failures = 1
    node.receive([1, 2, 3])
    job = node.tick_until_state("backoff")
    said = told(node, "1")
    assert said["waiting_for"] == "waits for disk space: no space left on the device"
    assert (said["since"], said["until"]) == (at(node), views.iso(job["not_before"]))


def test_a_gpu_that_is_full(node: Node, stages: Stages) -> None:
    stages.error = WorkerLostError("bones: out of GPU memory with one patch at a time")
    stages.failures = 1
    node.receive([1, 2, 3])
    node.tick_until_state("backoff")
    said = told(node, "1")
    assert said["waiting_for"] == (
        "tries again: attempt 1 of 3 failed: bones: out of GPU memory with one patch at a time"
    )
    assert said["since"] == at(node)


def test_a_job_that_runs_again_waits_for_the_throttler(node: Node, stages: Stages) -> None:
    node.receive([1, 2, 3])
    node.tick_until(node.jobs)
    jobs.cancel(node.table, jobs.get(node.table, 1), "ada")
    jobs.rerun(node.table, jobs.get(node.table, 1), "ada")
    said = views.predict(node.table, "1")
    assert said["waiting_for"] == "waits for the throttler; before: run again by ada"
    assert said["since"] == at(node)


def test_storage_commitment(node: Node, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def prove(self: Prover, destination: Any, peer: Any, path: Path) -> str:
        uid = node.table.rows("SELECT sop_instance_uid AS uid FROM result")[0]["uid"]
        proofs.ask(self._table, "1.2.3", destination.name, uid)
        answered.wait(30)
        return "stored"

    monkeypatch.setattr(delivery, "store", lambda *_: None)
    monkeypatch.setattr(Prover, "prove", prove)
    stages.go_on.set()
    node.receive([1, 2, 3])
    node.tick_until(lambda: node.table.rows("SELECT 1 FROM proof"))
    node.clock.advance(6.0)
    said = told(node, "1")
    assert said["waiting_for"] == "was sent to pacs and waits for its storage commitment, or C-FIND"
    assert said["since"] == at(node, -6.0)
    answered.set()
    node.tick_until_state("done")


def test_a_role_that_was_stopped(node: Node, stages: Stages) -> None:
    node.receive([1, 2, 3], settle_s=1.0)
    workers.note_engine(node.table, 0, workers.STOPPED)
    said = views.predict(node.table, SERIES)
    assert said["waiting_for"] == (
        "waits for 5 s without a new instance; the role `work` was stopped"
    )
    node.clock.advance(5.0)
    node.engine.slots = 0
    node.tick_until(node.jobs)
    workers.note_engine(node.table, 0, workers.STOPPED)
    assert views.predict(node.table, "1")["waiting_for"].endswith("the role `work` was stopped")
    stages.go_on.set()
    node.engine.slots = 1
    node.tick_until(lambda: node.job()["stage"] == "deliver")
    workers.note_engine(node.table, 0, workers.STOPPED)
    assert views.predict(node.table, "1")["waiting_for"].endswith("; the role `work` was stopped")


def test_the_role_says_when_it_stops(node: Node) -> None:
    stop = threading.Event()
    stop.set()
    role.run_work(node.settings, stop)
    state = workers.engine_state(node.table)
    assert state is not None
    assert (state.slots, state.reason, state.idle) == (0, workers.STOPPED, "")


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
