"""Purging removes what is over, whole, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.pipeline.purge import purge, purgeable
from osteon.pipeline.rebuild import compare
from osteon.pipeline.table import views
from tests.pipeline_parts import SERIES, Node, ThreadEngine

DAY_S = 86_400.0
OTHER = "1.2.3.2"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    settings = Settings.model_validate(
        {"data_dir": tmp_path, "pipeline": {"disk_reserve_gb": 0}, "scp": {"quiet_s": 5}}
    )
    node = Node(tmp_path, settings, ThreadEngine())
    yield node
    node.close()


def done(node: Node, series: str = SERIES, job_id: int = 1) -> None:
    node.receive(range(1, 5), series=series, study=series)
    node.tick_until_state("done", job_id)


def rows(node: Node) -> dict[str, int]:
    tables = ("series", "instance", "job", "output", "result", "delivery", "transition")
    return {name: node.table.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in tables}


def files(node: Node) -> list[Path]:
    """Files of series and jobs: not the table's own, nor drafts that wait for an instance."""
    found = (path for path in node.data_dir.rglob("*") if path.is_file())
    return [path for path in found if "sqlite" not in path.name and "incoming" not in path.parts]


def test_what_is_over_goes_with_its_files_folders_and_rows(node: Node) -> None:
    done(node)
    assert len(files(node)) == 6
    node.clock.advance(2 * DAY_S)
    before = node.clock() - DAY_S
    (found,) = purgeable(node.table, before)
    assert (found.series_instance_uid, found.files) == (SERIES, 6)
    assert found.size == sum(path.stat().st_size for path in files(node))
    assert purge(node.table, SERIES, before) == found
    assert files(node) == []
    assert list((node.data_dir / "spool").iterdir()) == []
    assert set(rows(node).values()) == {0}
    assert purgeable(node.table, before) == []


def test_what_models_said_of_its_slices_goes_as_well(node: Node) -> None:
    done(node)
    (folder,) = (node.data_dir / "spool").iterdir()
    evidence = node.data_dir / "cache" / folder.name / "ab-cd.evidence"
    other = node.data_dir / "cache" / "another" / "ab-cd.evidence"
    for path in (evidence, other):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"of a patient")
    node.clock.advance(2 * DAY_S)
    assert purge(node.table, SERIES, node.clock() - DAY_S) is not None
    assert not evidence.parent.exists()
    assert other.exists()


def test_another_series_keeps_everything(node: Node) -> None:
    done(node)
    node.clock.advance(2 * DAY_S)
    done(node, OTHER, 2)
    assert purge(node.table, OTHER, node.clock() - DAY_S) is None
    assert [one.series_instance_uid for one in purgeable(node.table, node.clock() - DAY_S)] == [
        SERIES
    ]
    assert purge(node.table, SERIES, node.clock() - DAY_S) is not None
    assert list(compare(node.table, deep=True)) == []
    assert views.predict(node.table, OTHER)["status"] == "done"
    assert len(files(node)) == 6


def test_what_is_young_or_under_way_stays(node: Node) -> None:
    done(node)
    assert purgeable(node.table, node.clock() - DAY_S) == []
    node.clock.advance(2 * DAY_S)
    node.receive([5])  # a late slice: the second generation shares the first one's slices
    before = node.clock() - DAY_S
    assert purgeable(node.table, before) == []
    assert purge(node.table, SERIES, before) is None
    node.tick_until_state("done", 2)
    assert len(files(node)) == 9  # five slices, two results of each generation
    node.clock.advance(2 * DAY_S)
    assert purge(node.table, SERIES, node.clock() - DAY_S) is not None
    assert files(node) == []


def test_a_failed_delivery_that_is_still_tried_keeps_its_series(node: Node) -> None:
    done(node)
    result = node.table.rows("SELECT id FROM result WHERE kind = 'seg'")[0]["id"]
    with node.table.write():
        node.table.change(
            "INSERT INTO delivery (result_id, destination, state, not_before, created, updated)"
            " VALUES (?, 'pacs', 'waiting', 0, 0, 0)",
            (result,),
        )
    node.clock.advance(2 * DAY_S)
    assert purgeable(node.table, node.clock() - DAY_S) == []


def test_a_purge_that_was_killed_is_ended_by_the_next(node: Node) -> None:
    done(node)
    node.clock.advance(2 * DAY_S)
    for path in files(node)[:3]:
        path.unlink()
    assert purge(node.table, SERIES, node.clock() - DAY_S) is not None
    assert files(node) == []
    assert set(rows(node).values()) == {0}
