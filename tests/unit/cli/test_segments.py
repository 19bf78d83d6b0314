"""The table of a result's segments."""

import numpy as np
import pytest

from osteon.cli.segments import COLUMNS, write_segments
from osteon.results.summary import summary_of
from tests.unit.results.series import labels, segments


def test_a_segment_in_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    write_segments(summary_of(segments(), labels(), np.diag([0.5, 0.75, 2.0, 1.0])))
    header, first, second, _ = capsys.readouterr().out.splitlines()
    assert header.split() == " ".join(COLUMNS).split()
    assert first.split()[:4] == ["1", "Bone", "1", "1.5"]
    assert "#c8285a  1-3     1-3   2-4      1 to 2" in first
    assert first.endswith("1 to 7  SCT 272673000 Bone")
    assert " left " in second


def test_a_result_of_an_older_version(capsys: pytest.CaptureFixture[str]) -> None:
    untold = dict.fromkeys(("number", "box", "rgb", "category", "type", "laterality"))
    write_segments([untold | {"label": "Sacrum", "volume_ml": 251.5}])
    assert capsys.readouterr().out.splitlines()[1].split() == ["Sacrum", "251.5"]
