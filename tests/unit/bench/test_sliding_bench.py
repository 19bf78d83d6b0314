"""The sliding window's benchmark runs, and finds the same logits as MONAI."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench" / "sliding.py"


def test_it_runs_and_says_what_it_found() -> None:
    pytest.importorskip("monai", reason="the extras are not installed")
    done = subprocess.run(
        [sys.executable, str(BENCH), "--quick", "--json", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    found = json.loads(done.stdout)
    [beside] = found["monai"]
    assert beside["difference"] < 1e-4
    assert beside["osteon_s"] > 0
    assert found["memory"]["classes"] == 100
    # Beside the slab: the patches of a hundred classes that the network itself makes.
    of_network_mb = 3 * 100 * 32 * 64 * 64 * 4 / 1e6
    assert found["memory"]["taken_mb"] < 1.5 * (found["memory"]["slab_mb"] + of_network_mb)
    assert found["overhead"]["predict_s"] > 4.9
