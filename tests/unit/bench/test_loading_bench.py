"""The benchmark of loading runs, and finds the same voxels both ways."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[3] / "bench" / "loading.py"


def test_a_small_run_loads_every_syntax_both_ways(tmp_path: Path) -> None:
    out = tmp_path / "loading.json"
    size = ("--slices", "6", "--size", "64", "--rounds", "1")
    done = subprocess.run(
        [sys.executable, str(BENCH), *size, "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())["series"]
    assert len(figures) == 5
    for name, one in figures.items():
        assert one["identical"], name
        assert one["osteon"]["slices"] == 6
        assert one["osteon"]["cpu_s"] > 0
        assert name in done.stdout
