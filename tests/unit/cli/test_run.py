"""``osteon run``: whatever fails of one series is told as a failure of it, and stops no other."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.pipeline.workers import stages
from tests.acceptance.ct import write_series


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("a fault"), "boneseg failed: KeyError: 'a fault'"),
        (FileNotFoundError(2, "No such file", "w.bin"), "boneseg failed: FileNotFoundError: "),
        (MemoryError(), "boneseg ran out of memory"),
    ],
)
def test_a_series_that_fails_stops_no_other(
    error: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    combine, asked = stages.combine, []

    def fails_once(*arguments: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 1:
            raise error
        return combine(*arguments)

    monkeypatch.setattr(stages, "combine", fails_once)
    for seed in ("one", "two"):
        write_series(tmp_path / "in" / seed, seed=seed)
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["run", str(tmp_path / "in"), "-o", str(out)])
    assert result.exit_code == 7, result.output
    assert f"osteon: {says}" in result.stderr
    first, second = json.loads((out / "summary.json").read_text())["series"]
    assert (first["status"], second["status"]) == ("failed", "done")
    assert first["reason"].startswith(says)
    assert Path(second["seg"]).is_file()
