"""The route's benchmark runs, and judges what it measured."""

import json
import subprocess
import sys
from pathlib import Path

from tests.tools import require_tool

BENCH = Path(__file__).parents[3] / "bench" / "route.py"


def test_a_small_run_measures_both_and_prints_their_table(tmp_path: Path) -> None:
    require_tool("/usr/sbin/Orthanc")
    out = tmp_path / "route.json"
    size = ("--slices", "24", "--size", "128", "--quiet", "1", "--rounds", "1")
    done = subprocess.run(
        [sys.executable, str(BENCH), *size, "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Orthanc + script" in done.stdout
    figures = json.loads(out.read_text())
    for name in ("osteon", "peer"):
        assert figures[name]["after_last_s"] > figures["quiet_s"]
    assert figures["bare_s"] > 0
