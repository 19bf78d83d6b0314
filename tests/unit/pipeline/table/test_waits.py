"""Of everything that waits the views tell what for and since when."""

import pytest

from osteon.pipeline.job import Status
from osteon.pipeline.table import deliveries, jobs, series, views
from tests.unit.pipeline.table.rows import (
    add_job,
    add_series,
    at_prediction,
    delivering,
    running,
)


def told(table, name) -> tuple:
    """What is told of a job, by itself and in the list; both must say the same."""
    alone = views.predict(table, str(name))
    (listed,) = (row for row in views.jobs(table) if row["id"] == str(name))
    keys = ("waiting_for", "since", "until", "reason")
    assert [alone[key] for key in keys] == [listed[key] for key in keys]
    return tuple(alone[key] for key in keys[:3])


def test_before_the_throttler_the_first_has_its_reason_and_the_others_their_place(table, clock):
    first = add_job(table, "1.1")
    began = clock()
    clock.advance(7.0)
    jobs.explain(table, first, "waits for room: 8 jobs may run at once")
    second = add_job(table, "1.2")
    room = "waits for room: 8 jobs may run at once"
    assert told(table, first["id"]) == (room, views.iso(began), None)
    behind = f"waits behind others of CT1; the first {room}"
    assert told(table, second["id"]) == (behind, views.iso(clock()), None)
    third = add_job(table, "1.3")
    ahead = [views.predict(table, str(job["id"]))["ahead"] for job in (first, second, third)]
    assert ahead == [0, 1, 2]
    assert told(table, third["id"])[0] == behind  # The same of all: lists are summed up by it.


def test_admitted_and_between_stages_a_worker_is_waited_for(table, clock):
    job = at_prediction(table)
    assert told(table, job["id"])[0] == "waits for a worker; before: admitted"
    jobs.claim(table, job, "slot 1", 60.0)
    assert told(table, job["id"]) == (None, None, None)
    clock.advance(3.0)
    job = jobs.get(table, job["id"])
    jobs.finish(table, job, job["attempt"], "work/1/1", "predicted 3 slices")
    words = "waits for a worker; before: predicted 3 slices"
    assert told(table, job["id"]) == (words, views.iso(clock()), None)


def test_a_backoff_has_its_reason_and_its_end_and_the_next_attempt_says_so(table, clock):
    job = running(table)
    jobs.retry(table, job, job["attempt"], clock() + 9.0, "tries again: out of memory")
    expected = ("tries again: out of memory", views.iso(clock()), views.iso(clock() + 9.0))
    assert told(table, job["id"]) == expected
    clock.advance(9.0)
    jobs.resume_due(table)
    words = "waits for a worker again; 1 attempt of this stage failed"
    assert told(table, job["id"]) == (words, views.iso(clock()), None)
    jobs.claim(table, jobs.get(table, job["id"]), "slot 1", 60.0)
    reason = views.predict(table, "1")["reason"]
    assert reason == "runs on slot 1; 1 attempt of this stage failed"


def test_a_rescued_job_waits_for_a_worker(table, clock):
    job = running(table)
    jobs.rescue(table, job, "its lease lapsed")
    words = "waits for a worker; before: its lease lapsed; 1 attempt of this stage failed"
    assert told(table, job["id"])[0] == words


def test_a_delivery_names_its_destination(table, clock):
    job = delivering(table)
    assert told(table, job["id"])[0] == "waits for pacs: others are sent first"
    (delivery,) = deliveries.due(table)
    deliveries.claim(table, delivery)
    assert told(table, job["id"])[0] == "is being sent to pacs"
    deliveries.retry(table, delivery, clock() + 5.0, "PACS cannot be reached")
    words = "waits for pacs after 1 attempt: PACS cannot be reached"
    assert told(table, job["id"]) == (words, views.iso(clock()), views.iso(clock() + 5.0))


def test_a_series_tells_what_it_waits_for_since_when_and_until_when(table, clock):
    row = series.get(table, add_series(table))
    last = clock()
    clock.advance(5.0)
    series.postpone(table, row, clock() + 55.0, "slices 4–5 missing")
    found = views.predict(table, "1.2.3.1")
    assert found["waiting_for"] == found["reason"] == "waits for slices 4–5 missing"
    assert found["since"] == views.iso(last + 5.0)
    assert found["until"] == views.iso(last + 60.0)


@pytest.mark.parametrize("end", [jobs.fail, jobs.reject, jobs.cancel])
def test_what_is_over_waits_for_nothing(table, end):
    job = at_prediction(table)
    end(table, job, "ada")
    assert told(table, job["id"]) == (None, None, None)


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.RECEIVING])
def test_the_newest_of_every_status_are_found(table, status):
    made = {
        Status.WAITING: [add_job(table, "1.1"), at_prediction(table, uid="1.2")],
        Status.RUNNING: [running(table, uid="1.3")],
        Status.DELIVERING: [delivering(table, uid="1.4")],
        Status.DONE: [delivering(table, uid="1.5"), delivering(table, uid="1.6")],
        Status.FAILED: [at_prediction(table, uid="1.7"), at_prediction(table, uid="1.8")],
        Status.REJECTED: [at_prediction(table, uid="1.9"), at_prediction(table, uid="1.10")],
    }
    for job in made[Status.DONE]:
        jobs.complete(table, job, "delivered")
    jobs.fail(table, made[Status.FAILED][0], "noise")
    jobs.cancel(table, made[Status.FAILED][1], "ada")
    jobs.reject(table, made[Status.REJECTED][0], "no volume")
    jobs.supersede(table, made[Status.REJECTED][1], "newer")
    expected = sorted((str(job["id"]) for job in made[status]), key=int, reverse=True)
    assert [row["id"] for row in views.jobs(table, status=status)] == expected
    assert {row["status"] for row in views.jobs(table, status=status)} == {status}
    assert [row["id"] for row in views.jobs(table, status=status, limit=1)] == expected[:1]
    older = views.jobs(table, status=status, before=int(expected[0]))
    assert [row["id"] for row in older] == expected[1:]
