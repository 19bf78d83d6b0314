"""Rows of shadows: opened with the first result, never in its way, compared once they have one."""

import json

import pytest

from osteon.pipeline.table import deliveries, jobs, lines, purging, series, shadow, views
from osteon.pipeline.table.shadow import Compared
from tests.unit.pipeline.table.rows import add_series, new_job, results_of


def finish(table, job_id, segments):
    """Take a job from admission to its accepted result."""
    jobs.admit(table, jobs.get(table, job_id), "admitted")
    for stage in ("prediction", "boneseg"):
        jobs.claim(table, jobs.get(table, job_id), "local", 60.0)
        job = jobs.get(table, job_id)
        jobs.finish(table, job, job["attempt"], f"work/{stage}", "done")
    jobs.claim(table, jobs.get(table, job_id), "local", 60.0)
    job = jobs.get(table, job_id)
    jobs.finish_encode(table, job, job["attempt"], results_of(job), segments, "done")


def volumes(**ml):
    return [{"label": label, "volume_ml": value} for label, value in ml.items()]


@pytest.fixture
def first(table):
    """A job with two shadow models whose result was accepted."""
    series_id = add_series(table)
    new = new_job(shadow='["new", "newer"]', cost=7, input_bytes=9)
    (job_id,) = series.complete(table, series.get(table, series_id), "complete", [new])
    assert shadow.of_job(table, job_id) == [], "nothing to compare with yet"
    finish(table, job_id, volumes(hip=400.0, rib=10.0))
    return job_id


def test_a_shadow_is_a_job_behind_all_others_that_delivers_nothing(table, first):
    rows = shadow.of_job(table, first)
    own = jobs.get(table, first)
    assert [(r["model"], r["route"]) for r in rows] == [
        ("new", "bone shadow new"),
        ("newer", "bone shadow newer"),
    ]
    for row in rows:
        assert (row["stage"], row["state"], row["destinations"]) == ("admission", "waiting", "[]")
        assert row["priority"] == shadow.PRIORITY > 3
        assert (row["cost"], row["input_bytes"], row["input_sha256"]) == (
            *(7, 9),
            own["input_sha256"],
        )
    assert [e["event"] for e in views.trace(table, "1.2.3.1")[0]["events"]][-2:] == ["create"] * 2
    assert views.predict(table, "1.2.3.1")["id"] == str(first)


def test_a_shadow_takes_nothing_from_its_first(table, first):
    (delivery,) = deliveries.of_job(table, first)
    row = shadow.of_job(table, first)[0]
    finish(table, row["id"], volumes(hip=380.0))
    assert [d["id"] for d in table.rows("SELECT id FROM delivery")] == [delivery["id"]]
    assert table.rows("SELECT 1 FROM result WHERE superseded IS NOT NULL") == []
    other = shadow.of_job(table, first)[1]
    jobs.cancel(table, other, "somebody")
    assert jobs.get(table, first)["state"] == "waiting"
    assert row["id"] in {job["id"] for job in lines.all_delivered(table)}


def test_waiting_shadows_turn_nobody_away_and_are_not_without_end(table, first, monkeypatch):
    assert shadow.count_waiting(table) == shadow.count_open(table) == 2
    assert views.count_waiting(table) == 0
    monkeypatch.setattr(shadow, "OPEN_MAX", 3)
    series_id = add_series(table, "1.2.3.2")
    new = new_job(shadow='["new", "newer"]')
    (job_id,) = series.complete(table, series.get(table, series_id), "complete", [new])
    finish(table, job_id, volumes(hip=1.0))
    assert [r["model"] for r in shadow.of_job(table, job_id)] == ["new"]
    assert jobs.get(table, job_id)["stage"] == "deliver"


def compare(table, first, dice, segments, which=0):
    row = shadow.of_job(table, first)[which]
    if row["stage"] == "admission":
        finish(table, row["id"], volumes(hip=380.0, tibia=5.0))
    due = shadow.next_due(table)
    assert due is not None
    shadow.record(table, due, Compared(dice, segments))
    return due


def test_a_comparison_keeps_dice_and_the_volumes_of_both(table, first):
    assert shadow.next_due(table) is None
    due = compare(table, first, 0.9, {"hip": 0.95, "rib": 0.0, "tibia": 0.0})
    assert due["first_path"] == f"results/{first}/seg.dcm"
    assert shadow.next_due(table) is None
    (one, other) = views.predict(table, str(first))["shadow"]
    assert (one["model"], one["status"], one["dice"]) == ("new", "delivering", 0.9)
    assert one["segments"] == [
        {"label": "hip", "dice": 0.95, "volume_ml": 380.0, "first_volume_ml": 400.0},
        {"label": "rib", "dice": 0.0, "volume_ml": 0.0, "first_volume_ml": 10.0},
        {"label": "tibia", "dice": 0.0, "volume_ml": 5.0, "first_volume_ml": 0.0},
    ]
    assert (other["dice"], other["segments"]) == (None, [])
    assert views.predict(table, one["id"])["shadow_of"] == str(first)


def test_a_failure_to_compare_is_told_and_touches_no_job(table, first):
    before = [dict(job) for job in table.rows("SELECT * FROM job")]
    row = shadow.of_job(table, first)[0]
    finish(table, row["id"], volumes(hip=1.0))
    shadow.record_failure(table, shadow.next_due(table), "unreadable")
    assert dict(jobs.get(table, first)) == before[0]
    (one, _) = views.predict(table, str(first))["shadow"]
    assert (one["dice"], one["reason"]) == (None, "unreadable")
    assert shadow.summaries(table) == []


def test_the_same_input_run_again_is_compared_anew_and_makes_no_second_shadow(table, first, clock):
    compare(table, first, 0.9, {"hip": 0.9})
    for delivery in deliveries.of_job(table, first):
        deliveries.claim(table, delivery)
        deliveries.deliver(table, delivery, "done")
    jobs.complete(table, jobs.get(table, first), "done")
    jobs.rerun(table, jobs.get(table, first), "somebody")
    clock.advance(1.0)
    finish(table, first, volumes(hip=400.0))
    assert len(shadow.of_job(table, first)) == 2
    assert shadow.of_job(table, first)[0]["dice"] is None
    stale = shadow.next_due(table)
    clock.advance(1.0)
    table.change("UPDATE comparison SET updated = ?", (clock.now,))
    shadow.record(table, stale, Compared(0.1, {}))
    assert shadow.of_job(table, first)[0]["dice"] is None, "what it compared is out of date"


def test_summaries_and_the_worst(table, first):
    compare(table, first, 0.9, {"hip": 0.9})
    compare(table, first, 0.5, {"hip": 0.5}, which=1)
    series_id = add_series(table, "1.2.3.2")
    new = new_job(shadow='["new"]')
    (second,) = series.complete(table, series.get(table, series_id), "complete", [new])
    finish(table, second, volumes(hip=1.0))
    compare(table, second, 0.7, {"hip": 0.7})
    found = [tuple(row) for row in shadow.summaries(table)]
    assert found == [
        ("new", "builtin:bone", 2, pytest.approx(0.8), 0.7),
        ("newer", "builtin:bone", 1, 0.5, 0.5),
    ]
    worst = shadow.worst(table, "new", "builtin:bone", 1)
    assert [(w["series_instance_uid"], w["dice"]) for w in worst] == [("1.2.3.2", 0.7)]


def test_figures_outlive_the_series_without_its_name(table, first, clock):
    compare(table, first, 0.9, {"hip": 0.9})
    table.change("UPDATE job SET state = 'done', lease_until = NULL")
    table.change("UPDATE delivery SET state = 'delivered'")
    purging.forget(table, "1.2.3.1")
    assert [row["n"] for row in shadow.summaries(table)] == [1]
    (row,) = shadow.worst(table, "new", "builtin:bone", 5)
    assert (row["job_id"], row["series_instance_uid"]) == (None, None)
    assert json.loads(row["segments"])[0]["label"] == "hip"
