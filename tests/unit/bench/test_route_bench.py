"""The route's benchmark runs, and judges what it measured."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageColor

from tests.tools import require_tool

BENCH = Path(__file__).parents[3] / "bench" / "route.py"
STAGES = runpy.run_path(str(BENCH.with_name("route_picture.py")))["STAGES"]


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
        spans = figures[name]["stages"]
        assert [stage for stage, _, _ in spans][-4:] == [
            "prediction",
            "boneseg",
            "encode",
            "deliver",
        ]
        assert all(began <= ended for _, began, ended in spans)
        assert 0 < spans[-1][2] <= figures[name]["after_last_s"]
    assert figures["bare_s"] > 0


ROUTE = {
    "slices": 24,
    "size": 128,
    "quiet_s": 1.0,
    "measured": ["osteon", "peer"],
    "osteon": {"after_last_s": 1.2, "stages": [["encode", 0.1, 0.3], ["deliver", 1.1, 1.2]]},
    "peer": {"after_last_s": 4.0},
}
PACE = {"rate": 20.0, "quiet_s": 1.0, "after_last_s": {"100": 1.1, "400": 1.2}}


def report(tmp_path: Path, *more: str) -> Image.Image:
    (tmp_path / "route.json").write_text(json.dumps(ROUTE))
    page = tmp_path / "benchmarks.md"
    if not page.exists():
        page.write_text("# Benchmarks\n\n## The route\n\nFigures.\n\n## Another\n")
    files = ("--route", str(tmp_path / "route.json"), "--pace", str(tmp_path / "pace.json"))
    command = [sys.executable, str(BENCH.with_name("route_report.py")), *files, *more]
    subprocess.run([*command, "--docs", str(page)], check=True, timeout=60)
    with Image.open(tmp_path / "pictures" / "route.png") as picture:
        return picture.copy()


def test_the_picture_shows_stages_and_lengths_where_they_were_measured(tmp_path: Path) -> None:
    alone = report(tmp_path)
    (tmp_path / "pace.json").write_text(json.dumps(PACE))
    both = report(tmp_path, "--picture", str(tmp_path / "elsewhere.png"))
    assert (tmp_path / "elsewhere.png").is_file()
    assert both.height == 2 * alone.height
    colours = {colour for _, colour in both.getcolors(2**20)}
    for name, is_there in (("encode", True), ("deliver", True), ("boneseg", False)):
        assert (ImageColor.getrgb(STAGES[name]) in colours) is is_there
    page = (tmp_path / "benchmarks.md").read_text()
    assert page.count("(pictures/route.png)") == 1
    assert "\nFigures.\n\n## Another\n" in page.partition("(pictures/route.png)")[2]


def test_without_figures_nothing_is_drawn(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH.with_name("route_report.py")), "--docs", "--route"]
    done = subprocess.run(
        [*command, str(tmp_path / "no.json")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "run bench/route.py first" in done.stderr
