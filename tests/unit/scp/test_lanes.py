"""How many processes take data."""

import os
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.scp.lanes import LANES_MAX, lanes_of


def settings(tmp_path: Path, **scp: object) -> Settings:
    return Settings.model_validate({"data_dir": tmp_path, "scp": scp})


@pytest.mark.parametrize(
    ("cores", "count"), [({0}, 0), ({0, 1}, 2), ({0, 1, 2}, 3), (set(range(64)), LANES_MAX)]
)
def test_there_is_one_for_each_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: set[int], count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)

    assert lanes_of(settings(tmp_path)) == count


@pytest.mark.parametrize(("processes", "count"), [(1, 0), (2, 2), (16, 16)])
def test_or_as_many_as_are_asked_for(tmp_path: Path, processes: int, count: int) -> None:
    assert lanes_of(settings(tmp_path, processes=processes)) == count


@pytest.mark.parametrize(
    "scp", [{"fast": False}, {"tls": {"certificate": "a", "key": "b", "ca": "c"}}]
)
def test_pynetdicoms_own_way_and_tls_stay_in_the_receiver(
    tmp_path: Path, scp: dict[str, object]
) -> None:
    assert lanes_of(settings(tmp_path, processes=4, **scp)) == 0
