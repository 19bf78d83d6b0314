"""Who associated, what came of it, and who was turned away."""

import json

import pytest
from click.testing import CliRunner
from sqlite_utils import Database

from osteon.cli.main import cli
from osteon.config.settings import Settings
from osteon.pipeline.intake import Intake
from osteon.pipeline.purge import empty_associations, purge, purge_associations
from osteon.pipeline.table import associations, purging, reception, views
from osteon.pipeline.table.associations import REJECTIONS_MAX, SERIES_MAX, Brought, Rejected
from osteon.pipeline.table.connection import Table, migrations, open_table
from osteon.pipeline.table.reception import Origin
from tests.pipeline_parts import SERIES, store_slices

BEFORE = "_0010_associations"


@pytest.fixture
def intake(table):
    return Intake(Settings(data_dir=table.data_dir, pipeline={"disk_reserve_gb": 0.0}), table)


@pytest.fixture
def visit(table, clock, intake):
    """Bring slices over an association of ten seconds, as the acceptor does."""

    def bring(numbers, calling="CT1"):
        origin = intake.open_association(calling, "OSTEON", "10.0.0.5")
        brought = Brought()
        for stored in store_slices(intake, numbers, origin=origin):
            brought.store(stored.series_instance_uid, duplicate=stored.duplicate)
        clock.advance(10.0)
        intake.close_association(origin, "released", brought=brought)

    return bring


def rejected(calling="CT1", at=100.0, times=1, answer="1,1,3"):
    return Rejected(calling, "OSTEON", "10.0.0.5", answer, f"why {times}", at, at, times)


def test_what_came_is_on_record_when_it_closes(table, clock, intake):
    origin = intake.open_association("CT1", "OSTEON", "10.0.0.5")
    (open_one,) = associations.latest(table)
    assert (open_one["closed"], open_one["stored"]) == (None, None)
    brought = Brought()
    brought.store("1.2", duplicate=False)
    brought.store("1.2", duplicate=True)
    brought.refuse(0xA700, "disk reserve reached")
    brought.refuse(0xC000, "no data set " + "x" * 1000)
    clock.advance(10.0)
    intake.close_association(origin, "released", brought=brought)
    intake.close_association(origin, "again", brought=Brought())
    (one,) = associations.latest(table)
    assert (one["stored"], one["duplicates"], one["refused"]) == (2, 1, 2)
    assert one["refusal"].startswith("0xC000: no data set xxx")
    assert len(one["refusal"]) == 256
    assert (one["outcome"], one["rejected"]) == ("released", 0)
    assert json.loads(json.dumps(one)) == one


def test_series_sent_again_are_told_of_up_to_a_limit():
    brought = Brought()
    for number in range(SERIES_MAX + 5):
        brought.store(f"1.2.{number}", duplicate=True)
    brought.store("1.2.0", duplicate=True)
    assert brought.duplicates == SERIES_MAX + 6
    assert len(brought.again) == SERIES_MAX
    assert brought.again["1.2.0"] == 2


def test_a_series_sent_again_is_in_its_story(table, clock, visit):
    visit([1, 2, 3])
    clock.advance(100.0)
    visit([1, 2, 3], calling="ARCHIVE")
    (story,) = views.trace(table, SERIES)
    came = [(a["calling_ae_title"], a["instances"], a["again"]) for a in story["associations"]]
    assert came == [("CT1", 3, 0), ("ARCHIVE", 0, 3)]
    assert story["associations"][1]["opened"] == views.iso(clock.now - 10.0)
    assert story["uploaded"] == 0


def test_what_came_again_belongs_to_the_generation_of_its_time(table, clock, visit):
    visit([1, 2])
    visit([1], calling="FIRST")
    with table.write():
        table.change("UPDATE series SET state = 'complete'")
    clock.advance(100.0)
    visit([1, 2, 3], calling="LATE")
    first, second = views.trace(table, SERIES)
    assert [a["calling_ae_title"] for a in first["associations"]] == ["CT1", "FIRST"]
    (late,) = second["associations"]
    assert (late["instances"], late["again"]) == (1, 2)


def test_an_upload_is_told_as_one(table, intake):
    store_slices(intake, [1, 2], origin=Origin("HTTP", "OSTEON", "10.0.0.9"))
    (story,) = views.trace(table, SERIES)
    assert (story["uploaded"], story["source"], story["associations"]) == (2, "HTTP", [])
    assert story["events"][0]["why"] == "generation 1 from an HTTP upload by 10.0.0.9"


def test_rejections_that_are_alike_are_one_row(table):
    associations.record_rejections(table, [rejected(at=100.0), rejected("CT2", at=150.0)])
    associations.record_rejections(table, [rejected(at=200.0, times=4)])
    newest, other = associations.latest(table)
    assert (newest["calling_ae_title"], newest["rejected"]) == ("CT1", 5)
    assert newest["outcome"] == "rejected 1,1,3: why 4"
    assert newest["opened"] == "1970-01-01T00:01:40.000+00:00"
    assert newest["closed"] == "1970-01-01T00:03:20.000+00:00"
    assert other["calling_ae_title"] == "CT2"


def test_very_many_rejections_cost_a_bounded_table(table):
    for start in (0, REJECTIONS_MAX):
        numbers = range(start, start + REJECTIONS_MAX)
        associations.record_rejections(table, [rejected(f"X{n}", at=float(n)) for n in numbers])
    rows = table.rows("SELECT calling_ae_title AS title FROM rejection ORDER BY last")
    assert len(rows) == REJECTIONS_MAX
    assert rows[0]["title"] == f"X{REJECTIONS_MAX}"


def test_the_latest_of_one_sender_and_since_a_time(table, clock, visit):
    visit([1])
    clock.advance(1000.0)
    visit([2], calling="CT2")
    visit([3])
    associations.record_rejections(table, [rejected("CT1", at=clock.now)])
    outcomes = [(a["calling_ae_title"], a["outcome"][:8]) for a in associations.latest(table)]
    assert outcomes == [
        ("CT1", "rejected"),
        ("CT1", "released"),
        ("CT2", "released"),
        ("CT1", "released"),
    ]
    assert len(associations.latest(table, calling="CT1")) == 3
    assert len(associations.latest(table, since=clock.now - 500)) == 3
    assert len(associations.latest(table, calling="CT1", since=clock.now - 500, limit=1)) == 1
    assert associations.latest(table, calling="CT3") == []


def test_purge_takes_what_came_again_along(table, clock, visit):
    visit([1, 2, 3])
    visit([1, 2, 3])
    with table.write():
        table.change("UPDATE series SET state = 'complete'")
    clock.advance(1000.0)
    assert purge(table, SERIES, clock.now) is not None
    assert table.rows("SELECT * FROM duplicate") == []
    assert table.rows("SELECT * FROM association") == []


def test_a_table_from_before_keeps_its_associations(tmp_path):
    old = Table(tmp_path)
    migrations.apply(Database(old._conn), stop_before=BEFORE)
    old.insert(
        "INSERT INTO association (calling_ae_title, called_ae_title, address, opened, closed,"
        " outcome) VALUES ('CT1', 'OSTEON', '::1', 10, 20, 'released')"
    )
    old.close()
    table = open_table(tmp_path)
    (one,) = associations.latest(table)
    assert (one["outcome"], one["stored"], one["refusal"]) == ("released", None, "")
    reception.open_association(table, "CT2", "OSTEON", "::1")
    assert len(associations.latest(table)) == 2
    table.close()


def echo(intake, clock, calling="PACS"):
    """Open an association for C-ECHO alone."""
    origin = intake.open_association(calling, "OSTEON", "10.0.0.5")
    clock.advance(1.0)
    intake.close_association(origin, "released", brought=Brought())


def callers(table):
    return [one["calling_ae_title"] for one in associations.latest(table)]


def test_what_brought_nothing_is_purged_at_its_age(table, clock, intake, visit):
    echo(intake, clock, "OLD")
    visit([1, 2, 3])
    visit([1, 2], calling="AGAIN")  # What it brought was held already.
    still_open = intake.open_association("OPEN", "OSTEON", "10.0.0.5")
    assert still_open.association_id
    clock.advance(100.0)
    before = clock()
    clock.advance(1.0)
    echo(intake, clock, "YOUNG")
    assert empty_associations(table, before) == 1
    assert purge_associations(table, before) == 1
    assert callers(table) == ["YOUNG", "OPEN", "AGAIN", "CT1"]
    assert (empty_associations(table, before), purge_associations(table, before)) == (0, 0)


def test_the_command_says_how_many_associations_go(table, clock, intake, tmp_path):
    echo(intake, clock)
    with table.write():
        table.change("UPDATE association SET opened = 1, closed = 2")
    config = tmp_path / "osteon.toml"
    config.write_text(f'data_dir = "{table.data_dir}"\n')

    def osteon(*options):
        line = ["purge", "--config", str(config), "--older-than", "0", *options]
        result = CliRunner().invoke(cli, line)
        return result.exit_code, result.output

    assert osteon()[0] == 2  # It would ask.
    said = "0 series, 0 files, 0.0 MB, and 1 association without images"
    assert said in osteon("--dry-run")[1]
    assert osteon("--yes") == (0, f"removed {said}\n")
    assert callers(table) == []


def test_of_unknown_counts_what_is_held_decides(table, clock, intake, visit):
    """As where the receiver was killed, and in logs of older versions."""
    echo(intake, clock)
    visit([1, 2, 3])
    with table.write():
        table.change("UPDATE association SET stored = NULL, duplicates = NULL, refused = NULL")
    clock.advance(1.0)
    assert purge_associations(table, clock()) == 1
    assert callers(table) == ["CT1"]


def test_a_purge_goes_on_beyond_its_first_page(table, clock, intake, monkeypatch):
    monkeypatch.setattr(purging, "_PAGE", 3)
    for _ in range(7):
        echo(intake, clock)
    clock.advance(1.0)
    assert purge_associations(table, clock()) == 7
    assert callers(table) == []


def test_the_log_of_what_brought_nothing_has_a_bound(table, clock, intake, visit, monkeypatch):
    visit([1, 2, 3])
    for number in range(8):
        echo(intake, clock, f"PACS{number}")
    monkeypatch.setattr(purging, "EMPTY_ASSOCIATIONS_MAX", 5)
    assert purging.bound_empty(table) == 3
    assert callers(table) == [f"PACS{number}" for number in (7, 6, 5, 4, 3)] + ["CT1"]
    assert purging.bound_empty(table) == 0
    monkeypatch.setattr(purging, "EMPTY_ASSOCIATIONS_MAX", 0)
    monkeypatch.setattr(purging, "_PAGE", 2)
    assert [purging.bound_empty(table) for _ in range(4)] == [2, 2, 1, 0]
    assert callers(table) == ["CT1"]


@pytest.mark.parametrize("child", ["instance", "duplicate"])
def test_what_an_association_brought_is_found_by_an_index(table, child):
    """Each that is removed is looked for there, by the foreign key, too."""
    (step,) = table.rows(f"EXPLAIN QUERY PLAN SELECT 1 FROM {child} WHERE association_id = 1")
    assert "SEARCH" in step["detail"]
