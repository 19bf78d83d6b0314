"""Disk and table are compared, and a lost table is rebuilt from the spool alone."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.errors import ReceptionError
from osteon.pipeline.rebuild import adopt, compare
from osteon.pipeline.table.connection import FILE_NAME, open_table
from osteon.pipeline.table.reception import Origin
from tests.pipeline_parts import SERIES, Node, ThreadEngine, ct_slice, store

SENDER = Origin("CT7", "BONES", "10.0.0.7")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, settings_in(tmp_path), ThreadEngine())
    yield node
    node.close()


def settings_in(folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": folder,
            "pipeline": {"disk_reserve_gb": 0},
            "source": [{"ae_title": "CT7", "quiet_s": 9}],
        }
    )


def spooled(node: Node, *, aged: bool = True) -> list[Path]:
    found = sorted((node.data_dir / "spool").glob("*/*.dcm"))
    for path in found if aged else ():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return found


def lose_table(node: Node) -> None:
    node.table.close()
    node.receiver_table.close()
    for path in node.data_dir.glob(f"{FILE_NAME}*"):
        path.unlink()
    node.table = open_table(node.data_dir, clock=node.clock)


def test_what_agrees_has_no_fault(node: Node) -> None:
    node.receive(range(1, 5))
    node.tick_until_state("done")
    spooled(node)
    assert list(compare(node.table, deep=True)) == []


def test_a_backup_made_beside_the_running_node_is_whole(node: Node, tmp_path: Path) -> None:
    """First the table by SQLite's own backup, then spool and results, as the manual says."""
    node.receive(range(1, 5))
    node.tick_until_state("done")
    spooled(node)
    backup = tmp_path / "backup"
    backup.mkdir()
    with (
        closing(sqlite3.connect(node.data_dir / FILE_NAME)) as table,
        closing(sqlite3.connect(backup / FILE_NAME)) as copied,
    ):
        table.backup(copied)
    for name in ("spool", "results"):
        shutil.copytree(node.data_dir / name, backup / name)
    restored = open_table(backup, clock=node.clock)
    try:
        assert list(compare(restored, deep=True)) == []
        counted = "SELECT count(*) FROM instance"
        assert restored.rows(counted)[0][0] == 4
        next((backup / "spool").glob("*/*.dcm")).unlink()
        assert [fault.kind for fault in compare(restored, deep=True)] == ["missing"]
    finally:
        restored.close()


def test_every_kind_of_damage_is_named(node: Node) -> None:
    node.receive(range(1, 5))
    node.tick_until_state("done")
    gone, longer, flipped, _ = spooled(node)
    gone.unlink()
    longer.write_bytes(longer.read_bytes() + b"x")
    raw = bytearray(flipped.read_bytes())
    raw[-1] ^= 1
    flipped.write_bytes(raw)
    (node.data_dir / "results" / "1" / "preview.png").write_bytes(b"\x89PNX")
    kinds = {Path(fault.path).name: fault.kind for fault in compare(node.table, deep=True)}
    assert kinds == {
        gone.name: "missing",
        longer.name: "size",
        flipped.name: "content",
        "preview.png": "content",
    }
    shallow = {fault.kind for fault in compare(node.table)}
    assert shallow == {"missing", "size"}


def test_a_lost_table_is_rebuilt_from_the_spool(node: Node) -> None:
    node.receive(range(1, 5), origin=SENDER)
    node.clock.advance(10)
    uid = node.tick_until_state("done")["input_sha256"]
    before = node.table.rows("SELECT * FROM series")[0]
    spooled(node)
    lose_table(node)
    orphans = list(compare(node.table))
    assert [fault.kind for fault in orphans] == ["orphan"] * 4
    for fault in orphans:
        adopt(node.settings, node.table, fault.path)
        adopt(node.settings, node.table, fault.path)  # a second time changes nothing
    assert list(compare(node.table, deep=True)) == []
    after = node.table.rows("SELECT * FROM series")[0]
    for key in ("series_instance_uid", "calling_ae_title", "called_ae_title", "modality"):
        assert after[key] == before[key]
    assert after["instances"] == 4
    assert after["waits_for"] == "9 s without a new instance"
    node.restart()
    node.clock.advance(10)
    assert node.tick_until_state("done")["input_sha256"] == uid


def test_the_newer_of_two_contents_wins_again(node: Node) -> None:
    old = store(node.intake, ct_slice(1, SliceLocation=1), uid=f"{SERIES}.1")
    new = store(node.intake, ct_slice(1, SliceLocation=2), uid=f"{SERIES}.1")
    for age, stored in ((200, old), (100, new)):
        at = 1_700_000_000 - age
        os.utime(node.data_dir / stored.path, (at, at))
    lose_table(node)
    for fault in list(compare(node.table)):
        adopt(node.settings, node.table, fault.path)
    newest = node.table.rows("SELECT path FROM instance ORDER BY id DESC")[0]["path"]
    assert newest == new.path
    assert node.table.rows("SELECT instances FROM series")[0]["instances"] == 1


def test_a_file_that_may_just_be_arriving_is_passed_over(node: Node) -> None:
    node.receive(range(1, 5))
    spooled(node, aged=False)
    lose_table(node)
    assert list(compare(node.table)) == []


def test_files_that_are_purged_meanwhile_are_no_faults(node: Node) -> None:
    node.receive(range(1, 4))
    first, second, third = spooled(node)
    lose_table(node)
    found = compare(node.table)
    assert next(found).kind == "orphan"
    second.unlink()
    assert [fault.path for fault in found] == [str(third.relative_to(node.data_dir))]
    third.unlink()
    third.symlink_to(second)  # It is listed, and gone when it is looked at.
    assert [fault.path for fault in compare(node.table)] == [str(first.relative_to(node.data_dir))]


def test_damage_is_not_adopted(node: Node) -> None:
    node.receive([1, 2])
    first, second = spooled(node)
    first.write_bytes(first.read_bytes()[:-2])
    second.write_bytes(b"no DICOM")
    spooled(node)
    lose_table(node)
    assert [fault.kind for fault in compare(node.table)] == ["content", "content"]
    for path in (first, second):
        with pytest.raises(ReceptionError):
            adopt(node.settings, node.table, str(path.relative_to(node.data_dir)))
    assert node.table.rows("SELECT * FROM instance") == []
