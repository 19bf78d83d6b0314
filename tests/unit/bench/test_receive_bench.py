"""The benchmark of the receiver: a short run with real receivers, and what is made of figures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools import free_port, require_tool, wait_until

BENCH = Path(__file__).resolve().parents[3] / "bench"
RECEIVERS = ("osteon", "dcmtk-nodelay")
SPECIAL = ("osteon-tls12", "osteon-tls13", "nothing")
RAW = {(data_set, n) for data_set in ("ct", "mr") for n in (1, 4, 16)} | {("multi", 1)}


def bench(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(BENCH / "receive.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def commands() -> list[str]:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_quick_run_measures_every_cell_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for program in ("storescp", "storescu", "dcmsend"):
        require_tool(f"/usr/bin/{program}")
    folder, out = tmp_path / "disk", tmp_path / "receive.json"
    done = bench("--quick", "--receivers", ",".join(RECEIVERS), "--folder", folder, "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    samples = json.loads(out.read_text())["samples"]
    assert not [sample for sample in samples if "error" in sample]
    for receiver in RECEIVERS:
        of = [sample for sample in samples if sample["receiver"] == receiver]
        raw = [sample for sample in of if sample["sender"] == "raw"]
        assert {(sample["data_set"], sample["associations"]) for sample in raw} == RAW
        for sample in raw:
            assert sample["statuses"] == {"0x0000": sample["instances"]}
            assert 0 < sample["ack_ms_p50"] <= sample["ack_ms_p99"]
            assert sample["instances_per_s"] > 0
            assert sample["mb_per_s"] > 0
            assert sample["cpu_ms"] >= 0
        # A receiver that a busy machine makes slow is sent fewer.
        sent = [s["instances"] for s in of if s["sender"] in {"storescu", "dcmsend"}]
        assert sent in ([24, 24], [8, 8])
        assert [s["echo_ms_p50"] > 0 for s in of if s["sender"] == "echo"] == [True]
        assert [s["idle_percent"] < 100 for s in of if s["sender"] == "idle"] == [True]
    floor = [s for s in samples if s["sender"] == "floor"]
    assert [(s["associations"], s["instances_per_s"] > 0) for s in floor] == [(1, True), (4, True)]
    assert not list(folder.iterdir())
    assert not [command for command in commands() if str(folder) in command]


def test_tls_and_what_senders_can_do_at_most_are_measured(tmp_path: Path) -> None:
    for program in ("openssl", "storescu", "dcmsend"):
        require_tool(f"/usr/bin/{program}")
    out = tmp_path / "receive.json"
    folder = tmp_path / "disk"
    done = bench("--quick", "--receivers", ",".join(SPECIAL), "--folder", folder, "--json", out)
    assert done.returncode == 0, done.stdout + done.stderr
    samples = json.loads(out.read_text())["samples"]
    assert not [sample for sample in samples if "error" in sample]
    cells = {
        (s["receiver"], s["data_set"], s["associations"]) for s in samples if "ack_ms_p50" in s
    }
    for name in SPECIAL[:2]:
        assert {cell[1:] for cell in cells if cell[0] == name} == {("ct", 1), ("ct", 4)}
    assert {cell[1:] for cell in cells if cell[0] == "nothing"} == RAW
    assert "Osteon, TLS 1.3" in done.stdout


def report(*, osteon_per_s: float = 1000.0, echo_ms: float = 0.2) -> dict[str, Any]:
    """What a run writes, of a receiver that meets every target unless told otherwise."""
    rates = {"osteon": osteon_per_s, "dcmtk-nodelay": 900.0, "pynetdicom-sync": 150.0}
    samples: list[dict[str, Any]] = []
    for receiver, rate in rates.items():
        about = {"receiver": receiver, "round": 1, "data_set": "ct", "cpu_ms": 1.0}
        figures = {"mb_per_s": rate / 2, "ack_ms_p50": 1.0, "ack_ms_p99": 2.0}
        for associations in (1, 4, 16):
            cell = {"sender": "raw", "associations": associations, "instances_per_s": rate}
            samples.append(about | figures | cell)
        sent = rate if receiver == "osteon" else 100.0
        samples += [about | {"sender": s, "instances_per_s": sent} for s in ("storescu", "dcmsend")]
        samples.append({"receiver": receiver, "sender": "echo", "echo_ms_p50": echo_ms})
        samples.append({"receiver": receiver, "sender": "idle", "idle_percent": 0.01})
    machine = {"cpu": "X", "cores": 2, "kernel": "6", "file_system": "ext4", "python": "3.11"}
    return {
        "when": "2024-02-29T00:00:00",
        "machine": machine | {"versions": {"DCMTK": "3.6.7"}},
        "rounds": 1,
        "seconds": 1.0,
        "receivers": {name: f"the {name}" for name in rates},
        "synced": dict.fromkeys(rates, "nothing"),
        "data_sets": {"ct": "CT", "mr": "MR", "multi": "multi-frame"},
        "samples": samples,
    }


def check(tmp_path: Path, run: dict[str, Any], *more: object) -> int:
    out = tmp_path / "receive.json"
    out.write_text(json.dumps(run))
    done = bench("--from", out, "--check", *more)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def test_check_passes_when_every_target_is_met(tmp_path: Path) -> None:
    assert check(tmp_path, report()) == 0


@pytest.mark.parametrize(
    "missed",
    [
        pytest.param(report(osteon_per_s=899.0), id="rate"),
        pytest.param(report(echo_ms=0.6), id="echo"),
        pytest.param(report() | {"samples": []}, id="not measured"),
    ],
)
def test_check_fails_when_a_target_is_missed(tmp_path: Path, missed: dict[str, Any]) -> None:
    assert check(tmp_path, missed) == 1


def test_docs_replaces_its_own_section_alone(tmp_path: Path) -> None:
    docs = tmp_path / "docs" / "benchmarks.md"
    docs.parent.mkdir()
    docs.write_text("# Benchmarks\n\n## Bones\n\nfine\n\n## Receiving\n\nold\n\n## Last\n\nend\n")
    check(tmp_path, report(), "--docs", docs)
    once = docs.read_text()
    assert once.startswith("# Benchmarks\n\n## Bones\n\nfine\n\n## Receiving\n")
    assert once.endswith("\n## Last\n\nend\n")
    assert "| the osteon | 1 000 |" in once
    assert "old" not in once
    assert (docs.parent / "pictures" / "receiving.png").read_bytes().startswith(b"\x89PNG")
    check(tmp_path, report(), "--docs", docs)
    assert docs.read_text() == once


def test_sender_reports_every_instance_it_stored(tmp_path: Path, sent_folder: Path) -> None:
    store, port = tmp_path / "store", free_port()
    store.mkdir()
    script = BENCH / "pynetdicom_scp.py"
    with subprocess.Popen([sys.executable, script, str(port), store, "--sync"]) as receiver:
        try:
            command = [sys.executable, BENCH / "raw_scu.py", "127.0.0.1", str(port), "ANY"]
            more = ["--associations", "3", "--nagle", "--deadline", "20"]

            def sent() -> str:
                return subprocess.run(
                    [*command, sent_folder, *more],
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                ).stdout

            figures = json.loads(wait_until(sent))
        finally:
            receiver.kill()
    assert figures["statuses"] == {"0x0000": 7}
    assert figures["associations"] == 3
    assert len(list(store.iterdir())) == 7


@pytest.fixture
def sent_folder(tmp_path: Path) -> Path:
    """A folder of seven instances, and a file that is none."""
    folder = tmp_path / "sent"
    code = (
        "import sys; from pathlib import Path; from datasets import MR, write_instances;"
        "write_instances(Path(sys.argv[1]), MR, 7)"
    )
    subprocess.run([sys.executable, "-c", code, folder], cwd=BENCH, check=True, timeout=60)
    (folder / "README").write_text("no instance")
    return folder
