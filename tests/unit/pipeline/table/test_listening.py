"""Who could be heard: the receiver's row, and the association that decides on a series."""

import pytest

from osteon.pipeline.instances.index import read_header
from osteon.pipeline.table import listening, reception
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.table.reception import Origin, Received
from tests.pipeline_parts import SERIES, ct_slice

SYNTAX = "1.2.840.10008.1.2.1"
SERIES_ROW = {"series_instance_uid": SERIES, "generation": 1}


@pytest.fixture
def bring(table):
    """Return what opens an association, brings a slice over it, and returns its id."""

    def bring(number: int, *, by_http: bool = False) -> int | None:
        dataset = ct_slice(number)
        opened = None if by_http else reception.open_association(table, "CT1", "OSTEON", "::1")
        received = Received(read_header(dataset, SYNTAX), SYNTAX, f"{number:064}", f"{number}", 1)
        origin = Origin("CT1", "OSTEON", "::1", opened)
        assert reception.add_instance(table, origin, received, quiet_s=5.0)
        return opened

    return bring


def decisive(table):
    row = listening.decisive_association(table, SERIES_ROW)
    assert row is not None
    return row["id"], row["unfinished"]


def test_a_table_of_the_release_before_gets_the_new_columns(table, clock):
    old = reception.open_association(table, "CT1", "OSTEON", "::1")
    table.change("DROP INDEX association_open")
    table.change("ALTER TABLE association DROP COLUMN cut")
    table.change("DROP TABLE receiver")
    table.change("DELETE FROM _sqlite_migrations WHERE name LIKE '%0008%'")
    table.close()
    again = open_table(table.data_dir, clock=clock)
    assert listening.listening_since(again) is None
    (row,) = again.rows("SELECT * FROM association")
    assert (row["id"], row["cut"], row["closed"]) == (old, 0, None)
    again.close()


def test_a_receiver_closes_what_the_last_one_left_open_and_nothing_else(table, clock):
    first = reception.open_association(table, "CT1", "OSTEON", "::1")
    over = reception.open_association(table, "CT2", "OSTEON", "::1")
    reception.close_association(table, over, "released", cut=False)
    newest = listening.newest_association(table)
    own = reception.open_association(table, "CT3", "OSTEON", "::1")
    clock.advance(7.0)
    assert listening.begin_listening(table, clock.now - 1.0, newest, "killed") == 1
    rows = {row["id"]: row for row in table.rows("SELECT * FROM association")}
    assert (rows[first]["closed"], rows[first]["outcome"], rows[first]["cut"]) == (
        clock.now - 1.0,
        "killed",
        1,
    )
    assert (rows[over]["outcome"], rows[over]["cut"], rows[own]["closed"]) == ("released", 0, None)
    assert listening.listening_since(table) == clock.now - 1.0
    assert listening.begin_listening(table, clock.now, 0, "killed") == 0
    assert listening.listening_since(table) == clock.now


def test_an_upload_has_no_association(table, bring):
    bring(1, by_http=True)
    assert listening.decisive_association(table, SERIES_ROW) is None


def test_an_open_association_is_unfinished_and_a_released_one_is_not(table, bring):
    first = bring(1)
    assert decisive(table) == (first, 1)
    reception.close_association(table, first, "released", cut=False)
    assert decisive(table) == (first, 0)


def test_one_that_was_cut_off_decides_until_its_sender_comes_again(table, clock, bring):
    cut, beside = bring(1), bring(2)
    clock.advance(1.0)
    reception.close_association(table, cut, "lost", cut=True)
    clock.advance(1.0)
    reception.close_association(table, beside, "released", cut=False)
    assert decisive(table) == (cut, 1)  # What was sent beside it is no other attempt.
    clock.advance(1.0)
    again = bring(3)
    assert decisive(table) == (again, 1)
    reception.close_association(table, again, "released", cut=False)
    assert decisive(table)[1] == 0


def test_a_sender_is_back_while_it_has_another_association_open(table, clock, bring):
    def is_back():
        return bool(listening.decisive_association(table, SERIES_ROW)["is_back"])

    cut = bring(1)
    reception.open_association(table, "CT1", "OSTEON", "::1")  # Beside it, from before.
    clock.advance(1.0)
    reception.close_association(table, cut, "lost", cut=True)
    clock.advance(1.0)
    for calling, address in (("CT2", "::1"), ("CT1", "10.0.0.5")):
        reception.open_association(table, calling, "OSTEON", address)
    assert not is_back()
    again = reception.open_association(table, "CT1", "OSTEON", "::1")
    assert is_back()
    reception.close_association(table, again, "released", cut=False)
    assert not is_back()


def test_a_clock_that_is_set_back_leaves_nothing_in_the_future(table, clock, bring):
    cut = bring(1)
    reception.close_association(table, cut, "lost", cut=True)
    listening.begin_listening(table, clock.now, cut, "killed")
    clock.advance(-3600.0)
    assert listening.bring_forward(table) == 1
    assert listening.listening_since(table) == clock.now
    assert table.rows("SELECT closed FROM association")[0]["closed"] == clock.now
