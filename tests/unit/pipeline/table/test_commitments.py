"""Transactions of storage commitment: every event from every state, limits, and query plans."""

import pytest

from osteon.errors import OutOfResourcesError, StaleTransition
from osteon.pipeline.table import commitments
from osteon.pipeline.table.commitments import KEPT_S, Transaction
from tests.unit.pipeline.table.test_plans import plans_of

STATES = ("waiting", "reported", "given_up")
EVENTS = {
    "claim": lambda table, row: commitments.claim(table, row, 9e9),
    "retry": lambda table, row: commitments.retry(table, row, 9e9, "not there"),
    "report": lambda table, row: commitments.report(table, row, "heard"),
    "give_up": lambda table, row: commitments.give_up(table, row, "too long"),
}


def asked(uid="1.2.3", *, ae_title="CT1", refs='[["1.2", "1.3"]]', instances=1):
    return Transaction(uid, ae_title, "10.0.0.5", "OSTEON", refs, instances)


def accept(table, transaction=None, *, due_in_s=0.0):
    return commitments.accept(
        table,
        transaction or asked(),
        not_before=table.clock() + due_in_s,
        waiting_max=10,
        instances_max=100,
    )


def row_of(table, commitment_id):
    return table.row("SELECT * FROM commitment WHERE id = ?", (commitment_id,))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_from_every_state(table, state, event):
    row = row_of(table, accept(table))
    table.change("UPDATE commitment SET state = ?", (state,))
    if state == "waiting":
        EVENTS[event](table, row)
        assert row_of(table, row["id"])["state"] == commitments.TRANSITIONS[state, event]
    else:
        with pytest.raises(StaleTransition):
            EVENTS[event](table, row)
        assert row_of(table, row["id"])["attempts"] == 0


def test_what_is_claimed_is_due_to_nobody_else_until_it_lapses(table):
    commitment_id = accept(table)
    row = commitments.due(table)
    assert row["id"] == commitment_id
    commitments.claim(table, row, table.clock() + 60.0)
    assert commitments.due(table) is None
    assert commitments.next_due(table) == table.clock() + 60.0
    table.clock.advance(60.0)
    assert commitments.due(table)["attempts"] == 1


def test_a_failed_attempt_puts_off_all_of_the_same_requester(table):
    first, second = accept(table), accept(table, asked("1.2.4"))
    other = accept(table, asked("1.2.5", ae_title="CT2"))
    commitments.retry(table, row_of(table, first), table.clock() + 30.0, "not there")
    assert commitments.due(table)["id"] == other
    assert row_of(table, second)["not_before"] == table.clock() + 30.0


def test_a_uid_is_free_again_when_its_transaction_is_over(table):
    first = accept(table)
    assert row_of(table, accept(table, asked(refs='[["1.2", "1.4"]]')))["duplicate"] == 1
    commitments.report(table, row_of(table, first), "heard")
    again = accept(table)
    assert again != first
    assert row_of(table, again)["duplicate"] == 0
    assert row_of(table, accept(table, asked(ae_title="CT2")))["duplicate"] == 0


def test_what_is_over_is_forgotten_after_a_while(table):
    first = accept(table)
    commitments.report(table, row_of(table, first), "heard")
    table.clock.advance(KEPT_S + 1)
    accept(table, asked("1.2.4"))
    kept = table.rows("SELECT transaction_uid FROM commitment")
    assert [row["transaction_uid"] for row in kept] == ["1.2.4"]


@pytest.mark.parametrize(
    ("count", "instances", "why"), [(10, 1, "10 requests"), (2, 50, "for 100 instances")]
)
def test_no_more_may_wait_than_the_limits_say(table, count, instances, why):
    for number in range(count):
        accept(table, asked(f"1.2.{number}", instances=instances))
    with pytest.raises(OutOfResourcesError, match=why):
        accept(table, asked("1.3", instances=1))
    accept(table, asked("1.2.0"))  # It waits already.


def test_all_are_due_after_a_start(table):
    accept(table, due_in_s=1e6)
    assert commitments.due(table) is None
    commitments.hasten(table)
    assert commitments.due(table) is not None


def test_what_is_asked_often_goes_through_an_index(table):
    row = row_of(table, accept(table))
    for call, index in (
        (lambda: commitments.due(table), "commitment_waiting"),
        (lambda: commitments.next_due(table), "commitment_waiting"),
        (lambda: commitments.retry(table, row, 9e9, ""), "commitment"),
        (lambda: commitments.newest_content(table, "1.3"), "sqlite_autoindex_instance"),
    ):
        for plan in plans_of(table, call):
            assert index in plan
            assert "SCAN commitment" not in plan.replace("SCAN commitment USING", "")
