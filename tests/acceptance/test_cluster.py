"""A node on a cluster whose parts die under way: every series arrives, each once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.ct import series_uid, write_series
from tests.acceptance.parts import Node, Orthanc, dcmsend
from tests.cluster_parts import Cluster
from tests.tools import wait_until

SERIES = range(6)
STAGE_TIMEOUT_S = 5


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    cluster = Cluster(tmp_path / "cluster")
    try:
        yield cluster
    finally:
        cluster.stop()


def test_series_survive_the_loss_of_workers_and_scheduler(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = (cluster.pki / "node.toml").read_text()
    monkeypatch.setenv("OSTEON_PIPELINE__STAGE_TIMEOUT_S", str(STAGE_TIMEOUT_S))
    with (
        Orthanc(tmp_path / "pacs") as pacs,
        Node(tmp_path / "node", pacs_port=pacs.dicom_port, extra=f"\n{section}") as node,
    ):
        _send(node, tmp_path, (0, 1))

        # The scheduler comes after the node and its first jobs, and the workers after both.
        cluster.start_scheduler()
        cluster.start_worker("gpu1")
        cluster.start_worker("gpu2")
        _await_done(node, (0, 1))

        # A worker dies in mid-job, another hangs until its time is up, and the scheduler dies.
        for host in ("gpu1", "gpu2"):
            cluster.hang(host)
        _send(node, tmp_path, (2, 3))
        wait_until(lambda: _running(node, (2, 3)) == 2, 30)
        cluster.worker("gpu1").kill()
        _await_done(node, (2, 3))
        assert f"ran longer than {STAGE_TIMEOUT_S} s" in node.log.read_text()
        wait_until(lambda: node.log.read_text().count("worker joined") == 4, 40)

        for host in ("gpu1", "gpu2"):
            cluster.hang(host)
        _send(node, tmp_path, (4, 5))
        wait_until(lambda: _running(node, (4, 5)) == 2, 30)
        cluster.kill_scheduler()
        for host in ("gpu1", "gpu2"):
            cluster.worker(host).resume()
        cluster.start_scheduler()
        _await_done(node, (4, 5))

        made = [node.predict(series_uid(f"cluster{n}"))["results"] for n in SERIES]
        uids = [result["sop_instance_uid"] for results in made for result in results[:1]]
        held = [i["MainDicomTags"]["SOPInstanceUID"] for i in pacs.find(Modality="SEG")]
        assert sorted(held) == sorted(uids)
        assert len(set(uids)) == len(SERIES)
        assert not node.worker_pids()


def _send(node: Node, folder: Path, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        write_series(folder / f"ct{number}", seed=f"cluster{number}", slices=20)
        dcmsend(folder / f"ct{number}", node.dicom_port)


def _running(node: Node, numbers: tuple[int, ...]) -> int:
    said = [node.predict(series_uid(f"cluster{number}")) for number in numbers]
    return sum(one.get("state") == "running" for one in said)


def _await_done(node: Node, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        said = node.wait_for(series_uid(f"cluster{number}"), "done", "failed", "rejected")
        assert said["status"] == "done", said
