"""Lines before the throttler, the clocks of fair sharing, and counts that are kept, not made."""

from osteon.pipeline.job import Stage, State
from osteon.pipeline.table import jobs, lines, series, shares, tally
from osteon.pipeline.table.connection import Table, open_table
from tests.unit.pipeline.table.rows import add_job, add_series, at_prediction, delivering


def test_heads_are_the_first_of_every_line(table):
    for number in range(6):
        add_job(table, f"1.9.{number}", source="RESEARCH")
    add_job(table, "1.8.1", source="CT1", priority=1)
    urgent = add_job(table, "1.9.9", source="RESEARCH", priority=0)
    lungs = add_job(table, "1.9.10", source="RESEARCH", model="lungs")
    upload = add_job(table, "1.7.1", source="")
    inside = at_prediction(table, uid="1.6.1", source="INSIDE", cost=7, input_bytes=9)
    heads = {(h["calling_ae_title"], h["model"]): h["id"] for h in lines.heads(table)}
    assert heads == {
        ("", "builtin:bone"): upload["id"],
        ("CT1", "builtin:bone"): 7,
        ("RESEARCH", "builtin:bone"): urgent["id"],
        ("RESEARCH", "lungs"): lungs["id"],
    }
    for (source, model), job_id in heads.items():
        assert lines.head(table, source, model)["id"] == job_id
    assert lines.head(table, "INSIDE", "builtin:bone") is None
    assert lines.most_urgent(table) == 0
    (counted,) = lines.inside(table)
    assert (counted["id"], counted["cost"], counted["input_bytes"]) == (inside["id"], 7, 9)


def test_no_line_has_no_head(table):
    at_prediction(table)
    assert lines.heads(table) == []
    assert lines.most_urgent(table) is None


def test_what_was_let_in_first_runs_first_whatever_its_age(table, clock):
    old, young = add_job(table, "1.1", source="RESEARCH"), add_job(table, "1.2", source="WARD")
    jobs.admit(table, young, "admitted")
    clock.advance(1.0)
    jobs.admit(table, old, "admitted")
    assert [job["id"] for job in lines.ready(table, 10)] == [young["id"], old["id"]]
    third = add_job(table, "1.3")
    jobs.admit(table, third, "admitted", clock() - 5.0)
    assert lines.ready(table, 1)[0]["id"] == third["id"]


def test_a_job_knows_how_many_are_before_it(table):
    found = [add_job(table, f"1.9.{number}", source="CT1") for number in range(5)]
    add_job(table, "1.8.1", source="CT2")
    add_job(table, "1.9.7", source="CT1", priority=0)
    assert [lines.ahead_of(table, job, 100) for job in found] == [1, 2, 3, 4, 5]
    assert lines.ahead_of(table, found[-1], 3) == 3


def test_clocks_are_kept_by_class_and_forgotten_when_they_say_nothing(table):
    assert (shares.began(table, 2), shares.served(table, 2)) == (0.0, [])
    shares.advance(table, 2, "A", 0.0, 10.0)
    shares.advance(table, 2, "B", 0.0, 4.0)
    shares.advance(table, 0, "A", 0.0, 99.0)
    assert shares.began(table, 2) == 0.0
    shares.advance(table, 2, "B", 4.0, 8.0)
    shares.advance(table, 2, "B", 8.0, 12.0)
    assert shares.began(table, 2) == 8.0
    shares.advance(table, 2, "A", 10.0, 20.0)
    shares.advance(table, 2, "B", 12.0, 16.0)
    shares.advance(table, 2, "C", 12.0, 13.0)
    shares.advance(table, 2, "C", 13.0, 14.0)
    shares.advance(table, 2, "B", 16.0, 18.0)
    assert {r["calling_ae_title"]: r["served"] for r in shares.served(table, 2)} == {
        "A": 20.0,
        "B": 18.0,
    }
    assert len(shares.served(table, 0)) == 1


def counted(table) -> dict[str, int]:
    """Count anew what the triggers keep."""
    found = {}
    for name in ("association", "series", "instance"):
        found[name] = table.rows(f"SELECT count(*) AS n FROM {name}")[0]["n"]
    for row in table.rows("SELECT stage, state, count(*) AS n FROM job GROUP BY stage, state"):
        found[f"job {row['stage']} {row['state']}"] = row["n"]
    for row in table.rows("SELECT state, count(*) AS n FROM delivery GROUP BY state"):
        found[f"delivery {row['state']}"] = row["n"]
    return {name: n for name, n in found.items() if n}


def test_counts_follow_every_row(table):
    delivering(table, uid="1.1")
    waiting = add_job(table, "1.2")
    jobs.cancel(table, waiting, "ada")
    table.insert(
        "INSERT INTO association (calling_ae_title, called_ae_title, address, opened)"
        " VALUES ('A', 'B', '::1', 0)"
    )
    add_series(table, "1.3")
    assert tally.counts(table) == counted(table)
    assert tally.counts(table)["job deliver waiting"] == 1
    for name in ("delivery", "result", "output", "transition", "job", "association", "series"):
        table.change(f"DELETE FROM {name}")
    assert tally.counts(table) == {}


def test_an_instance_that_replaces_another_is_counted_once(table, clock):
    add_series(table)
    table.close()
    table = Table(table.data_dir, clock=clock)  # sqlite-utils would set the pragma by itself.
    columns = "sop_instance_uid, digest, sop_class_uid, transfer_syntax_uid, series_instance_uid"
    for received in (0, 1):
        table.change(
            f"INSERT OR REPLACE INTO instance ({columns}, generation, path, size, received)"
            " VALUES ('1.1', 'ab', '1.2', '1.3', '1.2.3.1', 1, 'a', 1, ?)",
            (received,),
        )
    assert tally.counts(table)["instance"] == 1
    assert tally.counts(table) == counted(table)
    table.close()


def test_a_count_is_kept_for_every_stage_and_state(table):
    names = {row["name"] for row in table.rows("SELECT name FROM tally")}
    assert names >= {f"job {stage} {state}" for stage in Stage for state in State}
    assert tally.jobs(table) == {}
    add_job(table)
    assert tally.jobs(table) == {(Stage.ADMISSION, State.WAITING): 1}


def test_counts_that_were_there_before_the_triggers_are_taken_over(table):
    """A table of the release before: its rows are counted once, by the migration."""
    job = add_job(table)
    add_series(table, "1.7")
    expected = tally.counts(table)
    table.change("DELETE FROM tally")
    for name in ("association", "series", "instance", "job", "delivery"):
        for event in ("added", "removed", "moved"):
            table.change(f"DROP TRIGGER IF EXISTS {name}_{event}")
    for table_name in ("tally", "share"):
        table.change(f"DROP TABLE {table_name}")
    table.change("DROP INDEX job_waiting")
    table.change("CREATE INDEX job_waiting ON job (id)")
    for index in ("job_line", "job_inside", "job_over", "job_open", "series_over"):
        table.change(f"DROP INDEX {index}")
    table.change("CREATE INDEX job_line ON job (id)")
    table.change("CREATE INDEX job_inside ON job (id)")
    table.change("CREATE INDEX job_admitted ON job (id)")
    table.change("ALTER TABLE job DROP COLUMN cost")
    table.change("ALTER TABLE job DROP COLUMN input_bytes")
    table.change("DELETE FROM _sqlite_migrations WHERE name LIKE '%0004%'")
    table.close()
    again = open_table(table.data_dir, clock=table.clock)
    assert tally.counts(again) == expected
    assert series.get(again, job["series_id"])["state"] == "complete"
    again.close()
