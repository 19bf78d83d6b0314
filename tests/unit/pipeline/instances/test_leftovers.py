"""After a crash: a draft that is whole comes back, by its header alone; all others go."""

import os
import shutil

import pytest

from osteon.config.settings import Settings
from osteon.errors import OutOfResourcesError
from osteon.pipeline.instances import leftovers
from osteon.pipeline.instances.digest import digest_of
from osteon.pipeline.instances.leftovers import recover_all
from osteon.pipeline.instances.part10 import decode_header
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.table.reception import open_association
from tests.pipeline_parts import SCANNER, ct_slice, store_slices

UID = "1.2.3.1.1"


class Crashed:
    """A data directory whose role was killed with one instance acknowledged."""

    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.settings = Settings(data_dir=data_dir, pipeline={"disk_reserve_gb": 0.0})
        self.table = open_table(data_dir)
        intake = Intake(self.settings, self.table)
        (stored,) = store_slices(intake, [1])
        intake.close()
        self.path = data_dir / stored.path
        self.draft = data_dir / "incoming" / "receive" / "1-0"

    def as_draft(self):
        """As after a power cut that took the last name."""
        self.path.replace(self.draft)
        self.path.parent.rmdir()

    def forget_rows(self):
        for name in ("instance", "transition", "series"):
            self.table.change(f"DELETE FROM {name}")

    def start(self):
        intake = Intake(self.settings, self.table)
        intake.close()
        return self.table.rows("SELECT * FROM instance ORDER BY id")

    def left(self):
        return list(self.draft.parent.iterdir())


@pytest.fixture
def crashed(tmp_path):
    crashed = Crashed(tmp_path / "data")
    intake_folder = crashed.draft.parent
    assert not list(intake_folder.iterdir())
    yield crashed
    crashed.table.close()


def test_a_name_that_was_lost_is_given_again(crashed):
    before = crashed.table.rows("SELECT * FROM instance")
    crashed.as_draft()
    assert crashed.start() == before
    assert crashed.path.stat().st_size == before[0]["size"]
    assert crashed.left() == []


def test_what_a_killed_receiver_left_belongs_to_the_association_that_was_cut_off(crashed):
    """Else a series of which this is all would not know that there is more to come."""
    left = open_association(crashed.table, "CT1", "OSTEON", "10.0.0.5")
    open_association(crashed.table, "CT2", "OSTEON", "10.0.0.6")
    crashed.as_draft()
    crashed.forget_rows()
    (row,) = crashed.start()
    assert row["association_id"] == left


def test_the_table_is_not_needed(crashed):
    (before,) = crashed.table.rows("SELECT * FROM instance")
    crashed.as_draft()
    crashed.forget_rows()
    (row,) = crashed.start()
    same = ("sop_instance_uid", "digest", "path", "size", "transfer_syntax_uid", "position")
    assert [row[key] for key in same] == [before[key] for key in same]
    (series,) = crashed.table.rows("SELECT * FROM series")
    assert (series["calling_ae_title"], series["instances"]) == ("CT1", 1)
    assert crashed.left() == []


def test_a_file_between_its_name_and_its_row_is_put_on_record(crashed):
    os.link(crashed.path, crashed.draft)
    crashed.forget_rows()
    (row,) = crashed.start()
    assert crashed.data_dir / row["path"] == crashed.path
    assert crashed.left() == []


@pytest.mark.parametrize("damage", ["cut", "a bit", "no hash", "no header", "nothing"])
def test_what_is_not_whole_goes(crashed, damage):
    crashed.as_draft()
    raw = bytearray(crashed.draft.read_bytes())
    at = decode_header(raw)[1]
    if damage == "a bit":
        raw[-1] ^= 1
    elif damage == "no hash":
        raw[at - 32 : at] = bytes(32)
    crashed.draft.write_bytes(
        {"cut": raw[:-2], "no header": raw[at:], "nothing": b""}.get(damage, raw)
    )
    crashed.forget_rows()
    assert crashed.start() == []
    assert crashed.left() == []
    assert not crashed.path.exists()


def test_an_older_version_does_not_become_the_newest(crashed):
    crashed.as_draft()
    intake = Intake(crashed.settings, crashed.table, "http")
    store_slices(intake, [1], PatientID="changed")
    intake.close()
    before = crashed.table.rows("SELECT * FROM instance ORDER BY id")
    assert crashed.start() == before
    assert crashed.path.exists()


def test_the_row_follows_the_file_of_another_sender(crashed):
    """Two brought the same bytes at once; their headers are of different lengths."""
    shutil.copy(crashed.path, crashed.draft)
    intake = Intake(crashed.settings, crashed.table, "http")
    other = SCANNER.__class__("A_LONGER_TITLE", "OSTEON", "10.0.0.6")
    store_slices(intake, [1], origin=other)
    intake.close()
    (row,) = crashed.start()
    assert crashed.path.stat().st_size == row["size"]


def test_a_draft_that_cannot_be_recovered_now_waits(crashed, monkeypatch):
    crashed.as_draft()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(leftovers, "name_durably", fail)
    crashed.start()
    assert crashed.left() == [crashed.draft]
    monkeypatch.undo()
    crashed.start()
    assert crashed.left() == []
    assert crashed.path.exists()


def test_all_roles_are_looked_after(crashed):
    other = crashed.data_dir / "incoming" / "http" / "1-0"
    other.parent.mkdir()
    other.write_bytes(b"half")
    unnamed = crashed.data_dir / "incoming" / "tmpdead"
    unnamed.write_bytes(b"an upload")
    crashed.as_draft()
    assert recover_all(crashed.settings, crashed.table) == 2
    assert crashed.path.exists()
    assert not other.exists()
    assert not unnamed.exists()


def test_the_header_names_the_hash_of_the_data_set(crashed):
    raw = crashed.path.read_bytes()
    meta, at = decode_header(raw)
    assert meta.digest == digest_of(raw[at:]) == crashed.path.stem


@pytest.mark.parametrize("is_locked", [False, True])
def test_an_instance_that_cannot_be_put_on_record_leaves_no_file(crashed, monkeypatch, is_locked):
    intake = Intake(crashed.settings, crashed.table)

    def fail(_):
        if is_locked:  # Not even the name can be taken back now.
            monkeypatch.setattr(crashed.table, "write", lambda: fail(None))
        raise OutOfResourcesError("the job table cannot be written: database or disk is full")

    monkeypatch.setattr(intake._commits, "_commit", fail)
    with pytest.raises(OutOfResourcesError):
        store_slices(intake, [2])
    monkeypatch.undo()
    intake.close()
    files = list((crashed.data_dir / "spool").rglob("*.dcm"))
    assert len(files) == 1 + is_locked
    assert len(crashed.left()) == is_locked
    assert len(crashed.start()) == 1 + is_locked
    assert crashed.left() == []


def test_a_refused_sender_does_not_take_the_file_of_another(crashed, monkeypatch):
    """Both bring the same bytes at once: one's row fails, the other's does not."""
    refused = Intake(crashed.settings, crashed.table)
    accepted = Intake(crashed.settings, open_table(crashed.data_dir), "http")
    stored = []

    def fail(_):
        stored.extend(store_slices(accepted, [2]))
        raise OutOfResourcesError("full")

    monkeypatch.setattr(refused._commits, "_commit", fail)
    with pytest.raises(OutOfResourcesError):
        store_slices(refused, [2])
    for intake in (refused, accepted):
        intake.close()
    accepted._table.close()
    raw = (crashed.data_dir / stored[0].path).read_bytes()
    assert raw[decode_header(raw)[1] :] == ct_slice(2)


def test_a_name_that_another_takes_back_is_given_again(crashed, monkeypatch):
    """The file was there, so it was replaced, and was gone when the row was committed."""
    intake = Intake(crashed.settings, crashed.table)
    store_slices(intake, [2])
    crashed.forget_rows()
    commit = intake._commits._commit

    def removing(batch):
        for path in (crashed.data_dir / "spool").rglob("*.dcm"):
            if path != crashed.path:
                path.unlink()
        return commit(batch)

    monkeypatch.setattr(intake._commits, "_commit", removing)
    (stored,) = store_slices(intake, [2])
    intake.close()
    assert (crashed.data_dir / stored.path).exists()
