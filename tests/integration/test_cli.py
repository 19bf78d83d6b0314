"""The command line as its users meet it: real processes, a real node, a real association."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pydicom
import pytest
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.pipeline.phantoms.phantom import write_phantom
from osteon.results.pacs import StandInPacs
from tests.tools import free_port, wait_until

OSTEON = [sys.executable, "-m", "osteon.cli.main"]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("OSTEON_")}


def osteon(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*OSTEON, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=ENVIRONMENT,
        cwd=cwd,
    )


@dataclass
class Node:
    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    pacs: StandInPacs

    @property
    def config(self) -> Path:
        return self.folder / "osteon.toml"

    def run(self, *args: object) -> subprocess.CompletedProcess[str]:
        """Run a command that looks at this node, in this process: that is faster."""
        line = [*map(str, args), "--config", str(self.config)]
        result = CliRunner().invoke(cli, line)
        return subprocess.CompletedProcess(line, result.exit_code, result.stdout, result.stderr)

    def json(self, *args: object) -> Any:
        return json.loads(self.run(*args, "--json").stdout)

    def roles(self) -> dict[str, int]:
        """Return the process of each role."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            line = child.cmdline() if child.status() != psutil.STATUS_ZOMBIE else []
            if "--role" in line:
                found[line[line.index("--role") + 1]] = child.pid
        return found

    def is_up(self) -> bool:
        return self.run("status").returncode == 0


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom that is small and still has bones."""
    return write_phantom(tmp_path_factory.mktemp("ct"), slices=16, rows=128, columns=128).dicom


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    port, http_port = free_port(), free_port()
    with StandInPacs(folder / "pacs") as pacs:
        (folder / "osteon.toml").write_text(
            f'data_dir = "{folder}/data"\n'
            f'[scp]\nhost = "127.0.0.1"\nport = {port}\nquiet_s = 0.5\n'
            f"[http]\nport = {http_port}\n"
            "[pipeline]\ndisk_reserve_gb = 0.01\nslots = 1\n"
            f'[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\n'
            f"port = {pacs.port}\n"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*OSTEON, "serve", "--config", str(folder / "osteon.toml")],
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
            )
        running = Node(folder, port, process, pacs)
        try:
            wait_until(running.is_up, timeout_s=60, every_s=0.2)
            yield running
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def job(node: Node, ct: Path) -> dict[str, Any]:
    """A job that is done, of a series that `osteon send` has sent."""
    peer = f"127.0.0.1:{node.port}:OSTEON"
    sent = osteon("send", ct, "--to", peer, "--config", node.config)
    assert (sent.returncode, sent.stdout) == (0, "16 files: 0x0000\n"), sent.stderr
    wait_until(lambda: _statuses(node) == ["done"], timeout_s=90, every_s=0.3)
    found: dict[str, Any] = node.json("jobs", "show", 1)
    return found


def _statuses(node: Node) -> list[str]:
    return [job["status"] for job in node.json("jobs", "list")]


def test_a_job_tells_its_results_segments_and_deliveries(node: Node, job: dict[str, Any]) -> None:
    assert job["segments"]
    (seg,) = [result for result in job["results"] if result["kind"] == "seg"]
    assert [(d["destination"], d["state"]) for d in seg["deliveries"]] == [("pacs", "delivered")]
    assert pydicom.dcmread(node.pacs.received[0]).SOPInstanceUID == seg["sop_instance_uid"]
    shown = node.run("jobs", "show", 1).stdout
    assert "status    done" in shown
    assert "to pacs: delivered" in shown
    assert "Bone 1" in shown


def test_lists_are_plain_and_whole_in_a_pipe(node: Node, job: dict[str, Any]) -> None:
    header, row = node.run("jobs", "list").stdout.splitlines()
    assert header.split()[:3] == ["id", "status", "progress"]
    assert row.split()[:4] == ["1", "done", "100%", "16"]
    assert job["series_instance_uid"] in row
    assert node.json("jobs", "list", "--status", "failed") == []
    assert "done 1" in node.run("watch", "--once").stdout


def test_a_trace_tells_the_way_by_every_name(node: Node, job: dict[str, Any]) -> None:
    for name in ("1", job["series_instance_uid"], job["study_instance_uid"]):
        told = node.run("trace", name).stdout
        assert "first instance durable" in told
        assert re.search(r"predicted (\d+ of )?16 slices", told)
        assert "now: pacs delivered" in told
    assert node.json("trace", 1)[0]["instances"] == 16
    lost = node.run("trace", "A-NOBODY-KNOWS")
    assert lost.returncode == 5
    assert lost.stderr.count("\n") == 1


@pytest.mark.usefixtures("job")
def test_the_associations_of_a_sender(node: Node) -> None:
    (came,) = node.json("associations", "list", "--ae", "OSTEON", "--since", "2020-01-31")
    assert (came["stored"], came["duplicates"], came["refused"]) == (16, 0, 0)
    assert node.json("associations", "list", "--ae", "CT9") == []
    _, row = node.run("associations", "list").stdout.splitlines()
    assert row.split()[4:] == ["OSTEON", "OSTEON", "127.0.0.1", "16", "0", "0", "released"]
    way = r"  \d{4}-.* association of OSTEON at 127\.0\.0\.1 to OSTEON until \d{4}-.*"
    for name, said in (("1", "16 instances; released"), ("OSTEON", "16 instances; released")):
        assert re.search(f"{way}: {said}\n", node.run("trace", name).stdout)


@pytest.mark.usefixtures("job")
def test_status_says_that_all_roles_run(node: Node) -> None:
    found = node.json("status")
    assert found["roles"] == {"receive": True, "work": True, "http": True}
    assert found["counts"]["jobs"]["done"] == 1
    assert found["disk"]["free_gb"] > found["disk"]["reserve_gb"]
    assert "receive runs  work runs  http runs" in node.run("status").stdout


@pytest.mark.usefixtures("job")
def test_disk_table_and_pacs_agree_until_one_does_not(node: Node) -> None:
    assert node.run("verify", "--deep", "--pacs").stdout == "OK\n"
    (received,) = node.pacs.received
    received.rename(received.with_suffix(".away"))
    try:
        lost = node.run("verify", "--pacs")
    finally:
        received.with_suffix(".away").rename(received)
    assert lost.returncode == 1
    assert "pacs does not have it any more" in lost.stdout


def test_a_retry_makes_the_same_object_again(node: Node, job: dict[str, Any]) -> None:
    assert node.run("jobs", "cancel", 1).returncode == 4
    assert node.run("jobs", "retry", 1).stdout == "job 1 waits to run again\n"
    wait_until(lambda: len(node.pacs.received) == 2, timeout_s=60)
    first, second = (pydicom.dcmread(path).SOPInstanceUID for path in node.pacs.received)
    assert first == second
    wait_until(lambda: _statuses(node) == ["done"], timeout_s=30, every_s=0.3)
    assert node.run("jobs", "show", 99).returncode == 5


def test_echo_reaches_node_and_destination(node: Node) -> None:
    assert "answered in" in osteon("--config", node.config, "echo", "pacs").stdout
    assert node.run("echo", f"127.0.0.1:{node.port}:OSTEON").returncode == 0
    nobody = osteon("echo", "127.0.0.1:1:PACS")
    assert nobody.returncode == 10
    assert nobody.stderr.startswith("osteon: PACS at 127.0.0.1:1 cannot be reached")


def test_a_killed_role_comes_back_and_the_others_stay(node: Node) -> None:
    before = node.roles()
    os.kill(before["receive"], signal.SIGKILL)
    after = wait_until(
        lambda: (now := node.roles()).get("receive") not in {None, before["receive"]} and now
    )
    assert after["work"] == before["work"]
    wait_until(lambda: node.json("status")["roles"]["receive"], timeout_s=20, every_s=0.2)


def test_a_second_node_on_the_same_port_ends_with_one_line(node: Node) -> None:
    started = time.monotonic()
    second = osteon("serve", "--config", node.config)
    assert second.returncode == 11
    assert "Traceback" not in second.stderr
    assert time.monotonic() - started < 30
    assert node.process.poll() is None


def test_a_purge_asks_and_then_removes_everything(node: Node, job: dict[str, Any]) -> None:
    assert node.run("purge", "--older-than", 0).returncode == 2
    (found,) = node.json("purge", "--older-than", 0, "--dry-run")
    assert (found["series_instance_uid"], found["files"]) == (job["series_instance_uid"], 18)
    assert "removed 1 series, 18 files" in node.run("purge", "--older-than", 0, "--yes").stdout
    assert node.json("jobs", "list") == []
    assert node.run("verify").stdout == "OK\n"
    assert list((node.folder / "data" / "spool").rglob("*.dcm")) == []


def test_run_needs_no_node(ct: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(ct, folder / "ct")
    for path in sorted(ct.iterdir())[:2]:
        ds = pydicom.dcmread(path)
        ds.Modality, ds.SeriesInstanceUID = "MR", "1.2.3.4"
        ds.save_as(folder / f"mr-{path.name}")
    (folder / "notes.txt").write_text("no DICOM")
    result = osteon("run", folder, "-o", "out", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Bone 1" in result.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sorted((s["status"], s["reason"]) for s in summary["series"]) == [
        ("done", ""),
        ("skipped", "Modality is MR, not CT"),
    ]
    assert [Path(f["path"]).name for f in summary["skipped_files"]] == ["notes.txt"]
    (done,) = [s for s in summary["series"] if s["status"] == "done"]
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    assert seg.SOPInstanceUID == done["sop_instance_uid"]
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == done["series_instance_uid"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "preview.png",
        "seg.dcm",
        "summary.json",
    ]


def test_a_series_that_is_no_volume_stops_no_other(ct: Path, tmp_path: Path) -> None:
    shutil.copytree(ct, tmp_path / "in" / "whole")
    (tmp_path / "in" / "broken").mkdir()
    slices = sorted(ct.iterdir())
    for path in (*slices[:2], *slices[4:6]):
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID = "1.2.3.5"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.5.{ds.InstanceNumber}"
        ds.save_as(tmp_path / "in" / "broken" / path.name)
    result = osteon("run", tmp_path / "in", "-o", tmp_path / "out", "--json")
    assert result.returncode == 6, result.stderr
    summary = json.loads(result.stdout)
    assert sorted(series["status"] for series in summary["series"]) == ["done", "failed"]
    (done,) = [series for series in summary["series"] if series["status"] == "done"]
    assert Path(done["seg"]).parent.name in {"series-1", "series-2"}
    assert Path(done["seg"]).is_file()


def test_the_demo_comes_back_with_the_bones_and_leaves_nothing_running(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = osteon("demo", "--out", out, "--slices", 30)
    assert result.returncode == 0, result.stderr
    for station in ("first slice", "complete", "predicted", "encoded", "delivered", "Bone 1"):
        assert station in result.stdout
    seg, preview = (Path(line.split()[1]) for line in result.stdout.splitlines()[-2:])
    assert pydicom.dcmread(seg).Modality == "SEG"
    assert preview.read_bytes().startswith(b"\x89PNG")
    assert _processes_in(out) == []
    again = osteon("demo", "--out", out)
    assert again.returncode == 1
    assert "holds an earlier demo" in again.stderr


def test_a_killed_demo_leaves_nothing_running(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [*OSTEON, "demo", "--out", str(tmp_path / "demo"), "--slices", "16"],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(_processes_in(tmp_path / "demo")) >= 4, timeout_s=60)
    demo.kill()
    demo.wait(10)
    wait_until(lambda: _processes_in(tmp_path / "demo") == [], timeout_s=25)


def test_a_demo_without_a_ct_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no DICOM")
    result = osteon("demo", "--ct", tmp_path / "in", "--out", tmp_path / "out")
    assert result.returncode == 5
    assert result.stderr == f"osteon: {tmp_path / 'in'}: no CT series there\n"


def _processes_in(folder: Path) -> list[int]:
    """Return the processes of a node whose configuration is in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "serve" in line and str(folder / "osteon.toml") in line:
            found.append(process.pid)
    return found
