"""The engine over a real cluster on this host: where stages run, and what the loss of a part costs.

The scheduler and both workers are processes of their own, each with its own certificate. A worker
that hangs is one that was stopped by a signal: its stage is under way and never ends.
"""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from osteon.errors import StageError, VolumeError, WorkerLostError
from osteon.pipeline.clusters.cluster import ClusterEngine
from osteon.pipeline.job import Stage
from osteon.pipeline.workers import stages
from osteon.pipeline.workers.request import StageReport, StageRequest
from tests.acceptance.ct import write_series
from tests.cluster_parts import START_S, Cluster, osteon
from tests.tools import free_port, wait_until

SLICES = 12


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start_scheduler()
        cluster.start_worker("gpu1", "--port", str(free_port()))  # It comes back at its address.
        cluster.start_worker("gpu2")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def engine(cluster: Cluster, tmp_path: Path) -> Iterator[ClusterEngine]:
    engine = ClusterEngine(cluster.settings(), tmp_path)
    try:
        wait_until(lambda: engine.free == 2, START_S)
        yield engine
    finally:
        engine.close()


def _request(data_dir: Path, stage: Stage = Stage.PREDICTION, *, job_id: int = 1) -> StageRequest:
    folder = data_dir / "spool" / str(job_id)
    if not folder.exists():
        write_series(folder, seed=f"cluster{job_id}", slices=SLICES)
    before = [earlier for earlier in Stage if earlier.next is stage and stage != Stage.PREDICTION]
    return StageRequest(
        job_id=job_id,
        stage=stage,
        attempt=1,
        out=data_dir / "work" / str(job_id) / stage,
        inputs=tuple(sorted(folder.iterdir())),
        outputs={one: data_dir / "work" / str(job_id) / one for one in before},
        model="builtin:bone",
        models_dir=None,
        input_sha256=f"{job_id:064}",
        content_at=1_767_000_000.0,
    )


def _encode(engine: ClusterEngine, data_dir: Path) -> bytes:
    for stage in (Stage.PREDICTION, Stage.BONESEG, Stage.ENCODE):
        engine.submit(_request(data_dir, stage)).result(60)
    return (data_dir / "work" / "1" / Stage.ENCODE / "seg.dcm").read_bytes()


def _hang(cluster: Cluster, engine: ClusterEngine, data_dir: Path) -> Future[StageReport]:
    """Give a stage to each worker, of which gpu1 never answers; return that one's future."""
    for host in ("gpu1", "gpu2"):
        cluster.hang(host)
    futures = [engine.submit(_request(data_dir, job_id=job_id)) for job_id in (1, 2)]
    cluster.worker("gpu2").resume()
    wait_until(lambda: any(future.done() for future in futures), 30)
    hanging, done = sorted(futures, key=lambda future: future.done())
    assert (engine.worker(hanging)[:4], engine.worker(done)[:4]) == ("gpu1", "gpu2")
    assert done.result().seconds > 0
    return hanging


@pytest.mark.parametrize("way", ["value", "shared"])
def test_a_cluster_makes_the_bytes_that_this_process_makes(
    cluster: Cluster, tmp_path: Path, way: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for stage in (Stage.PREDICTION, Stage.BONESEG, Stage.ENCODE):
        stages.run_stage(_request(here, stage))
    expected = (here / "work" / "1" / Stage.ENCODE / "seg.dcm").read_bytes()

    engine = ClusterEngine(cluster.settings(input=way), there)
    try:
        wait_until(lambda: engine.free == 2, START_S)
        assert _encode(engine, there) == expected
    finally:
        engine.close()


def test_a_stage_that_moves_to_another_worker_takes_its_files_along(
    cluster: Cluster, engine: ClusterEngine, tmp_path: Path
) -> None:
    engine.submit(_request(tmp_path)).result(60)
    for host in ("gpu1", "gpu2"):
        cluster.worker(host).kill()
    wait_until(lambda: engine.free == 0, 10)
    wait_until(lambda: engine.free == 2, START_S)
    engine.submit(_request(tmp_path, Stage.BONESEG)).result(60)
    assert (tmp_path / "work" / "1" / Stage.BONESEG / "segments.json").exists()


def test_what_a_stage_says_of_its_input_is_told(engine: ClusterEngine, tmp_path: Path) -> None:
    request = _request(tmp_path)
    for path in request.inputs:
        path.write_bytes(b"no DICOM")
    with pytest.raises(VolumeError):
        engine.submit(replace(request, input_sha256="f" * 64)).result(60)
    assert engine.free == 2


def test_a_folder_that_is_not_shared_is_no_fault_of_the_series(
    cluster: Cluster, tmp_path: Path
) -> None:
    engine = ClusterEngine(cluster.settings(input="shared"), tmp_path)
    try:
        wait_until(lambda: engine.free == 2, START_S)
        request = _request(tmp_path)
        for path in request.inputs:
            path.unlink()
        with pytest.raises(StageError, match="shared_data_dir") as caught:
            engine.submit(request).result(60)
        assert caught.value.retryable
    finally:
        engine.close()


def test_a_worker_that_is_killed_costs_its_stage_and_nothing_else(
    cluster: Cluster, engine: ClusterEngine, tmp_path: Path
) -> None:
    hanging = _hang(cluster, engine, tmp_path)
    for job_id in (1, 2, 3):  # What workers say of stages that are over, or of others, is let be.
        engine._hear((0.0, {"out": f"work/{job_id}/prediction", "fraction": 0.5}))
    assert engine.progress(hanging) == 0.5
    other = cluster.worker("gpu2").pid
    started = time.monotonic()
    cluster.worker("gpu1").kill()
    with pytest.raises(WorkerLostError, match="gpu1"):
        hanging.result(20)
    assert time.monotonic() - started < 5
    wait_until(lambda: engine.free == 2, START_S)
    assert cluster.worker("gpu2").pid == other
    _encode(engine, tmp_path)


def test_a_stage_that_hangs_is_cut_and_its_worker_alone_is_restarted(
    cluster: Cluster, engine: ClusterEngine, tmp_path: Path
) -> None:
    hanging = _hang(cluster, engine, tmp_path)
    pids = {name: cluster.worker(name).pid for name in ("gpu1", "gpu2")}
    started = time.monotonic()
    engine.kill(hanging)
    engine.kill(hanging)  # The dispatcher asks again until the future says so.
    assert time.monotonic() - started < 0.5
    with pytest.raises(WorkerLostError, match="gpu1"):
        hanging.result(20)
    assert time.monotonic() - started < 10
    wait_until(lambda: engine.free == 2, START_S)
    assert cluster.worker("gpu1").pid != pids["gpu1"]
    assert cluster.worker("gpu2").pid == pids["gpu2"]


def test_what_a_node_leaves_behind_is_ended(
    cluster: Cluster, engine: ClusterEngine, tmp_path: Path
) -> None:
    hanging = _hang(cluster, engine, tmp_path)
    before = cluster.worker("gpu1").pid
    engine.close()
    with pytest.raises(WorkerLostError):
        hanging.result(1)
    wait_until(lambda: cluster.worker("gpu1").pid != before, 20)


def test_a_scheduler_that_dies_is_waited_for(
    cluster: Cluster, engine: ClusterEngine, tmp_path: Path
) -> None:
    hanging = _hang(cluster, engine, tmp_path)
    cluster.kill_scheduler()
    with pytest.raises(WorkerLostError):
        hanging.result(10)
    cluster.worker("gpu1").resume()
    wait_until(lambda: "is not reached" in engine.reason, 15)
    assert engine.free == 0
    assert str(cluster.port) in engine.reason
    with pytest.raises(RuntimeError, match="is not reached"):
        engine.submit(_request(tmp_path))

    cluster.start_scheduler()
    wait_until(lambda: engine.free == 2, START_S)
    assert engine.reason == ""
    _encode(engine, tmp_path)


def test_only_tls_with_a_certificate_of_the_ca_is_heard(cluster: Cluster) -> None:
    context = ssl.create_default_context(cafile=str(cluster.pki / "ca.pem"))
    assert _answer_to(cluster.port, b"\x00" * 64)[:1] in (b"", b"\x15")  # closed, or a TLS alert
    with socket.create_connection(("127.0.0.1", cluster.port), timeout=10) as raw:
        anonymous = context.wrap_socket(raw, server_hostname="127.0.0.1")
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            anonymous.recv(1024)  # In TLS 1.3 the refusal follows the client's own handshake.
        anonymous.close()


def test_a_node_of_another_authority_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(
        osteon("cluster", "ca", str(stranger), "--name", "node"), check=True, capture_output=True
    )
    files = {"certificate": "node.pem", "key": "node.key", "ca": "ca.pem"}
    theirs = {name: stranger / file for name, file in files.items()}
    engine = ClusterEngine(cluster.settings(**theirs), tmp_path)
    try:
        wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in engine.reason, 20)
        assert engine.free == engine.slots == 0
    finally:
        engine.close()


def test_a_dashboard_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    port = free_port()
    tls = [
        *("--tls-ca-file", str(cluster.pki / "ca.pem")),
        *("--tls-cert", str(cluster.pki / "node.pem"), "--tls-key", str(cluster.pki / "node.key")),
    ]
    address = ["--host", "tls://127.0.0.1", "--port", str(port), "--dashboard-address", ":0"]
    scheduler = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", *tls, *address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    engine = ClusterEngine(cluster.settings(scheduler=f"tls://127.0.0.1:{port}"), tmp_path)
    try:
        wait_until(lambda: "dashboard" in engine.reason, START_S)
        assert "start it by `osteon cluster scheduler`" in engine.reason
        assert engine.free == 0
    finally:
        engine.close()
        scheduler.terminate()
        scheduler.wait(10)


def test_no_port_of_the_cluster_speaks_http(cluster: Cluster) -> None:
    for process in ("scheduler", "gpu1"):
        for port in _ports_of(cluster, process):
            assert b"HTTP" not in _answer_to(port, b"GET /health HTTP/1.0\r\n\r\n")


def _answer_to(port: int, words: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(words)
        try:
            return raw.recv(1024)
        except ConnectionResetError:
            return b""


def _ports_of(cluster: Cluster, name: str) -> list[int]:
    process = cluster.process(name)
    family = [process, *process.children(recursive=True)]
    listening = {
        connection.laddr.port
        for one in family
        for connection in one.net_connections("tcp")
        if connection.status == "LISTEN"
    }
    assert listening
    return sorted(listening)
