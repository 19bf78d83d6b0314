"""A sample of ``make bench-robust``: whatever dies on the way, every job is done, and once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "robust.py"


@pytest.mark.parametrize("only", ["local", "poison"])
def test_every_job_is_done_once_and_a_poisoned_one_is_given_up(tmp_path, only):
    out = tmp_path / "robust.json"
    command = [sys.executable, str(BENCH), "--quick", "--only", only, "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = {run["run"]: run for run in json.loads(out.read_text())["runs"]}
    if only == "local":
        assert runs["worker processes"]["cut_s"] > 0.0  # It did hang.
        assert runs["worker processes"]["attempts"] == 2
    else:
        assert "gave up after 3 attempts" in runs["poisoned"]["reasons"][0]
