"""``osteon shadow``: every model's figures, and the cases that agree least."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.pipeline.table.connection import Table, open_table


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    (tmp_path / "osteon.toml").write_text(f'data_dir = "{tmp_path}/data"\n')
    opened = open_table(tmp_path / "data")
    yield opened
    opened.close()


def shown(table: Table, *options: str) -> str:
    config = table.data_dir.parent / "osteon.toml"
    result = CliRunner().invoke(cli, ["shadow", *options, "--config", str(config)])
    assert result.exit_code == 0, result.output
    return result.stdout


def add(table: Table, model: str, dice: float, **dice_of: float) -> None:
    segments = [
        {"label": n, "dice": d, "volume_ml": 10.0 if d else 0.0, "first_volume_ml": 12.0}
        for n, d in dice_of.items()
    ]
    table.insert(
        "INSERT INTO comparison (route, model, first_model, state, dice, segments, updated)"
        " VALUES ('bone shadow', ?, 'old', 'compared', ?, ?, 0)",
        (model, dice, json.dumps(segments)),
    )


def test_nothing_was_compared_yet(table: Table) -> None:
    assert shown(table) == "no shadow has run yet\n"
    assert json.loads(shown(table, "--json")) == {"models": [], "unfinished": 0, "failed": 0}


def test_figures_and_the_worst_of_each_model(table: Table) -> None:
    add(table, "new", 0.9, hip=0.95, rib=0.5)
    add(table, "new", 0.7, hip=0.75, rib=0.0)
    add(table, "newer", 1.0, hip=1.0)
    lines = shown(table, "--worst", "1").splitlines()
    assert lines[0] == "new beside old: 2 series, Dice 0.800 in the mean, 0.700 at the lowest"
    assert lines[2].split()[:2] == ["0.700", "purged"]
    assert lines[2].endswith("hip: Dice 0.750, 10.0 ml beside 12.0 ml; 1 that only one has")
    assert lines[4].startswith("newer beside old: 1 series, Dice 1.000")
    assert len(shown(table, "--worst", "0").splitlines()) < len(lines)
    first = json.loads(shown(table, "--json"))["models"][0]
    assert [case["dice"] for case in first["worst"]] == [0.7, 0.9]
    assert first["n"] == 2
