"""The simulation, a sample of it: every series ends, once, and what is poison harms nobody else."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[3] / "bench" / "simulate.py"
Run = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def simulated(tmp_path: Path) -> Run:
    def run(series: int, only: str) -> dict[str, dict[str, Any]]:
        out = tmp_path / "simulate.json"
        command = [str(BENCH), "--series", str(series), "--only", only, "--json", str(out)]
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, done.stderr
        return {one["name"]: one for one in json.loads(out.read_text())}

    return run


def test_whatever_fails_every_series_ends_once(simulated: Run) -> None:
    runs = simulated(60, "workers")
    assert set(runs) == {"workers die", "workers hang"}
    for run in runs.values():
        assert (run["done"], run["failed"], run["twice"]) == (60, 0, 0)


def test_two_sources_of_unequal_weight_get_what_is_due(simulated: Run) -> None:
    (run,) = simulated(240, "two sources").values()
    assert run["fair"] > 0.9  # First come, first served would be 0.80; 400 series give 0.99.
    assert run["busy"] > 0.9


def test_poison_is_given_up_after_three_attempts_and_costs_the_others_little(
    simulated: Run,
) -> None:
    runs = simulated(120, "poison")
    clean, poisoned = runs["no series is poison"], runs["2 % are poison"]
    assert clean["failed"] == 0
    assert 1 <= poisoned["failed"] <= 8
    assert poisoned["done"] + poisoned["failed"] == 120
    assert poisoned["failed_attempts"] == [3]
    assert poisoned["good_per_hour"] > 0.9 * clean["good_per_hour"]
