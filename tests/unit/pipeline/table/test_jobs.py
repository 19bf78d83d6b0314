"""Job rows: legal moves and their record, and `StaleTransition` for every other."""

import itertools
import json

import pytest

from osteon.config.settings import Priority
from osteon.errors import NotFoundError, NotRunnableError, StaleTransition, TableError
from osteon.pipeline.job import STAGES_OF, Event, Stage, State, next_state
from osteon.pipeline.table import jobs, lines, rerouting
from tests.unit.pipeline.table.rows import (
    add_job,
    add_series,
    at_prediction,
    delivering,
    new_job,
    results_of,
    running,
    running_encode,
)

# One call an event, as its only caller makes it.
CALLS = {
    Event.ADMIT: lambda t, j: jobs.admit(t, j, "why"),
    Event.CLAIM: lambda t, j: jobs.claim(t, j, "local", 60.0),
    Event.FINISH: lambda t, j: jobs.finish(t, j, j["attempt"], "work/1/1", "why"),
    Event.COMPLETE: lambda t, j: jobs.complete(t, j, "why"),
    Event.RETRY: lambda t, j: jobs.retry(t, j, j["attempt"], 1.0, "why"),
    Event.RESUME: jobs.resume,
    Event.RESCUE: lambda t, j: jobs.rescue(t, j, "why"),
    Event.FAIL: lambda t, j: jobs.fail(t, j, "why"),
    Event.REJECT: lambda t, j: jobs.reject(t, j, "why"),
    Event.CANCEL: lambda t, j: jobs.cancel(t, j, "ada"),
    Event.SUPERSEDE: lambda t, j: jobs.supersede(t, j, "why"),
    Event.RESTORE: lambda t, j: jobs.restore(t, j, "why"),
    Event.RERUN: lambda t, j: jobs.rerun(t, j, "ada"),
    Event.PRIORITIZE: lambda t, j: jobs.prioritize(t, j, next_class(j), "ada"),
    Event.REROUTE: lambda t, j: rerouting.reroute(t, j, new_job("thin"), "ada"),
}


def next_class(job):
    return list(Priority)[(job["priority"] + 1) % len(Priority)]


def put(table, job, stage, state):
    """Put a job where a test wants it, past every rule."""
    lease = 0.0 if state is State.RUNNING else None
    table.change(
        "UPDATE job SET stage = ?, state = ?, lease_until = ? WHERE id = ?",
        (stage, state, lease, job["id"]),
    )
    return jobs.get(table, job["id"])


def last_transition(table):
    return table.rows("SELECT * FROM transition ORDER BY id DESC LIMIT 1")[0]


@pytest.fixture
def one(table):
    return add_job(table)


def test_every_move_of_the_full_product(table, one):
    """Legal moves change the row and are recorded; all others raise and change nothing."""
    for stage, state, event in itertools.product(Stage, State, Event):
        job = put(table, one, stage, state)
        count = len(table.rows("SELECT 1 FROM transition"))
        to_state = next_state(state, event)
        legal = to_state is not None and stage in STAGES_OF.get(event, tuple(Stage))
        if event is Event.FINISH and stage is Stage.DELIVER:
            legal = False  # There is no stage after it.
        if not legal:
            with pytest.raises(StaleTransition):
                CALLS[event](table, job)
            assert jobs.get(table, 1) == job
            assert len(table.rows("SELECT 1 FROM transition")) == count
            continue
        CALLS[event](table, job)
        moved = jobs.get(table, 1)
        assert moved["state"] == to_state
        assert (moved["lease_until"] is not None) == (to_state is State.RUNNING)
        written = last_transition(table)
        assert (written["event"], written["from_stage"], written["from_state"]) == (
            event,
            stage,
            state,
        )
        assert (written["to_stage"], written["to_state"]) == (moved["stage"], moved["state"])
        assert written["at"] == table.clock()
        assert written["who"]
        # A class is no reason to wait: what it waited for stands.
        assert event is Event.PRIORITIZE or written["why"] == moved["reason"]


@pytest.mark.parametrize("event", Event)
def test_what_somebody_else_has_moved_is_stale(table, other, one, event):
    """The row read before another process moved the job on names a state that it has left."""
    for stage, state in itertools.product(Stage, State):
        job = put(table, one, stage, state)
        if next_state(state, event) is None or stage not in STAGES_OF.get(event, tuple(Stage)):
            continue
        elsewhere = State.BACKOFF if state is State.CANCELLED else State.CANCELLED
        put(other, one, stage, elsewhere)
        with pytest.raises(StaleTransition):
            CALLS[event](table, job)
        assert jobs.get(table, 1)["state"] == elsewhere


def test_only_the_current_attempt_is_accepted(table, clock):
    first = running(table)
    jobs.rescue(table, first, "its lease lapsed")
    second_token = jobs.claim(table, jobs.get(table, 1), "local", 60.0)
    assert (first["attempt"], second_token) == (1, 2)
    for late in (
        lambda: jobs.finish(table, first, 1, "work/1/1", "late"),
        lambda: jobs.retry(table, first, 1, 0.0, "late"),
        lambda: jobs.fail(table, first, "late"),
        lambda: jobs.finish_encode(table, first, 1, results_of(first), [], "late"),
    ):
        with pytest.raises(StaleTransition):
            late()
    assert lines.outputs(table, 1) == {}
    assert table.rows("SELECT * FROM result") == []
    jobs.finish(table, jobs.get(table, 1), 2, "work/1/2", "done")
    assert lines.outputs(table, 1) == {"prediction": "work/1/2"}


def test_a_claim_takes_a_lease_that_is_renewed(table, clock):
    job = running(table)
    assert (job["lease_until"], job["worker"], job["attempt"]) == (clock.now + 60, "local", 1)
    clock.advance(40)
    jobs.renew(table, 1, 1, 60.0)
    assert jobs.get(table, 1)["lease_until"] == clock.now + 60
    jobs.renew(table, 1, 7, 600.0)
    assert jobs.get(table, 1)["lease_until"] == clock.now + 60
    assert lines.lapsed(table) == []
    clock.advance(60.1)
    assert [row["id"] for row in lines.lapsed(table)] == [1]
    jobs.cancel(table, jobs.get(table, 1), "ada")
    jobs.renew(table, 1, 1, 60.0)
    assert jobs.get(table, 1)["lease_until"] is None


def test_failures_count_within_a_stage_and_start_anew_in_the_next(table):
    job = running(table)
    jobs.retry(table, job, 1, 0.0, "once")
    jobs.resume(table, jobs.get(table, 1))
    jobs.claim(table, jobs.get(table, 1), "local", 60.0)
    assert jobs.get(table, 1)["failures"] == 1
    jobs.rescue(table, jobs.get(table, 1), "twice")
    assert jobs.get(table, 1)["failures"] == 2
    jobs.claim(table, jobs.get(table, 1), "local", 60.0)
    jobs.rescue(table, jobs.get(table, 1), "a stop in good order", counts=False)
    assert jobs.get(table, 1)["failures"] == 2
    token = jobs.claim(table, jobs.get(table, 1), "local", 60.0)
    jobs.finish(table, jobs.get(table, 1), token, "work/1/4", "done")
    assert jobs.get(table, 1)["failures"] == 0
    assert jobs.get(table, 1)["stage"] == "boneseg"


def test_results_deliveries_and_segments_come_with_the_last_stage(table, clock):
    job = delivering(table, destinations='["pacs", "archive"]')
    assert (job["stage"], job["state"]) == ("deliver", "waiting")
    assert json.loads(job["segments"]) == [{"label": "Bone 1"}]
    assert [row["kind"] for row in table.rows("SELECT kind FROM result ORDER BY id")] == [
        "seg",
        "preview",
    ]
    rows = table.rows("SELECT * FROM delivery ORDER BY id")
    assert [(r["destination"], r["state"], r["not_before"], r["result_id"]) for r in rows] == [
        ("pacs", "waiting", clock.now, 1),
        ("archive", "waiting", clock.now, 1),
    ]


def test_run_again_renews_the_same_results_and_deliveries(table, clock):
    job = delivering(table)
    table.change("UPDATE delivery SET state = 'delivered', attempts = 3, reason = 'stored'")
    jobs.complete(table, job, "delivered")
    clock.advance(10)
    jobs.rerun(table, jobs.get(table, 1), "ada")
    again = jobs.get(table, 1)
    assert (again["stage"], again["state"], again["failures"]) == ("admission", "waiting", 0)
    jobs.admit(table, again, "admitted")
    for stage in ("prediction", "boneseg"):
        token = jobs.claim(table, jobs.get(table, 1), "local", 60.0)
        jobs.finish(table, jobs.get(table, 1), token, f"work/1/{stage}", "done")
    token = jobs.claim(table, jobs.get(table, 1), "local", 60.0)
    jobs.finish_encode(table, jobs.get(table, 1), token, results_of(job), [], "done")
    assert len(table.rows("SELECT * FROM result")) == 2
    (delivery,) = table.rows("SELECT * FROM delivery")
    assert (delivery["state"], delivery["attempts"], delivery["created"]) == (
        "waiting",
        0,
        clock.now,
    )


def test_a_job_that_no_route_took_cannot_be_run_again(table):
    job = add_job(table, route="none", rejected="no route takes it: bone: Modality is MR, not CT")
    table.change("UPDATE job SET model = ''")
    job = jobs.get(table, job["id"])
    assert job["state"] == "rejected"
    with pytest.raises(NotRunnableError, match="no route takes it"):
        jobs.rerun(table, job, "ada")


def test_a_class_changes_nothing_else_and_is_on_record(table, clock):
    first = add_job(table, "1.2.3.1")
    second = add_job(table, "1.2.3.2")
    clock.advance(5)
    assert lines.heads(table)[0]["id"] == first["id"]
    assert jobs.prioritize(table, second, Priority.STAT, "ada")
    assert lines.heads(table)[0]["id"] == second["id"]
    moved = jobs.get(table, second["id"])
    assert {k for k in moved.keys() if moved[k] != second[k]} == {"priority"}  # noqa: SIM118
    said = last_transition(table)
    assert (said["event"], said["who"]) == ("prioritize", "ada")
    assert said["why"] == "stat instead of routine, set by ada"
    assert not jobs.prioritize(table, moved, Priority.STAT, "ada")
    with pytest.raises(StaleTransition, match="no longer waiting"):
        jobs.prioritize(table, second, Priority.BULK, "bob")


def test_what_runs_or_is_a_shadow_has_no_class_to_change(table):
    with pytest.raises(StaleTransition, match="is running at prediction: a class means something"):
        jobs.prioritize(table, running(table), Priority.STAT, "ada")
    with pytest.raises(StaleTransition, match="is waiting at deliver"):
        jobs.prioritize(table, delivering(table, uid="1.2.3.2"), Priority.STAT, "ada")
    shadow = add_job(table, "1.2.3.3")
    table.change("UPDATE job SET shadow_of = 1 WHERE id = ?", (shadow["id"],))
    with pytest.raises(StaleTransition, match="behind all classes"):
        jobs.prioritize(table, jobs.get(table, shadow["id"]), Priority.STAT, "ada")


def test_cancelled_and_superseded_jobs_are_sent_no_more(table):
    for number, end in enumerate((jobs.cancel, jobs.supersede), start=1):
        job = delivering(table, uid=f"1.2.3.{number}")
        end(table, job, "ada")
        rows = table.rows(
            "SELECT state FROM delivery WHERE result_id IN"
            " (SELECT id FROM result WHERE job_id = ?)",
            (job["id"],),
        )
        assert [row["state"] for row in rows] == ["cancelled"]


def test_the_newest_generation_of_a_route_is_the_one_that_stands(table):
    first = delivering(table, generation=1)
    other_route = table.insert(
        "INSERT INTO job (series_id, route, model, calling_ae_title, priority, stage, state,"
        " reason, input_sha256, created, updated)"
        " VALUES (1, 'lung', 'm', 'CT1', 2, 'deliver', 'done', '', '', 0, 0)"
    )
    table.insert(
        "INSERT INTO result (job_id, kind, path, size, sha256, media_type, created)"
        " VALUES (?, 'seg', 'results/9/seg.dcm', 1, '', '', 0)",
        (other_route,),
    )
    delivering(table, uid="1.2.3.77")
    delivering(table, generation=2)
    rows = table.rows("SELECT job_id, superseded IS NOT NULL AS old FROM result")
    assert {row["job_id"] for row in rows if row["old"]} == {first["id"]}


def test_ready_jobs_are_the_most_urgent_and_among_them_the_furthest(table):
    near = at_prediction(table, uid="1.1")
    far = running(table, uid="1.2")
    jobs.finish(table, far, far["attempt"], "work/2/1", "done")
    urgent = at_prediction(table, uid="1.3", priority=0)
    add_job(table, "1.4", priority=0)
    ids = [job["id"] for job in lines.ready(table, 10)]
    assert ids == [urgent["id"], far["id"], near["id"]]
    assert [job["id"] for job in lines.ready(table, 1)] == [urgent["id"]]


def test_backoffs_end_in_their_order(table, clock):
    for number, wait_s in enumerate((20.0, 10.0), start=1):
        job = running(table, uid=f"1.{number}")
        jobs.retry(table, job, job["attempt"], clock.now + wait_s, "again")
    assert lines.next_resume(table) == clock.now + 10.0
    assert lines.resumable(table) == []
    clock.advance(10.0)
    jobs.resume_due(table)
    assert [jobs.get(table, n)["state"] for n in (1, 2)] == ["backoff", "waiting"]
    clock.advance(10.0)
    jobs.resume_due(table)
    assert lines.next_resume(table) is None


def test_earlier_unfinished_jobs_are_those_of_the_same_route_and_series(table):
    old = at_prediction(table, generation=1)
    at_prediction(table, uid="1.2.3.9")
    done = delivering(table, uid="1.2.3.8", generation=1)
    jobs.complete(table, done, "done")
    for uid, expected in (("1.2.3.1", [old["id"]]), ("1.2.3.8", [])):
        newest = table.row(
            "SELECT * FROM series WHERE id = ?", (add_series(table, uid, generation=2),)
        )
        assert [j["id"] for j in lines.earlier_unfinished(table, newest, "bone")] == expected
        assert lines.earlier_unfinished(table, newest, "lung") == []


def test_explaining_is_no_transition_and_does_not_touch_a_moved_job(table, one):
    jobs.explain(table, one, "waits for room")
    assert jobs.get(table, 1)["reason"] == "waits for room"
    jobs.cancel(table, jobs.get(table, 1), "ada")
    jobs.explain(table, one, "waits for room")
    assert jobs.get(table, 1)["reason"] == "cancelled by ada"


def test_an_unknown_job_is_not_found(table):
    with pytest.raises(NotFoundError, match="osteon jobs list"):
        jobs.get(table, 9)


def test_a_finished_encode_is_one_transaction(table, other):
    job = running_encode(table)
    bad = [results_of(job)[0], results_of(job)[0]]
    bad[1] = type(bad[1])(**{**bad[1].__dict__, "kind": "no such kind"})
    with pytest.raises(TableError, match="CHECK"):
        jobs.finish_encode(table, job, job["attempt"], bad, [], "done")
    assert jobs.get(other, 1)["state"] == "running"
    assert other.rows("SELECT * FROM result") == []


def test_new_job_defaults_to_accepted():
    assert new_job().rejected is None
