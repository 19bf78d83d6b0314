"""The engine with real worker processes: killed at any time, warm again, gone with their parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from osteon.config.settings import Settings
from osteon.errors import ConfigError, ModelError, OsteonError, WorkerLostError
from osteon.pipeline import worklock
from osteon.pipeline.job import Stage
from osteon.pipeline.role import run_work
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.workers.engine import LocalEngine, auto_slots
from osteon.pipeline.workers.request import StageReport, StageRequest, WorkerSettings
from osteon.pipeline.worklock import work_is_running
from tests.packages import install
from tests.tools import wait_until


def request(folder: Path, *, job_id: int = 1, attempt: int = 1) -> StageRequest:
    """Ask for the prediction of a series of no files, which the stage refuses."""
    return StageRequest(
        job_id=job_id,
        stage=Stage.PREDICTION,
        attempt=attempt,
        out=folder / str(attempt),
        inputs=(folder / "none.dcm",),
        outputs={},
        model="builtin:bone",
        models_dir=None,
        input_sha256="ab" * 32,
        content_at=0.0,
    )


@pytest.fixture
def engine():
    made = LocalEngine(1, WorkerSettings("builtin:bone"))
    yield made
    made.close()


def test_a_worker_killed_at_any_time_is_lost_once_and_the_slot_works_again(engine, tmp_path):
    # While it is still loading its stages: a model that hangs there must not hold the slot.
    loading: Future[StageReport] = engine.submit(request(tmp_path))
    assert engine.free == 0
    with pytest.raises(RuntimeError, match="no slot"):
        engine.submit(request(tmp_path))
    assert engine.worker(loading) == "slot 1"
    assert engine.worker(Future()) == ""
    engine.kill(loading)
    with pytest.raises(WorkerLostError, match="worker process died"):
        loading.result(10)
    assert engine.worker(loading) == "slot 1"
    wait_until(lambda: engine.free == 1, 5)
    second = engine.submit(request(tmp_path, attempt=2))
    with pytest.raises(OsteonError) as caught:
        second.result(60)
    assert not isinstance(caught.value, WorkerLostError)
    # While it is idle.
    slot = engine._slots[0]
    lost = slot._process.pid
    os.kill(lost, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(lost), 10)
    third = engine.submit(request(tmp_path, attempt=3))
    assert slot._process.pid != lost
    engine.kill(second)  # Its stage is over: the slot's present stage must not suffer for it.
    engine.kill(third)
    with pytest.raises(WorkerLostError):
        third.result(10)


PARENT = """
import sys, time
from osteon.pipeline.workers.engine import LocalEngine
from osteon.pipeline.workers.request import WorkerSettings
if __name__ == "__main__":
    engine = LocalEngine(1, WorkerSettings("builtin:bone"))
    print(engine._slots[0].pid, flush=True)
    time.sleep(120)
"""


def test_a_worker_ends_with_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as parent:
        worker = int(parent.stdout.readline())
        assert psutil.pid_exists(worker)
        parent.kill()
        parent.wait(10)
        wait_until(lambda: not psutil.pid_exists(worker) or is_zombie(worker), 10)


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_slots_follow_gpus_and_cores():
    assert auto_slots((), cpus=1) == 1
    assert auto_slots((), cpus=9) == 4
    assert auto_slots(("3", "5"), cpus=64) == 2


def settings_of(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", pipeline={"slots": 1, "disk_reserve_gb": 0.0})


def test_only_one_works_on_a_data_directory(tmp_path, monkeypatch):
    """The role starts, answers the probe, turns a second one away, and stops within seconds."""
    monkeypatch.setattr(worklock, "LOCK_WAIT_S", 0.3)
    settings = settings_of(tmp_path)
    assert not work_is_running(settings.data_dir)
    open_table(settings.data_dir).close()
    draft = settings.data_dir / "incoming" / "tmpdead"
    draft.parent.mkdir()
    draft.write_bytes(b"half")
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            run_work(settings, stop)
        except OsteonError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: work_is_running(settings.data_dir), 10)
        with pytest.raises(ConfigError, match=r"another process works on .*: stop it first"):
            run_work(settings, threading.Event())
        assert work_is_running(settings.data_dir)
        wait_until(lambda: not draft.exists(), 10)
    finally:
        started = time.monotonic()
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - started < 5.0
    assert failures == []
    assert not work_is_running(settings.data_dir)


def test_probes_do_not_turn_the_role_away(tmp_path):
    settings = settings_of(tmp_path)
    settings.data_dir.mkdir()
    done = threading.Event()

    def probe() -> None:
        while not done.is_set():
            work_is_running(settings.data_dir)

    threads = [threading.Thread(target=probe) for _ in range(3)]
    for thread in threads:
        thread.start()
    descriptor = worklock.hold(settings.data_dir, threading.Event())
    done.set()
    for thread in threads:
        thread.join(10)
    assert work_is_running(settings.data_dir)
    os.close(descriptor)


def test_a_model_that_cannot_be_made_fails_the_job_and_not_the_worker(tmp_path, monkeypatch):
    code = "def make():\n    raise SystemExit('no licence')\n"
    monkeypatch.syspath_prepend(install(tmp_path / "site", "theirs", code, "make"))
    engine = LocalEngine(1, WorkerSettings("theirs"))
    try:
        wait_until(lambda: engine._slots[0]._is_ready, 60)
        pid = engine._slots[0].pid
        for attempt in (1, 2):
            asked = replace(request(tmp_path, attempt=attempt), model="theirs")
            with pytest.raises(ModelError, match=r"theirs 1: .*fails: SystemExit: no licence"):
                engine.submit(asked).result(60)
            wait_until(lambda: engine.free, 10)
        assert engine._slots[0].pid == pid
    finally:
        engine.close()
