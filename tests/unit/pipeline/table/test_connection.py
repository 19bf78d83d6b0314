"""The connection: migrations, transactions, and what SQLite raises."""

import subprocess
import sys
import threading

import pytest
from pysqlite3 import dbapi2 as sqlite3
from sqlite_utils import Database

from osteon.errors import ConfigError, OutOfResourcesError, StaleTransition, TableError
from osteon.pipeline.table import connection
from osteon.pipeline.table.connection import (
    FILE_NAME,
    Table,
    file_system_of,
    held_folder,
    migrations,
    open_table,
)
from tests.tools import wait_until

TABLES = {
    "association",
    "delivery",
    "instance",
    "job",
    "output",
    "result",
    "series",
    "transition",
}


def names(table):
    rows = table.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {row["name"] for row in rows}


def test_an_empty_folder_gets_the_schema(table):
    assert names(table) >= TABLES
    pragmas = {p: table.rows(f"PRAGMA {p}")[0][0] for p in ("journal_mode", "foreign_keys")}
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1}
    assert table.rows("PRAGMA foreign_key_check") == []


def test_an_existing_file_keeps_its_rows(table):
    table.insert(
        "INSERT INTO association (calling_ae_title, called_ae_title, address, opened)"
        " VALUES ('A', 'B', '::1', 0)"
    )
    table.close()
    again = open_table(table.data_dir)
    assert len(again.rows("SELECT * FROM association")) == 1
    assert migrations.pending(Database(again._conn)) == []
    again.close()


def test_a_migration_that_is_cut_off_leaves_nothing_behind(tmp_path, monkeypatch):
    """Half a schema would be in the way of every later start."""
    real = sqlite3.complete_statement
    seen = []

    def die_in_the_middle(statement):
        whole = real(statement)
        seen.append(whole)
        if seen.count(True) == 4:
            raise KeyboardInterrupt
        return whole

    monkeypatch.setattr(connection.sqlite3, "complete_statement", die_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        open_table(tmp_path)
    monkeypatch.undo()
    table = open_table(tmp_path)
    assert names(table) >= TABLES
    table.close()


OPEN = """
import sys
from pathlib import Path
from osteon.pipeline.table.connection import open_table
sys.stdin.readline()
table = open_table(Path(sys.argv[1]))
table.insert("INSERT INTO association (calling_ae_title, called_ae_title, address, opened)"
             " VALUES ('A', 'B', '::1', 0)")
"""


def test_processes_that_open_at_once_migrate_once(tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(tmp_path / "data")],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]
    for process in started:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    table = open_table(tmp_path / "data")
    assert len(table.rows("SELECT * FROM association")) == 3
    table.close()


def insert(table, name):
    table.insert(
        "INSERT INTO association (calling_ae_title, called_ae_title, address, opened)"
        " VALUES (?, 'B', '::1', 0)",
        (name,),
    )


def insert_and_raise(table, error):
    with table.write():
        insert(table, "A")
        if callable(error):
            error()
        raise error


def insert_many(table):
    with table.write():
        for number in range(5000):
            insert(table, f"AE{number}" * 10)


def held(table):
    return [row["calling_ae_title"] for row in table.rows("SELECT * FROM association")]


def test_a_transaction_is_all_or_nothing(table, other):
    with pytest.raises(StaleTransition):
        insert_and_raise(table, StaleTransition("meanwhile"))
    assert held(table) == []
    with table.write():
        insert(table, "A")
        assert held(other) == []
    assert held(other) == ["A"]


def test_nested_blocks_join_the_outer_one(table, other):
    def nest():
        with table.write():
            with table.write():
                insert(table, "A")
            assert held(other) == []
            raise StaleTransition("meanwhile")

    with pytest.raises(StaleTransition):
        nest()
    assert held(other) == []
    assert not table._conn.in_transaction


def test_an_interrupt_rolls_back_and_frees_the_lock(table, other):
    with pytest.raises(KeyboardInterrupt):
        insert_and_raise(table, KeyboardInterrupt())
    with other.write():
        insert(other, "B")
    assert held(table) == ["B"]


def test_other_threads_stay_out_of_a_transaction(table):
    inside, done = threading.Event(), threading.Event()

    def read():
        inside.wait(10)
        insert(table, "from the other thread")
        done.set()

    thread = threading.Thread(target=read)
    thread.start()

    def hold_and_raise():
        inside.set()
        assert not done.wait(0.1)
        raise StaleTransition("rolled back")

    with pytest.raises(StaleTransition):
        insert_and_raise(table, hold_and_raise)
    thread.join(10)
    assert held(table) == ["from the other thread"]


def test_the_version_tells_of_commits_of_others_alone(table, other):
    before = table.version
    insert(table, "A")
    assert table.version == before
    insert(other, "B")
    assert table.version != before


def test_what_sqlite_raises_is_mapped(table, monkeypatch):
    with pytest.raises(TableError, match="no such table"):
        table.rows("SELECT * FROM lost")
    with pytest.raises(TableError, match=r"UNIQUE|FOREIGN"):
        table.change("INSERT INTO transition VALUES (1, 0, 99, NULL, '', '', '', '', '', '', '')")
    pages = table.rows("PRAGMA page_count")[0]["page_count"]
    table.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutOfResourcesError, match="full"):
        insert_many(table)
    assert not table._conn.in_transaction
    assert held(table) == []


def test_a_locked_table_is_an_error_after_the_deadline(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.1)
    table, other = open_table(tmp_path), open_table(tmp_path)
    with table.write(), pytest.raises(TableError, match="locked"), other.write():
        pass
    with other.write():
        insert(other, "A")
    table.close()
    other.close()


def test_a_row_must_belong_to_what_is_there(table):
    with pytest.raises(TableError, match="FOREIGN KEY"):
        table.insert(
            "INSERT INTO transition (at, series_id, event, who, why) VALUES (0, 77, 'x', 'y', 'z')"
        )


def test_an_old_sqlite_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(connection.sqlite3, "sqlite_version_info", (3, 40, 1))
    with pytest.raises(ConfigError, match=r"install pysqlite3 with 3\.51\.3"):
        open_table(tmp_path)


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(ConfigError, match="data_dir"):
            open_table(folder)


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "file_system_of", lambda path: "nfs4")
    with pytest.raises(ConfigError, match="name a folder on a local disk"):
        open_table(tmp_path)


def test_the_file_system_of_a_path(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\n"
        "server:/x /srv/data nfs4 rw 0 0\n"
        "/dev/sdb1 /srv/data/local\\040disk xfs rw 0 0\n"
        "tmpfs /mnt tmpfs rw 0 0\n"
        "//nas/y /mnt cifs rw 0 0\n"
    )
    for path, kind in {
        "/srv/data/osteon": "nfs4",
        "/srv/data": "nfs4",
        "/srv/database": "ext4",
        "/srv/data/local disk/osteon": "xfs",
        "/mnt/x": "cifs",
    }.items():
        assert file_system_of(connection.Path(path), mounts) == kind
    assert file_system_of(tmp_path, tmp_path / "none") == ""


def test_a_held_folder_is_held_for_one(tmp_path):
    entered = threading.Event()

    def enter():
        with held_folder(tmp_path):
            entered.set()

    with held_folder(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.1)
    wait_until(entered.is_set, 10)
    thread.join(10)


def test_closing_twice_is_nothing(tmp_path):
    table = Table(tmp_path)
    table.close()
    table.close()
    assert (tmp_path / FILE_NAME).is_file()
