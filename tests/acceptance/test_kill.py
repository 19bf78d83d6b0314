"""kill -9 of every role and of a worker in the middle of ten series: all arrive, each once."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from osteon.errors import DeliveryError
from osteon.pipeline.instances.part10 import decode_header
from osteon.results.peer import Destination
from osteon.results.scu import store
from tests.acceptance.ct import series_uid, write_series
from tests.acceptance.parts import Node, Orthanc
from tests.tools import wait_until

SERIES = 10
VICTIMS = ("receive", "work", "http", "worker")


# pynetdicom drops the socket of a refused connection and leaves its closing to Python.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_ten_series_survive_the_death_of_every_process(tmp_path: Path) -> None:
    seeds = [f"kill{i}" for i in range(SERIES)]
    for seed in seeds:
        write_series(tmp_path / seed, seed=seed, slices=20)
    with (
        Orthanc(tmp_path / "pacs") as pacs,
        Node(tmp_path / "node", pacs_port=pacs.dicom_port) as node,
        ThreadPoolExecutor(2) as senders,
    ):
        sent = [senders.submit(_send_all, tmp_path / seed, node.dicom_port) for seed in seeds]
        for number, victim in enumerate(VICTIMS):
            wait_until(lambda n=number: _has_begun(node, 1 + 2 * n), 60)
            _kill(node, victim)
        acknowledged = set().union(*(future.result(timeout=180) for future in sent))
        for seed in seeds:
            said = node.wait_for(series_uid(seed), "done", "failed", "rejected", timeout_s=180)
            assert said["status"] == "done", said
            assert (said["instances"], said["generation"]) == (20, 1)  # None of a part.
        segs = [i["MainDicomTags"]["SOPInstanceUID"] for i in pacs.find(Modality="SEG")]
        wanted = [node.predict(series_uid(s))["results"][0]["sop_instance_uid"] for s in seeds]
        assert sorted(segs) == sorted(wanted)
        held = {_uid(path) for path in (node.data_dir / "spool").rglob("*.dcm")}
        assert acknowledged <= held
        assert len(acknowledged) == SERIES * 20


def test_an_idle_node_costs_next_to_nothing(tmp_path: Path) -> None:
    with Node(tmp_path / "node", pacs_port=None) as node:
        assert node.process is not None
        family = [psutil.Process(node.process.pid)]
        family += family[0].children(recursive=True)
        wait_until(lambda: _settled(family), 60)
        before, started = _cpu_s(family), time.monotonic()
        time.sleep(10)
        share = (_cpu_s(family) - before) / (time.monotonic() - started)
        held = sum(process.memory_full_info().pss for process in family)  # What they share, once.
    assert share < 0.02
    assert held < 700e6


def _settled(family: list[psutil.Process]) -> bool:
    before = _cpu_s(family)
    time.sleep(1.0)
    return _cpu_s(family) - before < 0.05


def _cpu_s(family: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)


def _has_begun(node: Node, series: int) -> bool:
    known = node.data_dir / "spool"
    return len(list(known.iterdir())) >= series


def _kill(node: Node, victim: str) -> None:
    if victim == "worker":
        pids = wait_until(node.worker_pids, 30)
    else:
        pids = [wait_until(lambda: node.role_pids().get(victim), 30)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _send_all(folder: Path, port: int) -> set[str]:
    """Send as a modality does, again until all is acknowledged; return what was acknowledged."""
    acknowledged: set[str] = set()
    paths = {_uid(path): path for path in sorted(folder.iterdir())}
    node = Destination("OSTEON", "127.0.0.1", port, "CT1")
    deadline = time.monotonic() + 120
    while len(acknowledged) < len(paths):
        assert time.monotonic() < deadline, f"only {len(acknowledged)} acknowledged"
        left = [path for uid, path in paths.items() if uid not in acknowledged]
        try:
            store(node, left, on_instance=lambda done: acknowledged.add(done.sop_instance_uid))
        except DeliveryError:
            time.sleep(0.1)
    return acknowledged


def _uid(path: Path) -> str:
    raw = path.read_bytes()
    meta, start = decode_header(raw)
    assert len(raw) > start
    return meta.sop_instance_uid
