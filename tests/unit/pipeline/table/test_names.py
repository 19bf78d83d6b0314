"""Names of jobs: what a person at the command line means by one, and what it does to them."""

import pytest
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.errors import NotFoundError
from osteon.pipeline.table import jobs
from osteon.pipeline.table.names import jobs_named
from tests.unit.pipeline.table.rows import add_job, add_series, delivering, running


def ids(table, name):
    return [job["id"] for job in jobs_named(table, name)]


def test_a_job_a_series_a_study_and_an_accession_number(table):
    add_job(table, "1.2.3.1")
    add_job(table, "1.2.3.2")
    assert ids(table, "2") == [2]
    assert ids(table, "1.2.3.1") == [1]
    assert ids(table, "1.2.3") == [1, 2]
    assert ids(table, "A1") == [1, 2]


def test_the_newest_generation_is_meant(table):
    add_job(table, "1.2.3.1")
    add_job(table, "1.2.3.1", generation=2)
    assert ids(table, "1.2.3.1") == [2]
    assert ids(table, "1") == [1]


def test_a_number_that_means_two_things_is_refused(table):
    add_job(table, "1.2.3.1")
    add_job(table, "1.2.3.2")
    table.change("UPDATE series SET accession_number = '1'")
    with pytest.raises(NotFoundError, match="1 is the id of a job and an accession number"):
        jobs_named(table, "1")
    assert ids(table, "2") == [2]


def test_what_has_no_job_says_why(table):
    add_series(table, "1.2.3.7")
    with pytest.raises(NotFoundError, match="still receiving"):
        jobs_named(table, "1.2.3.7")
    for name in ("", "99", "³", "B2"):
        with pytest.raises(NotFoundError, match="is no job, series, study or accession number"):
            jobs_named(table, name)


@pytest.fixture
def do(table, tmp_path):
    config = tmp_path / "osteon.toml"
    config.write_text(f'data_dir = "{table.data_dir}"\n')

    def done(*line):
        result = CliRunner().invoke(cli, ["jobs", *line, "--config", str(config)])
        return result.exit_code, result.output

    return done


def states(table):
    return [row["state"] for row in table.rows("SELECT state FROM job ORDER BY id")]


def test_cancel_stops_all_that_is_unfinished_of_a_name(table, do):
    add_job(table, "1.2.3.1")
    running(table, uid="1.2.3.2")
    done = delivering(table, uid="1.2.3.3")
    jobs.complete(table, done, "done")
    assert do("cancel", "A1") == (0, "job 1 is cancelled\njob 2 is cancelled\n")
    assert states(table) == ["cancelled", "cancelled", "done"]
    code, said = do("cancel", "A1")
    assert code == 4
    assert said == "osteon: of A1, none of the jobs 1, 2, 3 is unfinished: name one\n"


def test_retry_runs_what_failed_and_leaves_what_is_done_or_was_not_wanted(table, do):
    jobs.fail(table, running(table, uid="1.2.3.1"), "broken")
    jobs.complete(table, delivering(table, uid="1.2.3.2"), "done")
    add_job(table, "1.2.3.3", rejected="the thinnest series of its study is 1.2.3.1")
    assert do("retry", "A1") == (0, "job 1 waits to run again\n")
    assert states(table) == ["waiting", "done", "rejected"]
    assert do("retry", "1.2.3.2") == (0, "job 2 waits to run again\n")
    assert do("retry", "1.2.3.2")[0] == 4
    assert do("retry", "nobody")[0] == 5
