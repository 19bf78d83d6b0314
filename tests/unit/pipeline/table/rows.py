"""Rows for tests of the table: series, jobs and results, made by the table's own functions."""

from pathlib import Path

from osteon.pipeline.table import jobs, series
from osteon.pipeline.table.connection import Row, Table
from osteon.pipeline.table.jobs import NewResult
from osteon.pipeline.table.series import NewJob


def add_series(table: Table, uid: str = "1.2.3.1", *, source: str = "CT1", generation: int = 1):
    now = table.clock()
    return table.insert(
        "INSERT INTO series (series_instance_uid, generation, study_instance_uid, calling_ae_title,"
        " called_ae_title, modality, accession_number, patient_id, header, state, instances, first,"
        " last, due, waits_for) VALUES (?, ?, '1.2.3', ?, 'OSTEON', 'CT', 'A1', 'P1', '{}',"
        " 'receiving', 3, ?, ?, ?, 'quiet')",
        (uid, generation, source, now, now, now + 5.0),
    )


def new_job(
    route: str = "bone",
    *,
    model: str = "builtin:bone",
    priority: int = 2,
    destinations: str = '["pacs"]',
    **keywords,
):
    return NewJob(route, model, priority, destinations, "ab" * 32, **keywords)


def add_job(
    table: Table, uid: str = "1.2.3.1", *, source: str = "CT1", generation: int = 1, **keywords
) -> Row:
    series_id = add_series(table, uid, source=source, generation=generation)
    (job_id,) = series.complete(
        table, series.get(table, series_id), "complete", [new_job(**keywords)]
    )
    return jobs.get(table, job_id)


def at_prediction(table: Table, **keywords) -> Row:
    job = add_job(table, **keywords)
    jobs.admit(table, job, "admitted")
    return jobs.get(table, job["id"])


def running(table: Table, **keywords) -> Row:
    job = at_prediction(table, **keywords)
    jobs.claim(table, job, "local", 60.0)
    return jobs.get(table, job["id"])


def running_encode(table: Table, **keywords) -> Row:
    job = running(table, **keywords)
    for _ in range(2):
        jobs.finish(table, job, job["attempt"], f"work/{job['stage']}", "done")
        jobs.claim(table, jobs.get(table, job["id"]), "local", 60.0)
        job = jobs.get(table, job["id"])
    return job


def results_of(job: Row) -> list[NewResult]:
    folder = Path("results") / str(job["id"])
    uids = (f"2.25.{job['id']}", "1.2.840.10008.5.1.4.1.1.66.4", f"2.25.9{job['id']}")
    return [
        NewResult("seg", str(folder / "seg.dcm"), 10, "cd" * 32, "application/dicom", *uids),
        NewResult("preview", str(folder / "preview.png"), 5, "ef" * 32, "image/png"),
    ]


def delivering(table: Table, **keywords) -> Row:
    job = running_encode(table, **keywords)
    jobs.finish_encode(table, job, job["attempt"], results_of(job), [{"label": "Bone 1"}], "done")
    return jobs.get(table, job["id"])
