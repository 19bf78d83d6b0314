"""Delivery rows: who is tried next, and which moves there are."""

import itertools

import pytest

from osteon.errors import StaleTransition
from osteon.pipeline.table import deliveries, jobs, lines
from osteon.pipeline.table.deliveries import STATES, TRANSITIONS
from tests.unit.pipeline.table.rows import delivering

CALLS = {
    "claim": deliveries.claim,
    "deliver": lambda t, d: deliveries.deliver(t, d, "stored"),
    "retry": lambda t, d: deliveries.retry(t, d, 9e9, "down"),
    "refuse": lambda t, d: deliveries.refuse(t, d, "no thanks"),
    "give_up": lambda t, d: deliveries.give_up(t, d, "a week"),
}


def row(table, delivery_id=1):
    return table.row(
        "SELECT delivery.*, result.job_id FROM delivery JOIN result ON result.id = result_id"
        " WHERE delivery.id = ?",
        (delivery_id,),
    )


def test_the_states_of_the_schema_are_those_of_the_table():
    assert set(TRANSITIONS.values()) | {"waiting"} == set(STATES)
    assert {state for state, _ in TRANSITIONS} == {"waiting", "sending"}


@pytest.mark.parametrize(("state", "event"), [*itertools.product(STATES, CALLS)])
def test_full_product_of_states_and_events(table, state, event):
    delivering(table)
    table.change("UPDATE delivery SET state = ?", (state,))
    before = row(table)
    if (state, event) in TRANSITIONS:
        CALLS[event](table, before)
        assert row(table)["state"] == TRANSITIONS[state, event]
    else:
        with pytest.raises(StaleTransition):
            CALLS[event](table, before)
        assert row(table) == before


def test_an_attempt_counts_when_it_begins_and_names_its_end(table, clock):
    delivering(table)
    (due,) = deliveries.due(table)
    assert due["path"] == "results/1/seg.dcm"
    deliveries.claim(table, due)
    assert row(table)["attempts"] == 1
    deliveries.retry(table, due, clock.now + 30.0, "down")
    after = row(table)
    assert (after["state"], after["not_before"], after["reason"]) == (
        "waiting",
        clock.now + 30.0,
        "down",
    )
    assert deliveries.due(table) == []
    assert deliveries.next_due(table) == clock.now + 30.0


def test_one_for_every_destination_and_a_long_line_hides_nobody(table):
    for number in range(150):
        delivering(table, uid=f"1.9.{number}", destinations='["dead"]')
    delivering(table, uid="1.8.1", destinations='["pacs"]')
    assert [d["destination"] for d in deliveries.due(table)] == ["dead", "pacs"]


def test_of_those_that_are_due_at_once_the_least_tried_is_next(table):
    for number in range(3):
        delivering(table, uid=f"1.9.{number}")
    table.change("UPDATE delivery SET attempts = 4 WHERE id = 1")
    assert [d["id"] for d in deliveries.due(table)] == [2]


def test_a_busy_destination_is_no_due_time(table, clock):
    delivering(table, uid="1.1", destinations='["pacs", "archive"]')
    table.change("UPDATE delivery SET not_before = not_before + 7 WHERE destination = 'archive'")
    assert deliveries.next_due(table) == clock.now
    assert deliveries.next_due(table, {"pacs"}) == clock.now + 7
    assert deliveries.next_due(table, {"pacs", "archive"}) is None


def test_a_resting_destination_puts_off_all_that_is_due_before(table, clock):
    for number in range(3):
        delivering(table, uid=f"1.9.{number}", destinations='["pacs", "archive"]')
    table.change("UPDATE delivery SET not_before = not_before + 100 WHERE id = 5")
    deliveries.rest(table, "pacs", clock.now + 60.0, "down")
    rows = table.rows("SELECT * FROM delivery WHERE destination = 'pacs' ORDER BY id")
    assert [r["not_before"] - clock.now for r in rows] == [60.0, 60.0, 100.0]
    assert [r["attempts"] for r in rows] == [0, 0, 0]
    assert [d["destination"] for d in deliveries.due(table)] == ["archive"]


@pytest.mark.parametrize("end", [jobs.cancel, jobs.supersede])
def test_what_comes_back_for_a_job_that_was_stopped_is_cancelled(table, end):
    job = delivering(table)
    (due,) = deliveries.due(table)
    deliveries.claim(table, due)
    end(table, job, "ada")
    deliveries.retry(table, due, 0.0, "down")
    assert row(table)["state"] == "cancelled"
    assert deliveries.due(table) == []


def test_what_a_killed_process_was_sending_is_taken_back(table, clock):
    wanted = delivering(table, uid="1.1")
    stopped = delivering(table, uid="1.2")
    table.change("UPDATE delivery SET state = 'sending', attempts = 1")
    jobs.cancel(table, stopped, "ada")
    assert deliveries.recover(table) == 2
    assert [(row(table, n)["state"], row(table, n)["attempts"]) for n in (1, 2)] == [
        ("waiting", 1),
        ("cancelled", 1),
    ]
    assert [d["job_id"] for d in deliveries.due(table)] == [wanted["id"]]


def test_a_job_is_over_when_nothing_is_under_way(table):
    delivering(table, destinations='["pacs", "archive"]')
    kept = delivering(table, uid="1.2", destinations="[]")
    assert [job["id"] for job in lines.all_delivered(table)] == [kept["id"]]
    table.change("UPDATE delivery SET state = 'delivered' WHERE id = 1")
    table.change("UPDATE delivery SET state = 'sending' WHERE id = 2")
    assert [job["id"] for job in lines.all_delivered(table)] == [kept["id"]]
    table.change("UPDATE delivery SET state = 'refused' WHERE id = 2")
    assert len(lines.all_delivered(table)) == 2
    assert [d["state"] for d in deliveries.of_job(table, 1)] == ["delivered", "refused"]
