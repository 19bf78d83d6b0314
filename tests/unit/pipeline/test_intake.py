"""The door: what is acknowledged is durable and on record, and what is refused left no trace."""

import json
import os
import struct
import subprocess
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from osteon.config.settings import Settings
from osteon.errors import (
    InvalidUIDError,
    MismatchError,
    OsteonError,
    OutOfResourcesError,
    TableError,
    UnparseableError,
)
from osteon.pipeline import intake as intake_module
from osteon.pipeline.instances.digest import digest_of
from osteon.pipeline.instances.leftovers import recover_all
from osteon.pipeline.instances.part10 import decode_header
from osteon.pipeline.intake import Intake
from osteon.pipeline.table import reception
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.table.reception import Origin
from osteon.pipeline.table.series import input_of
from tests.anomaly.evidence import left_behind
from tests.pipeline_parts import SCANNER, HandClock, ct_slice, store, store_slices
from tests.tools import wait_until


class Door:
    """An intake on a data directory of its own."""

    def __init__(self, data_dir, clock=None, **sections):
        self.data_dir = data_dir
        self.clock = clock or HandClock()
        self.settings = Settings(
            data_dir=data_dir,
            **{"pipeline": {"disk_reserve_gb": 0.0}} | sections,
        )
        self.table = open_table(data_dir, clock=self.clock)
        self.intake = Intake(self.settings, self.table)

    def rows(self, table):
        return self.table.rows(f"SELECT * FROM {table} ORDER BY id")

    def files(self):
        return [p for f in ("spool", "incoming") for p in (self.data_dir / f).rglob("*.*")]


@pytest.fixture
def door(tmp_path):
    opened = Door(tmp_path / "data")
    yield opened
    opened.table.close()


def test_an_instance_is_a_part10_file_and_a_row(door):
    data = ct_slice(1, PatientID="P", AccessionNumber="A")
    stored = store(door.intake, data, uid="1.2.3.1.1")
    (row,) = door.rows("instance")
    (series,) = door.rows("series")
    raw = (door.data_dir / stored.path).read_bytes()
    meta, at = decode_header(raw)
    assert raw[at:] == data
    assert (meta.sending_ae_title, meta.receiving_ae_title) == ("CT1", "OSTEON")
    assert dcmread(door.data_dir / stored.path).InstanceNumber == 1
    assert row["digest"] == digest_of(data)
    assert (row["path"], row["size"], row["generation"]) == (stored.path, len(raw), 1)
    assert json.loads(row["position"]) == [0.0, 0.0, 1.0]
    assert (series["instances"], series["state"], series["generation"]) == (1, "receiving", 1)
    assert (series["patient_id"], series["accession_number"]) == ("P", "A")
    assert series["due"] == door.clock.now + 5.0
    assert not stored.duplicate


def test_the_row_is_committed_after_the_file_is_durable(door, monkeypatch):
    steps = []

    def noted(owner, name, word):
        real = getattr(owner, name)

        def call(*arguments):
            result = real(*arguments)
            steps.append(word)
            return result

        monkeypatch.setattr(owner, name, call)

    def statement(sql):
        if sql.startswith(("PRAGMA synchronous", "INSERT INTO", "COMMIT")):
            step = sql.partition(" (")[0].partition(" VALUES")[0]
            if steps[-1] != step:  # What a trigger does is told under the same name.
                steps.append(step)

    store_slices(door.intake, [1])
    door.intake._spool._drafts._settle()
    noted(os, "link", "named")
    noted(os, "fdatasync", "synced")
    noted(Path, "unlink", "first name gone")
    door.table._conn.set_trace_callback(statement)
    store_slices(door.intake, [2])
    door.intake.close()
    answered, settled = (
        ["synced", "named", "PRAGMA synchronous=NORMAL", "INSERT INTO joining"],
        ["PRAGMA synchronous=FULL", "INSERT INTO synced", "COMMIT", "first name gone"],
    )
    assert steps[:8] == [*answered, *settled]


def test_the_first_row_of_a_series_is_synced_at_once(door):
    statements = []
    door.table._conn.set_trace_callback(statements.append)
    store_slices(door.intake, [1])
    opened = next(at for at, sql in enumerate(statements) if "INSERT INTO series" in sql)
    levels = [sql for sql in statements[:opened] if sql.startswith("PRAGMA synchronous")]
    assert levels[-1] == "PRAGMA synchronous=FULL"


def test_a_draft_keeps_its_first_name_until_its_row_is_synced(door, monkeypatch):
    def locked(table, role):
        raise TableError("the job table: it is locked")

    store_slices(door.intake, [1])
    door.intake._spool._drafts._settle()
    monkeypatch.setattr(reception, "sync_rows", locked)
    (stored,) = store_slices(door.intake, [2])
    door.intake.close()
    file = door.data_dir / stored.path
    (draft,) = (door.data_dir / "incoming" / "receive").iterdir()
    assert draft.samefile(file)

    door.table.change("DELETE FROM instance WHERE path = ?", (stored.path,))  # The power is cut.
    monkeypatch.undo()
    assert recover_all(door.settings, door.table) == 1
    assert stored.path in {row["path"] for row in door.rows("instance")}
    assert not draft.exists()


def test_first_names_go_when_rows_can_be_synced_again(door, monkeypatch):
    tried = threading.Event()

    def full(table, role):
        tried.set()
        raise OutOfResourcesError("the job table cannot be written: database or disk is full")

    def first_names():
        with os.scandir(door.data_dir / "incoming" / "receive") as entries:
            return [entry.name for entry in entries if size_of(entry)]

    def size_of(entry):
        try:
            return entry.stat().st_size
        except FileNotFoundError:  # Gone since the folder was read.
            return 0

    monkeypatch.setattr(reception, "sync_rows", full)
    store_slices(door.intake, [1, 2])
    assert tried.wait(10)
    assert len(first_names()) == 2
    monkeypatch.undo()
    wait_until(lambda: not first_names())
    assert door.rows("instance")


def test_counts_and_due_times_follow_what_arrives(door):
    for number in (1, 2, 3):
        store_slices(door.intake, [number])
        door.clock.advance(2.0)
    (series,) = door.rows("series")
    assert series["instances"] == 3
    assert series["last"] - series["first"] == 4.0
    assert series["due"] == series["last"] + 5.0


def test_a_duplicate_changes_nothing(door):
    store_slices(door.intake, [1])
    before = (door.rows("series"), door.rows("instance"))
    (file,) = door.files()
    content = file.read_bytes()
    door.clock.advance(3.0)
    (again,) = store_slices(door.intake, [1])
    assert again.duplicate
    assert (door.rows("series"), door.rows("instance")) == before
    assert door.files() == [file]
    assert file.read_bytes() == content


@pytest.mark.parametrize("damage", [b"", b"half of it", None])
def test_a_duplicate_mends_a_file_that_was_damaged(door, damage):
    (first,) = store_slices(door.intake, [1])
    file = door.data_dir / first.path
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + b"oops" if damage is None else damage)
    (again,) = store_slices(door.intake, [1])
    assert again.duplicate
    assert file.read_bytes() == whole


def test_a_damaged_file_is_mended_by_another_sender(door):
    (first,) = store_slices(door.intake, [1])
    file = door.data_dir / first.path
    file.write_bytes(b"half of it")
    other = door.intake.open_association("ARCHIVE", "OSTEON", "127.0.0.1")
    store_slices(door.intake, [1], origin=other)
    (row,) = door.rows("instance")
    assert file.stat().st_size == row["size"]
    assert file.read_bytes().endswith(ct_slice(1))


@pytest.mark.parametrize("complete", [False, True])
def test_what_was_replaced_is_news_when_it_comes_again(door, complete):
    """Versions A, B, A: the last one wins, in an open generation as in the next one."""
    for patient in ("A", "B", "A"):
        (stored,) = store_slices(door.intake, [1], PatientID=patient)
        assert not stored.duplicate
        if complete:
            door.table.change("UPDATE series SET state = 'complete'")
    series = door.rows("series")[-1]
    assert series["generation"] == (3 if complete else 1)
    assert series["instances"] == 1
    (held,) = input_of(door.table, series)
    assert held["path"] == stored.path
    (again,) = store_slices(door.intake, [1], PatientID="A")
    assert again.duplicate


def test_a_duplicate_whose_file_is_lost_is_written_again(door):
    (first,) = store_slices(door.intake, [1])
    (door.data_dir / first.path).unlink()
    (again,) = store_slices(door.intake, [1])
    assert again.duplicate
    assert (door.data_dir / first.path).is_file()
    assert len(door.rows("instance")) == 1


def test_other_bytes_of_a_receiving_series_are_both_kept_and_counted_once(door):
    store_slices(door.intake, [1, 2])
    store_slices(door.intake, [2], PatientID="new")
    (series,) = door.rows("series")
    assert series["instances"] == 2
    assert [row["generation"] for row in door.rows("instance")] == [1, 1, 1]
    assert len(door.files()) == 3


def test_other_bytes_of_a_complete_series_open_a_generation(door):
    store_slices(door.intake, [1, 2])
    door.table.change("UPDATE series SET state = 'complete'")
    store_slices(door.intake, [2], PatientID="new")
    store_slices(door.intake, [3])
    first, second = door.rows("series")
    assert (first["instances"], second["instances"]) == (2, 3)
    assert [row["generation"] for row in door.rows("instance")] == [1, 1, 2, 2]
    (opened,) = door.table.rows("SELECT * FROM transition WHERE series_id = 2")
    assert opened["why"] == "generation 2 from CT1"


def test_the_same_uid_in_another_series_is_another_instance(door):
    store(door.intake, ct_slice(1), uid="1.2.3.1.1")
    moved = ct_slice(1, series="1.2.3.9", SOPInstanceUID="1.2.3.1.1")
    assert not store(door.intake, moved, uid="1.2.3.1.1").duplicate
    assert [row["instances"] for row in door.rows("series")] == [1, 1]


@pytest.mark.parametrize(
    ("uid", "sop_class"),
    [("1.2.3.1.2", str(CTImageStorage)), ("1.2.3.1.1", "1.2.840.10008.5.1.4.1.1.4")],
)
def test_what_the_command_does_not_name_is_refused(door, uid, sop_class):
    with pytest.raises(MismatchError) as caught:
        door.intake.store(
            SCANNER,
            sop_class_uid=sop_class,
            sop_instance_uid=uid,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            dataset=ct_slice(1),
        )
    assert caught.value.dimse_status == 0xA900
    assert door.files() == []
    assert door.rows("series") == []


@pytest.mark.parametrize("uid", ["../../../../tmp/x", "1" * 65, "1.2\0", "1.2.3\n", "", "a"])
def test_a_hostile_instance_uid_is_refused(door, uid):
    with pytest.raises(InvalidUIDError) as caught:
        store(door.intake, ct_slice(1), uid=uid)
    assert caught.value.dimse_status == 0x0117
    assert door.files() == []


@pytest.mark.parametrize("syntax", ["../x", "1.2\0.3", "", "x" * 100_000])
def test_a_hostile_transfer_syntax_is_refused(door, syntax):
    with pytest.raises(InvalidUIDError):
        door.intake.store(
            SCANNER,
            sop_class_uid=CTImageStorage,
            sop_instance_uid="1.2.3.1.1",
            transfer_syntax_uid=syntax,
            dataset=ct_slice(1),
        )
    assert door.files() == []


def test_an_ae_title_that_is_not_ascii_is_refused_within_the_tree(door):
    with pytest.raises(OsteonError):
        store(door.intake, ct_slice(1), uid="1.2.3.1.1", origin=Origin("CT€", "OSTEON", "::1"))
    assert door.files() == []


@given(st.binary(max_size=300))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_garbage_is_refused_within_the_tree_and_leaves_nothing(door, garbage):
    with pytest.raises(OsteonError) as caught:
        store(door.intake, garbage, uid="1.2.3")
    assert not isinstance(caught.value, OutOfResourcesError)
    assert door.files() == []


def test_a_deflated_bomb_costs_little_and_harms_nobody(door):
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 2**28)
    bomb = deflate.compress(ct_slice(1) + pixels)
    bomb += b"".join(deflate.compress(b"\0" * 2**20) for _ in range(256)) + deflate.flush()
    stored = door.intake.store(
        SCANNER,
        sop_class_uid=CTImageStorage,
        sop_instance_uid="1.2.3.1.1",
        transfer_syntax_uid=DeflatedExplicitVRLittleEndian,
        dataset=bomb,
    )
    assert (door.data_dir / stored.path).stat().st_size < 2**20


def test_below_the_disk_reserve_nothing_is_taken_until_space_returns(door, monkeypatch):
    free = [10**9]
    monkeypatch.setattr(intake_module, "free_bytes", lambda folder: free[0])
    reserved = Door(door.data_dir, pipeline={"disk_reserve_gb": 2.0})
    with pytest.raises(OutOfResourcesError) as caught:
        store_slices(reserved.intake, [1])
    assert caught.value.message == "disk reserve reached: 1.0 GB are free and 2 GB are kept"
    assert door.rows("instance") == []
    free[0] = 3 * 10**9
    assert reserved.intake.refusal() is None
    store_slices(reserved.intake, [1])
    reserved.table.close()


def fill_backlog(door, count):
    store_slices(door.intake, [1])
    for number in range(count):
        door.table.insert(
            "INSERT INTO job (series_id, route, model, calling_ae_title, priority, stage, state,"
            " reason, input_sha256, created, updated)"
            " VALUES (1, ?, 'm', 'CT1', 2, 'admission', 'waiting', '', '', 0, 0)",
            (f"r{number}",),
        )


def test_a_full_backlog_refuses_and_opens_again(tmp_path):
    door = Door(tmp_path, pipeline={"disk_reserve_gb": 0.0, "waiting_max": 3})
    fill_backlog(door, 3)
    door.clock.advance(2.0)
    assert door.intake.refusal() == "backlog limit reached: 3 jobs are waiting"
    with pytest.raises(OutOfResourcesError, match="backlog"):
        store_slices(door.intake, [2])
    door.table.change("UPDATE job SET state = 'done' WHERE id = 1")
    door.clock.advance(2.0)
    assert door.intake.refusal() is None
    door.table.close()


def test_a_backlog_is_counted_anew_after_the_clock_was_set_back(tmp_path):
    door = Door(tmp_path, pipeline={"disk_reserve_gb": 0.0, "waiting_max": 1})
    fill_backlog(door, 1)
    door.clock.advance(2.0)
    assert door.intake.refusal() is not None
    door.table.change("UPDATE job SET state = 'done'")
    door.clock.advance(-3600.0)
    assert door.intake.refusal() is None
    door.table.close()


def test_a_source_has_its_own_quiet_time(tmp_path):
    door = Door(
        tmp_path,
        pipeline={"disk_reserve_gb": 0.0},
        source=[{"ae_title": "SLOW", "quiet_s": 30.0}, {"ae_title": "OTHER"}],
    )
    for number, ae in enumerate(("SLOW", "OTHER")):
        store_slices(door.intake, [1], series=f"1.2.{number}", origin=Origin(ae, "OSTEON", "::1"))
    assert [row["due"] - row["last"] for row in door.rows("series")] == [30.0, 5.0]
    door.table.close()


def test_associations_are_on_record(door):
    origin = door.intake.open_association("CT1", "OSTEON", "10.0.0.5")
    store_slices(door.intake, [1], origin=origin)
    door.clock.advance(1.0)
    door.intake.close_association(origin, "released")
    door.intake.close_association(origin, "aborted")
    door.intake.close_association(SCANNER, "an upload has none")
    (row,) = door.rows("association")
    assert (row["outcome"], row["closed"] - row["opened"]) == ("released", 1.0)
    assert door.rows("instance")[0]["association_id"] == origin.association_id


def test_many_threads_and_two_processes_connections_agree(tmp_path):
    """Eight threads and two connections store the same forty slices, each of them twice."""
    doors = [Door(tmp_path / "data") for _ in range(2)]
    start = threading.Barrier(8)

    def send(worker):
        start.wait(10)
        return [
            stored
            for number in range(1, 41)
            for stored in store_slices(doors[worker % 2].intake, [number])
        ]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(send, range(8)))
    assert all(len(stored) == 40 for stored in results)
    (series,) = doors[0].rows("series")
    assert series["instances"] == 40
    assert len(doors[0].rows("instance")) == 40
    assert len(doors[0].files()) == 40
    for door in doors:
        door.table.close()


def test_a_value_that_cannot_be_read_does_not_leave_an_orphan(door):
    bad = ct_slice(1) + struct.pack("<HH2sH", 0x0028, 0x9001, b"UL", 3) + b"\1\2\3"
    stored = store(door.intake, bad, uid="1.2.3.1.1")
    assert [row["path"] for row in door.rows("instance")] == [stored.path]


@pytest.fixture
def tiny_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_leaves_nothing_and_serves_again(tiny_disk):
    door = Door(tiny_disk / "data")
    store_slices(door.intake, [1])
    big = ct_slice(2) + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 2**22) + b"\0" * 2**22
    with pytest.raises(OutOfResourcesError) as caught:
        store(door.intake, big, uid="1.2.3.1.2")
    assert caught.value.dimse_status == 0xA700
    assert len(door.files()) == 1
    filler = tiny_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"\0" * 2**22)
    for _ in range(3):
        with pytest.raises(OutOfResourcesError):
            store_slices(door.intake, [3])
    assert len(door.rows("instance")) == 1
    filler.unlink()
    store_slices(door.intake, [3])
    assert len(door.rows("instance")) == len(door.files()) == 2
    door.intake.close()
    assert left_behind(door.data_dir) == []
    door.table.close()


def test_a_full_table_refuses_and_serves_again(tmp_path):
    door = Door(tmp_path / "data")
    pages = door.table.rows("PRAGMA page_count")[0]["page_count"]
    door.table.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutOfResourcesError, match="full"):
        store_slices(door.intake, range(1, 400))
    held = len(door.rows("instance"))
    door.table.rows("PRAGMA max_page_count = 100000")
    store_slices(door.intake, range(1, 400))
    assert len(door.rows("instance")) == 399 > held
    assert door.rows("series")[0]["instances"] == 399
    door.table.close()


def test_unparseable_answers_c000(door):
    with pytest.raises(UnparseableError) as caught:
        store(door.intake, b"no data set at all, just text", uid="1.2.3")
    assert caught.value.dimse_status == 0xC000


def test_two_senders_of_the_same_bytes_at_once_leave_row_and_file_of_one_size(door):
    origins = [
        door.intake.open_association(title, "OSTEON", "127.0.0.1") for title in ("CT1", "ARCHIVE16")
    ]
    for number in range(20):
        with ThreadPoolExecutor(2) as senders:
            list(
                senders.map(
                    lambda origin, n=number: store_slices(door.intake, [n], origin=origin), origins
                )
            )
    for row in door.rows("instance"):
        assert (door.data_dir / row["path"]).stat().st_size == row["size"]
    assert len(door.rows("instance")) == 20


def test_a_data_set_that_comes_in_pieces_is_kept_as_it_came(door):
    data = ct_slice(1) + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 3_000_000)
    data += bytes(range(250)) * 12_000
    with door.intake.begin(
        SCANNER,
        sop_class_uid=CTImageStorage,
        sop_instance_uid="1.2.3.1.1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    ) as arrival:
        for at in range(0, len(data), 130_000):
            piece = bytearray(data[at : at + 130_000])
            arrival.write(memoryview(piece))
            piece[:] = bytes(len(piece))  # Its memory is used again.
        stored = arrival.finish()
    raw = (door.data_dir / stored.path).read_bytes()
    meta, at = decode_header(raw)
    assert raw[at:] == data
    assert meta.digest == digest_of(data) == Path(stored.path).stem
