"""Slots that never wait: what follows is there before it is needed, and shares no fate with others.

The model is one of known cost, in a worker process of its own.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import psutil
import pytest

from osteon.errors import VolumeError, WorkerLostError
from osteon.pipeline.job import WORKER_STAGES
from osteon.pipeline.workers.engine import LocalEngine, threads_of
from osteon.pipeline.workers.request import CacheSettings, StageReport, StageRequest, WorkerSettings
from tests import known_cost
from tests.acceptance.ct import write_series
from tests.tools import wait_until

COST_S = 0.3
Make = Callable[..., LocalEngine]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make the model known to worker processes; return where its log and its faults are."""
    folder = tmp_path_factory.mktemp("slots")
    (folder / "faults").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(known_cost.install(folder / "site"))
        patch.setenv("KNOWN_COST_LOG", str(folder / "device.log"))
        patch.setenv("KNOWN_COST_FAULTS", str(folder / "faults"))
        patch.setenv("KNOWN_COST_S", str(COST_S))
        yield folder


@pytest.fixture(scope="module")
def shared(place: Path) -> Iterator[LocalEngine]:
    made = LocalEngine(1, WorkerSettings(known_cost.NAME))
    yield made
    made.close()


@pytest.fixture
def engine(shared: LocalEngine) -> LocalEngine:
    """One slot, which has nothing to do and has loaded its model."""
    (slot,) = shared._slots
    wait_until(lambda: slot.free and slot._is_ready and not slot.begun, 60)
    return shared


@pytest.fixture
def make(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    engines = []

    def start(*, cost_s: float, dimension: str = "3d", **settings: int) -> LocalEngine:
        monkeypatch.setenv("KNOWN_COST_S", str(cost_s))
        monkeypatch.setenv("KNOWN_COST_DIMENSION", dimension)
        engines.append(LocalEngine(1, WorkerSettings(known_cost.NAME, **settings)))
        return engines[-1]

    yield start
    for one in engines:
        one.close()


def chain_of(folder: Path, number: int, *, first_hu: int = 0, slices: int = 12, cache=None):
    """Write a series and return the requests of its three stages."""
    series = folder / "spool" / str(number)
    if not series.exists():
        write_series(series, seed=f"slots{number}", slices=slices, first_hu=first_hu)
    outs = {stage: folder / "work" / str(number) / stage for stage in WORKER_STAGES}
    return [
        StageRequest(
            job_id=number,
            stage=stage,
            attempt=1,
            out=outs[stage],
            inputs=tuple(sorted(series.iterdir())),
            outputs={s: outs[s] for s in WORKER_STAGES[: WORKER_STAGES.index(stage)]},
            model=known_cost.NAME,
            models_dir=None,
            input_sha256=f"{number:064}",
            content_at=1_767_000_000.0,
            cache=cache,
        )
        for stage in WORKER_STAGES
    ]


def uses(place: Path) -> list[tuple[float, float, int]]:
    """When the device was used, and for how many slices."""
    lines = (place / "device.log").read_text().splitlines()
    return [(float(b), float(e), int(n)) for _, b, e, n in (line.split() for line in lines)]


def test_the_device_goes_on_while_the_last_result_is_encoded(engine, place, tmp_path):
    chains = [chain_of(tmp_path, number, slices=40) for number in range(1, 6)]
    futures: list[Future[StageReport]] = []
    for requests in chains:
        wait_until(lambda: engine.room, 60)
        futures += engine.chain(requests)
    assert not wait(futures, 60).not_done
    encodings = [future.result() for future in futures[2::3]]
    begins = [begin for begin, _, _ in uses(place)[-4:]]
    ends = [report.began + report.seconds for report in encodings]
    assert all(begin < end for begin, end in zip(begins, ends, strict=False)), (begins, ends)


def test_what_follows_is_pending_until_it_begins_and_can_be_taken_back(engine, place, tmp_path):
    running = engine.chain(chain_of(tmp_path, 1))
    assert (engine.free, engine.room) == (0, 1)
    following = engine.chain(chain_of(tmp_path, 2))
    assert engine.room == 0
    with pytest.raises(RuntimeError, match="no slot is free"):
        engine.chain(chain_of(tmp_path, 3))
    assert running[0].running()
    assert not any(f.running() or f.done() for f in (*running[1:], *following))
    assert engine.withdraw(following[0])
    assert all(f.cancelled() for f in following)
    assert engine.room == 1
    assert not engine.withdraw(running[0])
    assert [f.result(60).why for f in running][1] == "combined into 1 segment"


def test_a_killed_stage_takes_nothing_of_what_follows_with_it(engine, place, tmp_path):
    (place / "faults" / "7-hang").write_bytes(b"1")
    hanging = engine.chain(chain_of(tmp_path, 1, first_hu=7))
    following = engine.chain(chain_of(tmp_path, 2))
    wait_until(lambda: not (place / "faults" / "7-hang").read_bytes(), 60)
    engine.kill(hanging[1])  # It has not begun: nothing is ended for it.
    engine.kill(hanging[0])
    with pytest.raises(WorkerLostError, match=r"died by SIGKILL") as lost:
        hanging[0].result(10)
    assert lost.value.counts
    assert all(f.cancelled() for f in hanging[1:])
    assert len([f.result(60) for f in following]) == 3


def test_a_failed_stage_ends_its_chain_and_the_slot_goes_on(engine, place, tmp_path):
    requests = chain_of(tmp_path, 1)
    for path in requests[0].inputs[:2]:
        path.write_bytes(b"no DICOM")
    broken, following = engine.chain(requests), engine.chain(chain_of(tmp_path, 2))
    with pytest.raises(VolumeError, match="DICOM"):
        broken[0].result(60)
    assert all(f.cancelled() for f in broken[1:])
    assert following[2].result(60)


def test_what_has_failed_before_runs_alone(engine, place, tmp_path):
    """Beside it nothing is encoded and nothing is begun, so that its death costs nobody else."""
    first = engine.chain(chain_of(tmp_path, 1))
    alone = engine.chain(chain_of(tmp_path, 2), alone=True)
    first[0].result(60)
    wait_until(lambda: alone[0].running() or alone[0].done(), 60)
    assert first[2].done()
    after = engine.chain(chain_of(tmp_path, 3))
    wait_until(lambda: after[0].running() or after[0].done(), 60)
    assert alone[2].done()
    assert after[2].result(60)


def test_out_of_memory_is_told_and_the_worker_makes_room(engine, place, tmp_path):
    (place / "faults" / "9-memory").write_bytes(b"1")
    pid = engine._slots[0].pid
    (prediction, *_) = engine.chain(chain_of(tmp_path, 1, first_hu=9))
    with pytest.raises(WorkerLostError, match="ran out of memory"):
        prediction.result(60)
    wait_until(lambda: engine._slots[0].pid != pid, 20)
    again = engine.chain(chain_of(tmp_path, 1, first_hu=9))
    assert again[2].result(60)


def test_a_worker_that_dies_while_idle_is_replaced_at_once(engine, tmp_path):
    assert engine.chain(chain_of(tmp_path, 1))[2].result(60)
    wait_until(lambda: engine.free, 10)
    pid = engine._slots[0].pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: engine._slots[0].pid != pid, 10)
    assert engine.chain(chain_of(tmp_path, 2))[2].result(60)


def test_a_worker_is_recycled_after_so_many_jobs(make, tmp_path):
    engine = make(jobs_max=2, cost_s=0.0)
    pids = []
    for number in (1, 2, 3):
        wait_until(lambda: engine.free, 60)
        pids.append(engine._slots[0].pid)
        assert engine.chain(chain_of(tmp_path, number))[2].result(60)
    assert pids[0] == pids[1] != pids[2]
    # Another may be needed soon: it is there, with its libraries loaded.
    wait_until(lambda: engine._spares._ready is not None, 20)
    spare = engine._spares._ready[1].pid
    os.kill(pids[2], signal.SIGKILL)
    wait_until(lambda: engine._slots[0].pid == spare, 20)
    assert engine.chain(chain_of(tmp_path, 4))[2].result(60)
    wait_until(lambda: not psutil.pid_exists(pids[0]), 10)


def test_a_late_slice_costs_its_own_prediction(make, place, tmp_path):
    """Also after a restart, in another worker: what was said of slices is on the disk."""
    cache = CacheSettings(tmp_path / "cache", 10**9)
    engine = make(cost_s=0.08, dimension="2d")
    before = sum(slices for _, _, slices in uses(place))
    prediction, *_ = engine.chain(chain_of(tmp_path, 1, slices=60, cache=cache))
    seen = [0.0]
    while not prediction.done():
        seen.append(engine.progress(prediction))
        time.sleep(0.02)
    assert seen == sorted(seen)
    assert 0.2 < max(seen) < 1.0
    engine.close()
    write_series(tmp_path / "more", seed="slots1", slices=65)
    for path in sorted((tmp_path / "more").iterdir())[60:]:
        path.rename(tmp_path / "spool" / "1" / path.name)
    later = make(cost_s=0.08, dimension="2d").chain(chain_of(tmp_path, 1, cache=cache))
    assert later[0].result(60).why == "known-cost predicted 5 of 65 slices"
    assert sum(slices for _, _, slices in uses(place)) - before == 60 + 5


def test_threads_of_all_slots_are_as_many_as_cores():
    assert [threads_of(n, cpus=16) for n in (1, 2, 3, 16, 32)] == [16, 8, 5, 1, 1]


def test_libraries_that_a_worker_loads_keep_to_its_threads():
    told = _in_a_process(
        "from osteon.pipeline.workers.worker import limit_threads; limit_threads(1); "
        "import torch; import SimpleITK as sitk; "
        "print(torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads())"
    )
    assert told == "1 1"


def test_the_builtin_model_needs_no_network_library():
    told = _in_a_process(
        "import sys; from osteon.pipeline.workers import stages; "
        "stages.warm('builtin:bone', None); print('torch' in sys.modules)"
    )
    assert told == "False"


def _in_a_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, timeout=60, check=True
    )
    return done.stdout.decode().strip()
