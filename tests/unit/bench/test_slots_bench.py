"""The benchmarks of the slots: what they count, and a small run of each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture
def backlog(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import backlog  # noqa: PLC0415 - it is found by the line above

    return backlog


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(1.0, 2.0), (2.0, 3.0)], 2.0),
        ([(5.0, 6.0), (1.0, 4.0), (2.0, 3.0)], 4.0),
        ([(1.0, 3.0), (2.0, 4.0)], 3.0),
    ],
)
def test_time_is_counted_once_where_stages_overlap(backlog, spans, seconds):
    assert backlog.covered_s(spans) == pytest.approx(seconds)


def test_only_the_time_counts_in_which_series_wait(backlog):
    spans = {"a": [(0.0, 4.0), (4.0, 9.0)], "b": [(2.0, 5.0)]}
    stages = [{"stage": "prediction", "began": at} for at in (0.0, 2.0, 4.0)]
    assert backlog.waiting_between(spans, stages, 2) == (2.0, 4.0)
    assert backlog.clipped(spans["a"], 2.0, 4.5) == [(2.0, 4.0), (4.0, 4.5)]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)


def test_slots_are_busy_while_a_small_backlog_waits(tmp_path):
    out = tmp_path / "backlog.json"
    size = ("--series", "5", "--slices", "12", "--size", "128", "--cost", "0.3")
    done = run("backlog.py", *size, "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert "jobs an hour" in done.stdout
    figures = json.loads(out.read_text())
    assert figures["busy"] > 0.9
    assert 0.0 < figures["device_busy"] <= figures["busy"]


def test_series_of_two_lengths_are_timed_and_drawn(tmp_path):
    out, picture = tmp_path / "pace.json", tmp_path / "pace.png"
    pace = ("--lengths", "10,40", "--rounds", "1", "--quiet", "1", "--size", "128")
    done = run("pace.py", *pace, "--json", str(out), "--picture", str(picture))
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert all(seconds > 1.0 for seconds in figures["after_last_s"].values())
    assert figures["ratio"] > 0.0
    with Image.open(picture) as image:
        assert image.size[0] == 1760
