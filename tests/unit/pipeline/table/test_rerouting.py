"""Rows of rerouted series: what is named, what was never taken, and what takes another's place."""

import pytest
from sqlite_utils import Database

from osteon.errors import NotFoundError, NotRunnableError
from osteon.pipeline.table import connection, jobs, rerouting, series, views
from osteon.pipeline.table.connection import Table, migrations, open_table
from tests.unit.pipeline.table.rows import (
    add_job,
    add_series,
    delivering,
    new_job,
    results_of,
    running_encode,
)


def states(table):
    return [row["state"] for row in table.rows("SELECT state FROM delivery ORDER BY id")]


def replacing(table, job):
    """Create a job that takes the place of another one."""
    rerouting.vacate(table, job)
    by = series.create_job(table, series.get(table, job["series_id"]), new_job(), "ada")
    rerouting.replace(table, job, by, "ada")
    return jobs.get(table, by)


def test_a_table_of_the_release_before_keeps_its_jobs(tmp_path):
    old = Table(tmp_path)
    migrations.apply(Database(old._conn), stop_before="_0009_reroute")
    job = add_job(old)
    assert "replaced_by" not in job.keys()  # noqa: SIM118 - a row is no mapping to `in`
    old.close()
    table = open_table(tmp_path)
    assert jobs.get(table, job["id"])["replaced_by"] is None
    assert connection.migrations.pending(Database(table._conn)) == []
    assert replacing(table, jobs.get(table, job["id"]))["id"] == 2
    table.close()


def test_a_name_means_the_newest_generation_of_each_series(table):
    add_job(table, "1.2.3.1")
    add_job(table, "1.2.3.1", generation=2)
    add_job(table, "1.2.3.2")
    for name, ids in (("1", [2]), ("1.2.3.1", [2]), ("1.2.3", [2, 3]), ("A1", [2, 3])):
        assert [row["id"] for row in rerouting.series_named(table, name)] == ids
    for name in ("", "99", "³", "B2"):
        with pytest.raises(NotFoundError):
            rerouting.series_named(table, name)
    table.change("UPDATE series SET accession_number = '1' WHERE series_instance_uid = '1.2.3.2'")
    with pytest.raises(NotFoundError, match="1 is the id of a job and an accession number"):
        rerouting.series_named(table, "1")


def test_never_taken_is_what_came_late_enough_and_was_never_let_in(table, clock):
    add_job(table, "1.2.3.1", route="none", rejected="no route takes it")
    clock.advance(100)
    since = clock.now
    add_job(table, "1.2.3.2", route="none", rejected="no route takes it")
    add_job(table, "1.2.3.3")
    refused = add_job(table, "1.2.3.4")
    jobs.admit(table, refused, "admitted")
    jobs.reject(table, jobs.get(table, refused["id"]), "it is not one volume")
    add_series(table, "1.2.3.5")
    add_job(table, "1.2.3.6", route="none", rejected="no route takes it")
    add_series(table, "1.2.3.6", generation=2)
    found = [row["series_instance_uid"] for row in rerouting.never_taken(table, since)]
    assert found == ["1.2.3.2"]


def test_what_is_replaced_is_sent_no_more_and_stands_until_there_is_another(table):
    old = delivering(table)
    new = replacing(table, old)
    assert states(table) == ["cancelled"]
    assert jobs.get(table, old["id"])["state"] == "superseded"
    made = "SELECT superseded IS NOT NULL AS gone FROM result WHERE job_id = ?"
    assert {row["gone"] for row in table.rows(made, (old["id"],))} == {0}
    jobs.admit(table, new, "admitted")
    for stage in ("prediction", "boneseg"):
        token = jobs.claim(table, jobs.get(table, new["id"]), "local", 60.0)
        jobs.finish(table, jobs.get(table, new["id"]), token, f"work/{stage}", "done")
    token = jobs.claim(table, jobs.get(table, new["id"]), "local", 60.0)
    new = jobs.get(table, new["id"])
    jobs.finish_encode(table, new, token, results_of(new), [], "done")
    assert {row["gone"] for row in table.rows(made, (old["id"],))} == {1}
    assert {row["gone"] for row in table.rows(made, (new["id"],))} == {0}
    assert views.predict(table, "1.2.3.1")["id"] == str(new["id"])


def test_what_is_done_already_takes_the_place_at_once(table):
    done = delivering(table)
    other = running_encode(table, uid="1.2.3.2", route="other")
    table.change("UPDATE job SET series_id = ? WHERE id = ?", (done["series_id"], other["id"]))
    other = jobs.get(table, other["id"])
    jobs.finish_encode(table, other, other["attempt"], results_of(other), [], "done")
    rerouting.replace(table, jobs.get(table, other["id"]), done["id"], "ada")
    gone = "SELECT job_id FROM result WHERE superseded IS NOT NULL AND kind = 'seg'"
    assert [row["job_id"] for row in table.rows(gone)] == [other["id"]]


def test_what_was_replaced_runs_no_more(table):
    old = add_job(table)
    jobs.cancel(table, old, "ada")
    by = replacing(table, jobs.get(table, old["id"]))
    again = replacing(table, by)
    with pytest.raises(NotRunnableError, match=f"replaced by job {again['id']}"):
        jobs.rerun(table, jobs.get(table, old["id"]), "ada")


def test_a_rerouted_job_waits_for_no_destination_that_it_has_no_more(table):
    job = delivering(table, destinations='["pacs", "archive", "old"]')
    table.change("UPDATE delivery SET state = 'delivered' WHERE destination = 'old'")
    jobs.cancel(table, job, "ada")
    job = jobs.get(table, job["id"])
    rerouting.reroute(table, job, new_job("thin", destinations='["pacs"]', priority=0), "ada")
    left = table.rows("SELECT destination, state FROM delivery ORDER BY id")
    assert [tuple(row) for row in left] == [("pacs", "cancelled"), ("old", "delivered")]
    moved = jobs.get(table, job["id"])
    assert (moved["route"], moved["priority"], moved["state"]) == ("thin", 0, "waiting")
    assert (moved["stage"], moved["destinations"]) == ("admission", '["pacs"]')
