"""What the outside is told: the table's rows as plain JSON values."""

import json

import pytest

from osteon.config.settings import Settings
from osteon.errors import NotFoundError
from osteon.pipeline.intake import Intake
from osteon.pipeline.job import Stage, State, Status, status_of
from osteon.pipeline.table import jobs, stored, views
from tests.pipeline_parts import store_slices
from tests.unit.pipeline.table.rows import add_job, add_series, at_prediction, delivering


@pytest.fixture
def intake(table):
    return Intake(Settings(data_dir=table.data_dir, pipeline={"disk_reserve_gb": 0.0}), table)


def test_a_series_that_is_still_coming(table, intake):
    store_slices(intake, [1, 2])
    status = views.predict(table, "1.2.3.1")
    assert (status["id"], status["status"]) == ("1.2.3.1", "receiving")
    assert status["instances"] == 2
    assert status["reason"] == "waits for 5 s without a new instance"
    assert json.loads(json.dumps(status)) == status


def test_a_job_by_its_id_and_by_its_series(table):
    job = delivering(table)
    by_id, by_series = views.predict(table, str(job["id"])), views.predict(table, "1.2.3.1")
    assert by_id == by_series
    assert by_id["status"] == Status.DELIVERING
    assert {r["kind"] for r in by_id["results"]} == {"seg", "preview"}
    seg = next(r for r in by_id["results"] if r["kind"] == "seg")
    assert seg["deliveries"][0]["destination"] == "pacs"
    assert json.loads(json.dumps(by_id)) == by_id


@pytest.mark.parametrize(
    "name", ["", "9", "1.2.99", "x" * 1000, "\uff19", "-1", "1" * 40, "' OR 1=1"]
)
def test_what_is_not_here_is_not_found(table, name):
    add_job(table)
    for view in (views.predict, views.trace):
        with pytest.raises(NotFoundError):
            view(table, name)


def test_a_trace_by_every_name(table):
    add_job(table)
    stories = [views.trace(table, name) for name in ("1", "1.2.3.1", "1.2.3", "A1")]
    assert all(story == stories[0] for story in stories)
    assert [event["event"] for event in stories[0][0]["events"]] == ["complete", "create"]
    assert json.loads(json.dumps(stories[0])) == stories[0]


def test_counts_agree_with_every_status(table):
    for number, (stage, state) in enumerate(
        [
            (Stage.ADMISSION, State.WAITING),
            (Stage.ENCODE, State.BACKOFF),
            (Stage.DELIVER, State.DONE),
            (Stage.ADMISSION, State.CANCELLED),
            (Stage.PREDICTION, State.CANCELLED),
            (Stage.PREDICTION, State.FAILED),
        ]
    ):
        job = add_job(table, f"1.{number}")
        table.change("UPDATE job SET stage = ?, state = ? WHERE id = ?", (stage, state, job["id"]))
    add_series(table, "1.9")
    counted = views.counts(table)["jobs"]
    assert counted == {status.value: 0 for status in Status} | {
        "waiting": 1,
        str(status_of(Stage.ENCODE, State.BACKOFF)): 1,
        "done": 1,
        "receiving": 1,
        "failed": 1,
        "cancelled": 2,
    }
    failed = views.jobs(table, status=Status.FAILED)
    assert [job["state"] for job in failed] == ["failed", "cancelled", "cancelled"]
    assert [j["id"] for j in views.jobs(table, state=State.CANCELLED)] == ["5", "4"]
    assert [j["id"] for j in views.jobs(table, status=Status.FAILED, state=State.FAILED)] == ["6"]
    assert views.jobs(table, status=Status.DONE, state=State.FAILED) == []
    assert [j["id"] for j in views.jobs(table, state=State.BACKOFF)] == ["2"]
    assert views.count_waiting(table) == 1


def test_pages_of_jobs_and_of_files_meet_without_overlap(table, intake):
    for number in range(7):
        at_prediction(table, uid=f"1.{number}")
    first = views.jobs(table, limit=4)
    rest = views.jobs(table, limit=4, before=int(first[-1]["id"]))
    assert [int(job["id"]) for job in first + rest] == [7, 6, 5, 4, 3, 2, 1]
    assert views.jobs(table, status=Status.DONE) == []
    store_slices(intake, range(1, 6))
    store_slices(intake, [2], PatientID="new")
    page = stored.files(table, "inputs/", limit=3)
    after = stored.files(table, "inputs/", limit=3, after=page[-1]["path"])
    assert [f["path"] for f in page + after] == [
        f"inputs/1.2.3.1/1.2.3.1.{n}.dcm" for n in range(1, 6)
    ]


def test_a_file_is_the_newest_of_its_instance(table, intake):
    store_slices(intake, [1, 2])
    (newest,) = store_slices(intake, [2], PatientID="new")
    path, facts = stored.file(table, "inputs/1.2.3.1/1.2.3.1.2.dcm")
    assert path == table.data_dir / newest.path
    assert facts["size"] == path.stat().st_size
    for unknown in (
        "inputs/1.2.3.1/../x",
        "inputs/1/2/3.dcm",
        "osteon.sqlite",
        "",
        "results/1/seg.dcm",
    ):
        with pytest.raises(NotFoundError):
            stored.file(table, unknown)


def test_times_are_utc():
    assert views.iso(0.5) == "1970-01-01T00:00:00.500+00:00"
    assert views.iso(None) is None


def test_nothing_is_written_by_looking(table):
    job = delivering(table)
    before = table.rows("SELECT * FROM job")
    jobs.get(table, job["id"])
    views.counts(table)
    views.trace(table, "1")
    assert table.rows("SELECT * FROM job") == before
