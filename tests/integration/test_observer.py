"""The observer with a real table, spool, engine and PACS: every series ends where it should."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from osteon.config.settings import Settings
from osteon.errors import (
    ModelError,
    NotRunnableError,
    OutOfResourcesError,
    StageError,
    VolumeError,
)
from osteon.pipeline import outcomes
from osteon.pipeline.completeness import RETURN_WAIT_S
from osteon.pipeline.instances.spool import free_bytes
from osteon.pipeline.job import Stage
from osteon.pipeline.observer import SWEEP_S
from osteon.pipeline.table import deliveries as delivery_table
from osteon.pipeline.table import jobs as job_table
from osteon.pipeline.table import listening, purging, stored, views
from osteon.pipeline.table import series as series_table
from osteon.pipeline.table.associations import Brought
from osteon.pipeline.workers.request import StageReport, StageRequest
from osteon.pipeline.workers.worker import failure_of
from osteon.results.pacs import StandInPacs
from tests.pipeline_parts import SERIES, HandClock, Node, ThreadEngine, store_slices, write_stage
from tests.tools import free_port, wait_until

ROUTE = {"name": "bone", "match": {"Modality": "CT", "instances": {"min": 2}}}


def settings_of(tmp_path, *, port: int | None = None, scp=None, **pipeline) -> Settings:
    destination = [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port}]
    return Settings(
        data_dir=tmp_path / "data",
        scp={"quiet_s": 5.0, "gap_wait_s": 60.0} | (scp or {}),
        route=[ROUTE],
        destination=destination if port else [],
        pipeline={"disk_reserve_gb": 0.0, "ahead": False} | pipeline,
    )


@pytest.fixture
def make(tmp_path) -> Iterator:
    nodes = []

    def start(run=write_stage, *, slots: int = 1, **keywords) -> Node:
        settings = settings_of(tmp_path, **keywords)
        nodes.append(Node(settings.data_dir, settings, ThreadEngine(run, slots)))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


@pytest.fixture
def pacs(tmp_path) -> Iterator[StandInPacs]:
    with StandInPacs(tmp_path / "pacs") as peer:
        yield peer


# pynetdicom drops the socket of a refused connection and leaves its closing to Python.
refused_connection = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class Script:
    """A stage function that can be told what happens at each stage, one word an attempt."""

    def __init__(self, **words: list) -> None:
        self.words = words
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, request: StageRequest) -> StageReport:
        left = self.words.get(request.stage, [])
        word = left.pop(0) if left else None
        if isinstance(word, Exception):
            raise word
        if word == "hang":
            self.entered.set()
            assert self.release.wait(30)
        return write_stage(request)


def uids_in(folder: Path) -> list[str]:
    return [str(dcmread(path).SOPInstanceUID) for path in sorted(folder.glob("*.dcm"))]


def transitions(node: Node, job_id: int = 1) -> list[tuple[str, str]]:
    rows = node.table.rows(
        "SELECT event, to_stage FROM transition WHERE job_id = ? ORDER BY id", (job_id,)
    )
    return [(row["event"], row["to_stage"]) for row in rows]


def test_a_series_goes_the_whole_way(make, pacs):
    node = make(port=pacs.port)
    node.receive(range(1, 4))
    job = node.tick_until_state("done")
    assert transitions(node) == [
        ("create", "admission"),
        ("admit", "prediction"),
        ("claim", "prediction"),
        ("finish", "boneseg"),
        ("claim", "boneseg"),
        ("finish", "encode"),
        ("claim", "encode"),
        ("finish", "deliver"),
        ("complete", "deliver"),
    ]
    assert job["reason"] == "delivered to pacs"
    status = views.predict(node.table, SERIES)
    assert status["status"] == "done"
    assert [(s["label"], s["volume_ml"]) for s in status["segments"]] == [("Bone 1", 1.0)]
    seg = next(r for r in status["results"] if r["kind"] == "seg")
    assert uids_in(pacs.folder) == [seg["sop_instance_uid"]]
    disk_path, facts = stored.file(node.table, seg["path"])
    assert disk_path.stat().st_size == facts["size"]
    assert not (node.data_dir / "work" / "1").exists()


def test_every_minute_the_log_of_what_brought_nothing_is_bounded(make, monkeypatch):
    node = make()
    for _ in range(3):
        origin = node.intake.open_association("PACS", "OSTEON", "10.0.0.5")
        node.intake.close_association(origin, "released", brought=Brought())
        node.clock.advance(1.0)
    monkeypatch.setattr(purging, "EMPTY_ASSOCIATIONS_MAX", 2)
    node.clock.advance(60.0)
    assert node.observer.tick()
    assert [row["id"] for row in node.table.rows("SELECT id FROM association ORDER BY id")] == [
        2,
        3,
    ]


def test_nothing_runs_before_the_quiet_time_is_over(make):
    node = make()
    node.receive(range(1, 4), settle_s=4.9)
    assert node.observer.tick()
    assert node.jobs() == []
    assert node.observer.next_due() == pytest.approx(node.clock.now + 0.1)
    node.clock.advance(0.2)
    node.tick_until_state("done")
    assert node.job()["reason"] == "kept here: its route has no destination"


def test_a_series_with_a_gap_waits_longer_and_says_for_what(make):
    node = make()
    node.receive([1, 2, 3, 6, 7, 8])
    assert node.observer.tick()
    status = views.predict(node.table, SERIES)
    assert (status["status"], status["reason"]) == ("receiving", "waits for slices 4–5 missing")
    node.clock.advance(55.0)
    node.tick_until_state("done")
    story = views.trace(node.table, SERIES)[0]
    complete = next(e for e in story["events"] if e["event"] == "complete")
    assert complete["why"] == "slices 4–5 missing and did not come within 60 s"


def test_the_missing_slices_end_the_wait(make):
    node = make()
    node.receive([1, 2, 3, 6, 7, 8])
    assert node.observer.tick()
    node.receive([4, 5])
    node.tick_until_state("done")
    assert len(node.engine.requests[0].inputs) == 8


def test_a_sender_that_the_receiver_cut_off_is_waited_for_and_goes_on(make):
    """The receiver is down for longer than the quiet time: no Segmentation of a part is made."""
    node = make()
    node.receive([1, 2, 3], origin=node.intake.open_association("CT1", "OSTEON", "::1"))
    node.kill_receiver()
    assert node.observer.tick()
    said = views.predict(node.table, SERIES)
    stopped = "waits for the receiver to listen again: it stopped while CT1 was sending"
    assert said["reason"] == stopped
    assert said["until"] == views.iso(node.clock.now + RETURN_WAIT_S)
    node.clock.advance(30.0)
    assert node.observer.tick()
    node.start_receiver()
    assert node.observer.tick()
    said = views.predict(node.table, SERIES)
    assert said["reason"] == "waits for CT1 to send again: it was cut off (lost: killed)"
    assert said["until"] == views.iso(node.clock.now + 60.0)
    node.clock.advance(59.0)
    assert node.observer.tick()
    assert node.jobs() == []
    again = node.intake.open_association("CT1", "OSTEON", "::1")
    store_slices(node.intake, [4, 5], origin=again)
    assert views.predict(node.table, SERIES)["reason"] == "waits for 5 s without a new instance"
    node.intake.close_association(again, "released")
    node.clock.advance(5.0)
    node.tick_until_state("done")
    assert [len(request.inputs) for request in node.engine.requests] == [5] * 3
    story = views.trace(node.table, SERIES)[0]
    assert story["generation"] == 1
    waits = [entry["why"] for entry in story["events"] if entry["event"] == "wait"]
    assert [f"waits for {why}" for why in waits] == [stopped, said["reason"]]


def test_a_sender_that_begins_anew_is_waited_for_while_it_brings_what_is_held(make):
    node = make()
    node.receive([1, 2, 3], origin=node.intake.open_association("CT1", "OSTEON", "::1"))
    node.kill_receiver()
    node.clock.advance(20.0)
    node.start_receiver()
    again = node.intake.open_association("CT1", "OSTEON", "::1")
    store_slices(node.intake, [1, 2, 3], origin=again)
    for _ in range(20):
        node.clock.advance(5.0)
        assert node.observer.tick()
    assert node.jobs() == []
    store_slices(node.intake, [4], origin=again)
    node.intake.close_association(again, "released")
    node.clock.advance(5.0)
    node.tick_until_state("done")
    assert len(node.engine.requests[0].inputs) == 4


def test_a_sender_that_does_not_come_again_is_waited_for_as_long_as_for_a_gap(make):
    node = make()
    node.receive([1, 2, 3], origin=node.intake.open_association("CT1", "OSTEON", "::1"))
    node.kill_receiver()
    node.clock.advance(20.0)
    node.start_receiver()
    node.clock.advance(59.9)
    assert node.observer.tick()
    assert node.jobs() == []
    node.clock.advance(0.1)
    node.tick_until_state("done")
    story = views.trace(node.table, SERIES)[0]
    why = next(entry["why"] for entry in story["events"] if entry["event"] == "complete")
    assert why == "3 instances, no gap, CT1 was cut off and not heard again"


def test_a_receiver_that_is_never_started_again_is_waited_for_ten_minutes(make):
    node = make()
    node.receive([1, 2, 3], origin=node.intake.open_association("CT1", "OSTEON", "::1"))
    node.kill_receiver()
    assert node.observer.tick()
    node.clock.advance(RETURN_WAIT_S - 0.1)
    assert node.observer.tick()
    assert node.jobs() == []
    node.clock.advance(0.1)
    node.tick_until_state("done")


def test_a_receiver_that_is_back_between_two_looks_has_cut_off_whom_it_heard_then(make):
    """As one that is killed again and again as soon as it listens."""
    node = make()
    node.kill_receiver()
    assert node.observer.tick()
    node.clock.advance(RETURN_WAIT_S + 1.0)
    node.start_receiver()
    node.receive([1, 2, 3], origin=node.intake.open_association("CT1", "OSTEON", "::1"))
    node.kill_receiver()
    assert node.observer.tick()
    assert node.jobs() == []
    said = views.predict(node.table, SERIES)["reason"]
    assert said == "waits for the receiver to listen again: it stopped while CT1 was sending"


def test_an_earlier_association_is_no_return_of_the_sender_though_the_clock_was_set_back(make):
    node = make()
    first = node.intake.open_association("CT1", "OSTEON", "::1")
    node.receive([1], origin=first, settle_s=0.0)
    node.intake.close_association(first, "released")
    node.clock.advance(-3600.0)
    node.receive([2, 3], origin=node.intake.open_association("CT1", "OSTEON", "::1"), settle_s=0.0)
    node.kill_receiver()
    assert node.observer.tick()
    node.clock.advance(30.0)
    node.start_receiver()
    node.clock.advance(30.0)
    assert node.observer.tick()
    assert node.jobs() == []


def test_after_a_power_cut_a_series_waits_whichever_role_is_up_first(make):
    """Both roles were down for an hour, and the receiver needs a minute longer."""
    node = make()
    node.receive([1, 2, 3], origin=node.intake.open_association("CT1", "OSTEON", "::1"))
    node.kill_receiver()
    node.clock.advance(3600.0)
    node.restart()
    assert node.observer.tick()
    node.clock.advance(60.0)
    assert node.observer.tick()
    node.start_receiver()
    node.clock.advance(59.0)
    assert node.observer.tick()
    assert node.jobs() == []
    store_slices(node.intake, [4], origin=node.intake.open_association("CT1", "OSTEON", "::1"))
    node.clock.advance(5.0)
    node.tick_until_state("done")
    assert len(node.engine.requests[0].inputs) == 4


def test_a_connection_that_broke_in_mid_series_is_waited_for(make):
    node = make()
    origin = node.intake.open_association("CT1", "OSTEON", "::1")
    store_slices(node.intake, [1, 2, 3], origin=origin)
    node.intake.close_association(origin, "connection lost in the middle of an instance", cut=True)
    node.clock.advance(5.0)
    assert node.observer.tick()
    wanted = "waits for CT1 to send again: it was cut off (connection lost in the middle of an"
    assert views.predict(node.table, SERIES)["reason"].startswith(wanted)
    node.clock.advance(55.0)
    node.tick_until_state("done")


def test_a_sender_with_an_association_for_every_slice_outlasts_a_restart(make):
    node = make()
    for number in (1, 2):
        origin = node.intake.open_association("CT1", "OSTEON", "::1")
        store_slices(node.intake, [number], origin=origin)
        node.intake.close_association(origin, "released")
    node.kill_receiver()
    node.clock.advance(8.0)
    assert node.observer.tick()
    assert views.predict(node.table, SERIES)["reason"] == "waits for the receiver to listen again"
    node.start_receiver()
    node.clock.advance(4.0)
    assert node.observer.tick()
    store_slices(node.intake, [3], origin=node.intake.open_association("CT1", "OSTEON", "::1"))
    node.clock.advance(5.0)
    node.tick_until_state("done")
    assert len(node.engine.requests[0].inputs) == 3


def test_without_any_receiver_uploads_are_complete_after_their_quiet_time(make):
    node = make()
    node.kill_receiver()
    node.receive([1, 2, 3])
    node.tick_until_state("done")


def test_without_any_receiver_what_was_there_before_is_complete(make):
    """The role `work` alone, on the data of a node that was stopped in good order, or was not."""
    node = make()
    for series in (SERIES, "1.2.3.2"):
        origin = node.intake.open_association("CT1", "OSTEON", "::1")
        store_slices(node.intake, [1, 2, 3], series=series, origin=origin)
        node.intake.close_association(origin, "released")
        node.clock.advance(4.0)
    node.kill_receiver()
    node.clock.advance(55.0)
    node.restart()
    assert node.observer.tick()
    node.clock.advance(1.0)
    node.tick_until_state("done", 1)
    listening.end_listening(node.receiver_table)
    series_table.look_anew(node.receiver_table)
    node.tick_until_state("done", 2)


def test_a_series_that_no_route_takes_is_kept_and_says_why(make):
    node = make()
    node.receive([1])
    job = node.tick_until_state("rejected")
    assert job["reason"] == "no route takes it: bone: instances is 1, below 2"
    assert views.predict(node.table, SERIES)["status"] == "rejected"
    assert stored.files(node.table, "inputs/")[0]["path"] == f"inputs/{SERIES}/{SERIES}.1.dcm"
    assert node.engine.requests == []


def test_late_slices_replace_an_unfinished_job(make):
    script = Script(boneseg=["hang"])
    node = make(script)
    node.receive(range(1, 4))
    node.tick_until(script.entered.is_set)
    node.receive([4])
    node.tick_until(lambda: len(node.jobs()) == 2)
    assert node.job(1)["state"] == "superseded"
    assert node.job(1)["reason"] == "superseded by generation 2"
    node.tick_until_state("done", 2)
    assert node.engine.kills == 1
    assert views.predict(node.table, SERIES)["generation"] == 2
    assert views.predict(node.table, SERIES)["instances"] == 4
    assert [len(r.inputs) for r in node.engine.requests if r.job_id == 2] == [4, 4, 4]
    assert not (node.data_dir / "work" / "1").exists()
    script.release.set()


def test_late_slices_after_the_end_make_a_new_result_and_mark_the_old(make, pacs):
    node = make(port=pacs.port)
    node.receive(range(1, 4))
    node.tick_until_state("done")
    node.receive([4])
    node.tick_until_state("done", 2)
    superseded = {
        job: next(r for r in views.predict(node.table, job)["results"] if r["kind"] == "seg")[
            "superseded"
        ]
        for job in ("1", "2")
    }
    assert superseded["1"] is not None
    assert superseded["2"] is None
    assert len(set(uids_in(pacs.folder))) == 2


def test_an_older_generation_that_ends_last_does_not_stand_as_the_newest(make):
    script = Script(encode=["hang"])
    node = make(script, slots=2, generations="always")
    node.receive(range(1, 4))
    node.tick_until(script.entered.is_set)
    node.receive([4])
    node.tick_until_state("done", 2)
    script.release.set()
    node.tick_until_state("done", 1)
    rows = node.table.rows("SELECT job_id, superseded FROM result WHERE kind = 'seg'")
    assert {row["job_id"]: row["superseded"] is None for row in rows} == {1: False, 2: True}


def test_late_slices_are_only_recorded_where_the_policy_is_never(make):
    node = make(generations="never")
    node.receive(range(1, 4))
    node.tick_until_state("done")
    node.receive([4])
    job = node.tick_until_state("rejected", 2)
    assert "pipeline.generations is 'never'" in job["reason"]
    assert node.job(1)["state"] == "done"
    assert len(node.engine.requests) == 3


def test_a_late_slice_that_no_route_takes_stops_nothing(make, tmp_path):
    script = Script(prediction=["hang"])
    node = make(script)
    node.receive(range(1, 4))
    node.tick_until(script.entered.is_set)
    node.receive([4], Modality="SR")
    node.tick_until_state("rejected", 2)
    assert node.job(1)["state"] == "running"
    script.release.set()
    node.tick_until_state("done", 1)


def test_the_same_slices_again_make_no_work(make):
    node = make()
    node.receive(range(1, 4))
    node.tick_until_state("done")
    again = store_slices(node.intake, range(1, 4))
    assert [stored.duplicate for stored in again] == [True] * 3
    node.clock.advance(100)
    assert node.observer.tick()
    assert len(node.jobs()) == 1
    assert len(node.table.rows("SELECT * FROM series")) == 1
    assert len(node.table.rows("SELECT * FROM instance")) == 3


def test_other_bytes_of_a_known_slice_win_in_a_new_generation(make):
    node = make()
    node.receive(range(1, 4))
    first = node.tick_until_state("done")
    node.receive([2], PatientID="corrected")
    second = node.tick_until_state("done", 2)
    assert first["input_sha256"] != second["input_sha256"]
    assert len(node.table.rows("SELECT * FROM instance")) == 4
    paths = {request.job_id: set(request.inputs) for request in node.engine.requests}
    assert len(paths[1]) == len(paths[2]) == 3
    assert len(paths[2] - paths[1]) == 1
    assert all(path.is_file() for path in paths[1] | paths[2])


def test_what_is_no_volume_is_rejected_with_its_reason(make):
    node = make(Script(prediction=[VolumeError("two slices at z = 4 mm")]))
    node.receive(range(1, 4))
    assert node.tick_until_state("rejected")["reason"] == "two slices at z = 4 mm"
    assert views.predict(node.table, "1")["status"] == "rejected"
    assert not (node.data_dir / "work" / "1").exists()


def test_what_made_way_for_a_bad_generation_goes_on(make):
    """A damaged late slice takes nothing away: the generation before it is delivered after all."""
    script = Script(prediction=["hang", VolumeError("pixel data is damaged")])
    node = make(script)
    node.receive(range(1, 4))
    node.tick_until(script.entered.is_set)
    node.receive([4])
    node.tick_until(lambda: len(node.jobs()) == 2 and node.job(1)["state"] == "superseded")
    script.release.set()
    node.tick_until(lambda: node.job(2)["state"] == "rejected")
    job = node.tick_until_state("done", 1)
    assert "restore" in node.events(1)
    assert job["attempt"] > 1
    result = node.table.row("SELECT * FROM result WHERE job_id = 1 AND kind = 'seg'")
    assert result["superseded"] is None


def test_a_superseded_result_is_not_made_again(make):
    """It would be sent to the PACS behind the newer one."""
    node = make()
    node.receive(range(1, 4))
    node.tick_until_state("done", 1)
    node.receive([4])
    node.tick_until_state("done", 2)
    with pytest.raises(NotRunnableError, match="superseded"):
        job_table.rerun(node.table, job_table.get(node.table, 1), "ada")
    assert "superseded by a newer generation" in views.predict(node.table, "1")["reason"]


def test_a_failed_attempt_is_tried_again_after_its_backoff(make):
    node = make(Script(boneseg=[StageError("out of GPU memory")]))
    node.receive(range(1, 4))
    job = node.tick_until_state("backoff")
    assert job["reason"] == "tries again: attempt 1 of 3 failed: out of GPU memory"
    assert 1.5 <= job["not_before"] - node.clock.now <= 2.5
    assert node.observer.next_due() == job["not_before"]
    node.clock.advance(2.6)
    node.tick_until_state("done")
    assert [stage for _, stage, _ in node.engine.stages] == [
        Stage.PREDICTION,
        Stage.BONESEG,
        Stage.BONESEG,
        Stage.ENCODE,
    ]
    assert node.job()["failures"] == 0


def test_attempts_are_used_up_with_a_reason(make):
    node = make(Script(prediction=[StageError("nothing but noise")] * 9))
    node.receive(range(1, 4))
    for _ in range(2):
        node.tick_until_state("backoff")
        node.clock.advance(10.0)
    job = node.tick_until_state("failed")
    assert job["reason"] == "gave up after 3 attempts of prediction: nothing but noise"
    assert len(node.engine.requests) == 3
    assert not (node.data_dir / "work" / "1").exists()


def test_a_failure_for_good_is_not_tried_again(make):
    node = make(Script(prediction=[ModelError("its digest is another")]))
    node.receive(range(1, 4))
    assert node.tick_until_state("failed")["reason"] == "its digest is another"
    assert len(node.engine.requests) == 1


def test_a_lost_worker_costs_one_attempt(make):
    script = Script(prediction=["hang"])
    node = make(script)
    node.receive(range(1, 4))
    node.tick_until(script.entered.is_set)
    node.engine.close()
    node.engine._pool = type(node.engine)()._pool
    assert "the worker process died" in node.tick_until_state("backoff")["reason"]
    node.clock.advance(3.0)
    node.tick_until_state("done")
    script.release.set()
    assert node.job()["attempt"] == 4


def test_a_stage_past_its_deadline_is_killed_and_tried_again(make):
    script = Script(prediction=["hang"])
    node = make(script, stage_timeout_s=100.0)
    node.receive(range(1, 4))
    node.tick_until(script.entered.is_set)
    node.clock.advance(99.0)
    assert node.observer.tick()
    assert node.job()["state"] == "running"
    assert node.job()["lease_until"] == node.clock.now + 60.0
    node.clock.advance(1.0)
    job = node.tick_until_state("backoff")
    assert job["reason"] == "tries again: attempt 1 of 3 failed: it ran longer than 100 s"
    node.clock.advance(3.0)
    node.tick_until_state("done")
    script.release.set()


class Deaf(ThreadEngine):
    """An engine whose first kills have no effect yet, as while a worker is still starting."""

    deaf = 3

    def kill(self, future):
        if self.deaf:
            self.deaf -= 1
        else:
            super().kill(future)


def test_a_kill_is_repeated_until_it_has_worked_and_does_not_spin(make, tmp_path):
    script = Script(prediction=["hang"])
    settings = settings_of(tmp_path, stage_timeout_s=100.0)
    node = Node(settings.data_dir, settings, Deaf(script))
    node.receive(range(1, 4))
    node.tick_until(script.entered.is_set)
    node.clock.advance(100.0)
    assert node.observer.tick()
    assert node.observer.next_due() > node.clock.now
    node.tick_until_state("backoff")
    script.release.set()
    node.close()


def test_cancel_while_running_kills_the_stage(make):
    script = Script(prediction=["hang"])
    node = make(script)
    node.receive(range(1, 4))
    node.tick_until(script.entered.is_set)
    job_table.cancel(node.receiver_table, job_table.get(node.receiver_table, 1), "ada")
    node.tick_until(lambda: node.engine.free)
    assert node.engine.kills == 1
    assert node.observer.tick()
    job = node.job()
    assert (job["state"], job["reason"]) == ("cancelled", "cancelled by ada")
    assert not (node.data_dir / "work" / "1").exists()
    script.release.set()


def test_what_waited_when_it_was_cancelled_leaves_nothing_on_the_disk(make):
    node = make(Script(boneseg=[StageError("once")]))
    node.receive(range(1, 4))
    node.tick_until_state("backoff")
    assert (node.data_dir / "work" / "1").is_dir()
    job_table.cancel(node.receiver_table, job_table.get(node.receiver_table, 1), "ada")
    node.clock.advance(SWEEP_S)
    assert node.observer.tick()
    assert not (node.data_dir / "work" / "1").exists()


def test_run_again_keeps_the_uids_and_sends_again(make, pacs):
    node = make(port=pacs.port)
    node.receive(range(1, 4))
    node.tick_until_state("done")
    job_table.rerun(node.receiver_table, job_table.get(node.receiver_table, 1), "ada")
    assert views.predict(node.table, "1")["status"] == "waiting"
    node.tick_until(lambda: node.job()["state"] == "done" and len(pacs.received) == 2)
    assert len(set(uids_in(pacs.folder))) == 1
    assert len(node.table.rows("SELECT * FROM result")) == 2
    assert len(node.table.rows("SELECT * FROM delivery")) == 1
    assert node.job()["attempt"] == 6


@refused_connection
def test_a_destination_that_is_down_is_waited_for(make, tmp_path):
    port = free_port()
    node = make(port=port)
    node.receive(range(1, 4))

    once = "SELECT * FROM delivery WHERE state = 'waiting' AND attempts = 1"
    (row,) = node.tick_until(lambda: node.table.rows(once))
    assert 3.75 <= row["not_before"] - node.clock.now <= 6.25
    assert node.observer.next_due() == min(row["not_before"], node.clock.now + 5.0)
    status = views.predict(node.table, "1")
    (delivery,) = next(r for r in status["results"] if r["kind"] == "seg")["deliveries"]
    assert status["status"] == "delivering"
    assert "cannot be reached" in delivery["reason"]
    assert delivery["next_attempt"] == views.iso(row["not_before"])
    with StandInPacs(tmp_path / "pacs", port=port) as pacs:
        node.clock.advance(7.0)
        node.tick_until_state("done")
        assert len(pacs.received) == 1


def test_a_destination_that_refuses_ends_the_job(make, tmp_path):
    with StandInPacs(tmp_path / "pacs", respond=lambda uid: (0xC000, "no thanks")) as pacs:
        node = make(port=pacs.port)
        node.receive(range(1, 4))
        job = node.tick_until_state("failed")
    assert job["reason"].startswith("not delivered to pacs: ")
    assert "no thanks" in job["reason"]
    assert job["stage"] == "deliver"


def test_a_result_that_cannot_be_sent_does_not_hold_up_the_others(make, tmp_path):
    poison: list[str] = []

    def respond(uid):
        poison.append(uid)
        return (0xA700, "not this one") if uid == poison[0] else (0x0000, "")

    with StandInPacs(tmp_path / "pacs", respond=respond) as pacs:
        node = make(port=pacs.port)
        node.receive(range(1, 4))
        node.tick_until(lambda: poison)
        node.receive(range(1, 4), series="1.2.3.2")
        node.receive(range(1, 4), series="1.2.3.3")
        node.tick_until(lambda: [job["stage"] for job in node.jobs()] == ["deliver"] * 3, 30.0)
        for _ in range(10):
            node.clock.advance(15.0)
            node.tick_until(lambda: not node.observer._delivery._sending, 30.0)
            if {job["state"] for job in node.jobs()[1:]} == {"done"}:
                break
        assert {job["state"] for job in node.jobs()[1:]} == {"done"}
        assert node.job(1)["state"] == "waiting"
        assert poison.count(poison[0]) >= 2


@refused_connection
def test_a_result_is_given_up_after_the_time_that_is_configured(make):
    node = make(port=free_port())
    node.receive(range(1, 4))
    node.tick_until(
        lambda: node.table.rows("SELECT 1 FROM delivery WHERE state = 'waiting' AND attempts = 1")
    )
    node.clock.advance(8 * 86400.0)
    job = node.tick_until_state("failed")
    assert "given up: PACS at 127.0.0.1" in job["reason"]


def test_one_busy_destination_neither_spins_nor_blocks_another(tmp_path):
    hold = threading.Event()

    def slow(uid):
        assert hold.wait(30)
        return 0x0000, ""

    with (
        StandInPacs(tmp_path / "slow", respond=slow) as slow_pacs,
        StandInPacs(tmp_path / "fast") as fast_pacs,
    ):
        destinations = [
            {"name": n, "ae_title": "PACS", "host": "127.0.0.1", "port": p.port}
            for n, p in (("slow", slow_pacs), ("fast", fast_pacs))
        ]
        base = settings_of(tmp_path)
        settings = Settings.model_validate(base.model_dump() | {"destination": destinations})
        node = Node(settings.data_dir, settings, ThreadEngine())
        for series in range(3):
            store_slices(node.intake, range(1, 4), series=f"1.2.3.{series}")
        node.clock.advance(5.0)
        node.tick_until(lambda: len(fast_pacs.received) == 3)
        node.tick_until(lambda: list(node.observer._delivery._sending) == ["slow"])
        assert node.observer.next_due() > node.clock.now
        hold.set()
        node.tick_until(lambda: {job["state"] for job in node.jobs()} == {"done"})
        node.close()


def test_what_was_sent_and_could_not_be_recorded_is_recorded_later(tmp_path, make, monkeypatch):
    """As when the table's disk is full at this very moment; nobody starts the node again for it."""
    full = [OutOfResourcesError("the job table cannot be written: database or disk is full")]
    real = delivery_table.deliver

    def deliver(*arguments):
        if full:
            raise full.pop()
        real(*arguments)

    monkeypatch.setattr(delivery_table, "deliver", deliver)
    with StandInPacs(tmp_path / "pacs") as pacs:
        node = make(port=pacs.port)
        node.receive(range(1, 4))
        wait_until(lambda: not node.observer.tick(), 30.0)  # That step fails.
        assert not full
        job = node.tick_until_state("done")
        assert job["reason"] == "delivered to pacs"
        assert len(pacs.received) == 1


@refused_connection
def test_cancelled_while_it_is_sent_is_not_sent_again(make, tmp_path):
    node = make(port=free_port())
    node.receive(range(1, 4))
    node.tick_until(lambda: node.observer._delivery._sending)
    job_table.cancel(node.receiver_table, job_table.get(node.receiver_table, 1), "ada")
    node.tick_until(lambda: not node.observer._delivery._sending)
    (delivery,) = node.table.rows("SELECT * FROM delivery")
    assert delivery["state"] == "cancelled"


@pytest.mark.parametrize("ticks", range(12))
def test_an_observer_that_is_killed_anywhere_is_followed_by_another(make, pacs, ticks):
    """After any number of ticks the object is let go; what it had running comes back late."""
    node = make(port=pacs.port)
    node.receive(range(1, 4))
    for _ in range(ticks):
        assert node.observer.tick()
        time.sleep(0.003)  # Lets the stage of a thread end now and then; no state is waited for.
    node.restart()
    node.tick_until_state("done")
    (uid,) = set(uids_in(pacs.folder))
    rows = node.table.rows("SELECT * FROM result WHERE kind = 'seg'")
    assert [row["sop_instance_uid"] for row in rows] == [uid]
    assert (node.data_dir / rows[0]["path"]).stat().st_size == rows[0]["size"]
    assert not (node.data_dir / "work" / "1").exists()


def test_killed_after_publishing_and_before_the_commit(make, pacs, monkeypatch):
    """The file has its final name, the row is not there: the same object is made again."""
    node = make(port=pacs.port)

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job_table, "_supersede_results", die)
    node.receive(range(1, 4))
    with pytest.raises(KeyboardInterrupt):
        node.tick_until(lambda: False)
    monkeypatch.undo()
    assert (node.data_dir / "results" / "1" / "seg.dcm").is_file()
    assert node.table.rows("SELECT * FROM result") == []
    node.restart()
    node.tick_until_state("done")
    assert len(set(uids_in(pacs.folder))) == 1


def test_a_node_that_dies_three_times_in_one_stage_gives_the_job_up(make):
    script = Script(prediction=["hang"] * 3)
    node = make(script)
    node.receive(range(1, 4))
    for _ in range(3):
        script.entered.clear()
        node.tick_until(script.entered.is_set)
        node.restart()
    script.release.set()
    assert node.job()["state"] == "failed"
    assert node.job()["reason"] == (
        "gave up after 3 attempts of prediction: the node stopped while it ran"
    )


def test_a_stop_in_good_order_costs_no_attempt(make):
    script = Script(prediction=["hang"] * 4)
    node = make(script)
    node.receive(range(1, 4))
    for _ in range(4):
        script.entered.clear()
        stop, thread = run_in_thread(node)
        assert script.entered.wait(10)
        stop.set()
        thread.join(10)
        assert (node.job()["state"], node.job()["failures"]) == ("waiting", 0)
        node.restart()
    script.release.set()
    node.tick_until_state("done")


def test_leftovers_of_jobs_that_are_over_are_removed_at_the_start(make):
    node = make()
    node.receive([1])
    node.tick_until_state("rejected")
    for name in ("1/1", "77/1", "no number"):
        (node.data_dir / "work" / name).mkdir(parents=True)
    node.restart()
    assert list((node.data_dir / "work").iterdir()) == []


def test_priority_and_fair_share_decide_who_enters(tmp_path):
    script = Script(prediction=["hang"])
    settings = Settings(
        data_dir=tmp_path / "data",
        scp={"quiet_s": 5.0},
        route=[ROUTE],
        source=[
            {"ae_title": "RESEARCH", "priority": "bulk"},
            {"ae_title": "ER", "priority": "stat"},
        ],
        pipeline={"disk_reserve_gb": 0.0, "ahead": False, "running_max": 1},
    )
    node = Node(settings.data_dir, settings, ThreadEngine(script))
    research = node.intake.open_association("RESEARCH", "OSTEON", "::1")
    emergency = node.intake.open_association("ER", "OSTEON", "::1")
    for number in range(4):
        store_slices(node.intake, [1, 2], series=f"1.9.{number}", origin=research)
    node.clock.advance(5.0)
    node.tick_until(script.entered.is_set)
    store_slices(node.intake, [1, 2], series="1.8.1", origin=emergency)
    node.clock.advance(5.0)
    assert node.observer.tick()
    assert node.job(2)["reason"] == "waits for room: 1 job may run at once"
    assert node.job(5)["stage"] == "prediction"  # A full house of bulk is no obstacle.
    script.release.set()
    node.tick_until(lambda: all(job["state"] == "done" for job in node.jobs()))
    ran = [request.job_id for request in node.engine.requests]
    assert ran == [*[1] * 3, *[5] * 3, *[2] * 3, *[3] * 3, *[4] * 3]
    node.close()


def test_the_thinnest_series_of_a_study_is_taken(tmp_path):
    settings = Settings(
        data_dir=tmp_path / "data",
        scp={"quiet_s": 5.0, "gap_wait_s": 60.0},
        route=[ROUTE | {"series": "thinnest"}],
        pipeline={"disk_reserve_gb": 0.0, "ahead": False},
    )
    node = Node(settings.data_dir, settings, ThreadEngine())
    store_slices(node.intake, [1, 2, 3], series="1.2.3.5", SliceThickness=5)
    node.clock.advance(4.0)
    store_slices(node.intake, [1, 2, 5, 6], series="1.2.3.6", SliceThickness=1)  # with a gap
    node.clock.advance(1.0)
    assert node.observer.tick()
    assert "other series of its study" in views.predict(node.table, "1.2.3.5")["reason"]
    node.clock.advance(4.0)
    assert node.observer.tick()
    assert node.jobs() == []
    node.clock.advance(56.0)
    node.tick_until(lambda: {job["state"] for job in node.jobs()} == {"done", "rejected"})
    thick = views.predict(node.table, "1.2.3.5")
    assert thick["reason"] == "bone: the thinnest series of its study is 1.2.3.6"
    assert views.predict(node.table, "1.2.3.6")["status"] == "done"
    node.close()


def test_nothing_is_admitted_while_the_disk_is_below_its_reserve(make, tmp_path):
    node = make()
    node.receive(range(1, 4))
    full = node.settings.pipeline.model_copy(
        update={"disk_reserve_gb": free_bytes(tmp_path) / 1e9 + 100}
    )
    node.settings.__dict__["pipeline"] = full  # The reserve of one disk cannot be changed else.
    node.observer.tick()
    assert node.job()["reason"].startswith("waits for disk space")
    node.settings.__dict__["pipeline"] = full.model_copy(
        update={"disk_reserve_gb": 0.0, "ahead": False}
    )
    node.tick_until_state("done")


def fail_with(number: int) -> Exception:
    return failure_of("prediction", OSError(number, os.strerror(number)))


def test_a_full_disk_costs_no_attempt_and_is_waited_for(make, monkeypatch):
    script = Script(prediction=[fail_with(errno.ENOSPC) for _ in range(5)])
    node = make(script, disk_reserve_gb=1.0)
    free = [10**10]
    for module in ("outcomes", "door"):
        monkeypatch.setattr(f"osteon.pipeline.{module}.free_bytes", lambda folder: free[0])
    monkeypatch.setattr("osteon.pipeline.intake.free_bytes", lambda folder: 10**10)
    node.receive(range(1, 4))
    node.tick_until(lambda: node.jobs() and node.job()["state"] == "running")
    free[0] = 10**8
    for _ in range(5):
        job = node.tick_until_state("backoff")
        assert job["failures"] == 0
        assert job["reason"].startswith("waits for disk space: prediction found no space left")
        node.clock.advance(10.0)
    free[0] = 10**10
    node.tick_until_state("done")


def test_a_job_that_fills_the_disk_by_itself_is_given_up(make):
    node = make(Script(prediction=[fail_with(errno.ENOSPC) for _ in range(5)]))
    node.receive(range(1, 4))
    for _ in range(2):
        node.tick_until_state("backoff")
        node.clock.advance(10.0)
    assert "no space left" in node.tick_until_state("failed")["reason"]


def test_a_result_that_cannot_be_published_is_made_again(make, monkeypatch):
    real, failures = outcomes.move_durably, [OSError(errno.EIO, "Input/output error")]

    def move(source, target):
        if failures:
            raise failures.pop()
        real(source, target)

    monkeypatch.setattr(outcomes, "move_durably", move)
    node = make()
    node.receive(range(1, 4))
    job = node.tick_until_state("backoff")
    assert "Input/output error" in job["reason"]
    node.clock.advance(3.0)
    node.tick_until_state("done")


@refused_connection
def test_a_clock_that_is_set_back_lets_nothing_wait_for_it(make):
    """A series, a backoff and a delivery were due in moments; the clock goes back by a day."""
    node = make(Script(prediction=[StageError("once")]), port=free_port())
    node.receive(range(1, 4))
    node.tick_until_state("backoff")
    store_slices(node.intake, [1, 2, 3], series="1.2.3.2")
    assert node.observer.tick()
    node.clock.advance(-86400.0)
    assert node.observer.tick()
    assert node.observer.next_due() <= node.clock.now + 5.0
    node.clock.advance(5.0)
    node.tick_until(lambda: len(node.jobs()) == 2 and node.job()["stage"] == "deliver")


def test_a_clock_that_was_set_back_while_the_node_was_off(make):
    node = make(Script(prediction=[StageError("once")]))
    node.receive(range(1, 4))
    node.tick_until_state("backoff")
    store_slices(node.intake, [1, 2, 3], series="1.2.3.2")
    node.clock.advance(-86400.0)
    node.restart()
    assert node.observer.tick()
    node.clock.advance(5.0)
    node.tick_until(lambda: [job["state"] for job in node.jobs()] == ["done", "done"])


def test_one_series_that_cannot_be_judged_holds_up_no_other(make):
    node = make()
    node.receive(range(1, 4))
    node.receiver_table.change("UPDATE series SET header = 'no JSON' WHERE id = 1")
    node.receive(range(1, 4), series="1.2.3.2")
    with capture_logs() as logs:
        assert not node.observer.tick()
        wait_until(lambda: [node.observer.tick()] and node.job()["state"] == "done")
    assert node.job()["series_id"] == 2
    assert {log["step"] for log in logs if log["event"] == "step failed"} == {"judge_series"}


def run_in_thread(node: Node) -> tuple[threading.Event, threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=node.observer.run, args=(stop,))
    thread.start()
    return stop, thread


def test_a_commit_of_another_process_wakes_the_loop_within_moments(tmp_path):
    settings = settings_of(tmp_path, scp={"quiet_s": 0.2})
    node = Node(settings.data_dir, settings, ThreadEngine(), clock=time.time)  # type: ignore[arg-type] # the real one
    stop, thread = run_in_thread(node)
    try:
        started = time.monotonic()
        store_slices(node.intake, [1, 2, 3])
        reader = node.receiver_table
        wait_until(lambda: reader.rows("SELECT 1 FROM job WHERE state = 'done'"), 5.0)
        assert time.monotonic() - started < 2.0
    finally:
        stop.set()
        thread.join(10)
        node.close()
    assert not thread.is_alive()


def test_the_loop_outlives_an_error_and_takes_up_the_work_again(tmp_path, monkeypatch):
    settings = settings_of(tmp_path, scp={"quiet_s": 0.0})
    node = Node(settings.data_dir, settings, ThreadEngine(), clock=time.time)  # type: ignore[arg-type] # the real one
    failures = iter([OSError("the disk is gone")])

    def fail_once(folder):
        for error in failures:
            raise error
        return 10**12

    monkeypatch.setattr("osteon.pipeline.door.free_bytes", fail_once)
    store_slices(node.intake, [1, 2, 3])
    with capture_logs() as logs:
        stop, thread = run_in_thread(node)
        try:
            reader = node.receiver_table
            wait_until(lambda: reader.rows("SELECT 1 FROM job WHERE state = 'done'"), 10.0)
        finally:
            stop.set()
            thread.join(10)
            node.close()
    assert [log["error"] for log in logs if log["event"] == "step failed"] == ["the disk is gone"]


@refused_connection
def test_idle_costs_next_to_nothing(tmp_path):
    """With a stage that hangs, a delivery under way and a backoff the loop must sleep."""
    script = Script(prediction=["hang"])
    settings = settings_of(tmp_path, port=free_port(), scp={"quiet_s": 0.0})
    node = Node(settings.data_dir, settings, ThreadEngine(script), clock=time.time)  # type: ignore[arg-type] # the real one
    ticks = 0
    tick = node.observer.tick

    def counted() -> bool:
        nonlocal ticks
        ticks += 1
        return tick()

    node.observer.tick = counted  # type: ignore[method-assign] # counted, not replaced
    store_slices(node.intake, [1, 2, 3])
    stop, thread = run_in_thread(node)
    try:
        assert script.entered.wait(10)
        before = ticks
        thread.join(1.0)
        assert ticks - before <= 3
    finally:
        script.release.set()
        stop.set()
        thread.join(10)
        node.close()


def test_a_clock_that_stands_is_no_obstacle(make):
    node = make()
    assert isinstance(node.clock, HandClock)
    store_slices(node.intake, [1, 2, 3])
    assert node.observer.tick()
    assert node.observer.next_due() == node.clock.now + 5.0
