"""Series rows: due, postponed, complete, and stale as soon as another instance has come."""

import pytest

from osteon.config.settings import Settings
from osteon.errors import NotFoundError, StaleTransition
from osteon.pipeline.intake import Intake
from osteon.pipeline.table import series
from tests.pipeline_parts import store_slices
from tests.unit.pipeline.table.rows import new_job


@pytest.fixture
def intake(other):
    return Intake(Settings(data_dir=other.data_dir, pipeline={"disk_reserve_gb": 0.0}), other)


def due_row(table, clock):
    clock.advance(5.0)
    (row,) = series.due(table)
    return row


def events(table):
    return [row["event"] for row in table.rows("SELECT event FROM transition ORDER BY id")]


def test_a_series_is_due_after_its_quiet_time(table, clock, intake):
    assert series.next_due(table) is None
    store_slices(intake, [1, 2])
    assert series.next_due(table) == clock.now + 5.0
    assert series.due(table) == []
    assert due_row(table, clock)["instances"] == 2


def test_the_longest_due_come_first_and_not_all_at_once(table, clock, intake):
    for number in range(5):
        store_slices(intake, [1], series=f"1.2.{number}")
        clock.advance(1.0)
    clock.advance(5.0)
    assert [row["series_instance_uid"] for row in series.due(table, limit=3)] == [
        "1.2.0",
        "1.2.1",
        "1.2.2",
    ]


def test_completing_makes_the_jobs_and_records_it(table, clock, intake):
    store_slices(intake, [1, 2])
    row = due_row(table, clock)
    ids = series.complete(table, row, "no gap", [new_job(), new_job("lung", rejected="no")])
    after = series.get(table, row["id"])
    assert (after["state"], after["completed"], after["waits_for"]) == ("complete", clock.now, "")
    jobs = table.rows("SELECT * FROM job ORDER BY id")
    assert [job["id"] for job in jobs] == ids
    assert [(j["state"], j["reason"], j["calling_ae_title"]) for j in jobs] == [
        ("waiting", "waits for the throttler", "CT1"),
        ("rejected", "no", "CT1"),
    ]
    assert events(table) == ["open", "complete", "create", "reject"]
    assert series.due(table) == []
    assert series.next_due(table) is None


@pytest.mark.parametrize(
    "move",
    [
        lambda t, row: series.complete(t, row, "no gap", [new_job()]),
        lambda t, row: series.postpone(t, row, row["due"] + 60.0, "a gap"),
    ],
)
@pytest.mark.parametrize("number", [3, 2])
def test_an_instance_that_comes_in_between_makes_it_stale(table, clock, intake, move, number):
    """A new instance, or other bytes of a known one: both are evidence that was not judged."""
    store_slices(intake, [1, 2])
    row = due_row(table, clock)
    clock.advance(0.001)
    store_slices(intake, [number], PatientID="new")
    with pytest.raises(StaleTransition):
        move(table, row)
    now = series.get(table, row["id"])
    assert (now["state"], now["due"]) == ("receiving", clock.now + 5.0)
    assert table.rows("SELECT * FROM job") == []


def test_a_complete_series_is_not_completed_twice(table, clock, intake):
    store_slices(intake, [1, 2])
    row = due_row(table, clock)
    series.complete(table, row, "no gap", [new_job()])
    with pytest.raises(StaleTransition):
        series.complete(table, row, "no gap", [new_job("lung")])
    with pytest.raises(StaleTransition):
        series.postpone(table, row, 0.0, "a gap")
    assert len(table.rows("SELECT * FROM job")) == 1


def test_postponing_records_a_new_reason_once(table, clock, intake):
    store_slices(intake, [1, 2])
    row = due_row(table, clock)
    series.postpone(table, row, clock.now + 10.0, "slices 3–5 missing")
    again = series.get(table, row["id"])
    assert (again["due"], again["waits_for"]) == (clock.now + 10.0, "slices 3–5 missing")
    series.postpone(table, again, clock.now + 20.0, "slices 3–5 missing")
    assert events(table) == ["open", "wait"]


def test_the_input_of_a_generation_is_the_newest_of_every_instance_up_to_it(table, clock, intake):
    store_slices(intake, [2, 1])
    first = due_row(table, clock)
    series.complete(table, first, "no gap", [])
    store_slices(intake, [3])
    store_slices(intake, [2], PatientID="new")
    second = due_row(table, clock)

    def held(row):
        return [(i["instance_number"], i["generation"]) for i in series.input_of(table, row)]

    assert held(first) == [(1, 1), (2, 1)]
    assert held(second) == [(1, 1), (2, 2), (3, 2)]


def test_a_study_is_the_newest_generation_of_each_of_its_series(table, clock, intake):
    store_slices(intake, [1], series="1.2.3.1")
    store_slices(intake, [1], series="1.2.3.2")
    store_slices(intake, [1], series="1.2.9.1", study="1.2.9")
    table.change("UPDATE series SET state = 'complete' WHERE series_instance_uid = '1.2.3.1'")
    store_slices(intake, [2], series="1.2.3.1")
    rows = series.of_study(table, "1.2.3")
    assert [(r["series_instance_uid"], r["generation"]) for r in rows] == [
        ("1.2.3.1", 2),
        ("1.2.3.2", 1),
    ]


def test_an_unknown_series_is_not_found(table):
    with pytest.raises(NotFoundError):
        series.get(table, 9)
