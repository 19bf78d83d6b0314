"""Rows of what workers say of themselves."""

import pytest

from osteon.pipeline.table import jobs, views, workers
from tests.unit.pipeline.table.rows import at_prediction


def shown(table) -> float:
    return views.predict(table, "1")["progress"]


def test_progress_belongs_to_its_stage_and_its_admission(table):
    job = at_prediction(table)
    workers.note_progress(table, [(job, 0.5)])
    assert shown(table) == pytest.approx(0.3)
    workers.note_progress(table, [(job, 0.4)])
    assert shown(table) == pytest.approx(0.3)
    workers.note_progress(table, [(job, 7.0)])
    assert shown(table) == pytest.approx(0.4)
    table.change("UPDATE job SET stage = 'boneseg'")
    assert shown(table) == pytest.approx(0.4)
    workers.note_progress(table, [(jobs.get(table, 1), 0.5)])
    assert shown(table) == pytest.approx(0.5)
    table.change("UPDATE job SET admitted = admitted + 9")  # It was run again.
    assert shown(table) == pytest.approx(0.4)


def test_progress_goes_with_its_job(table):
    job = at_prediction(table)
    workers.note_progress(table, [(job, 0.5)])
    table.change("DELETE FROM transition")
    table.change("DELETE FROM job")
    assert table.rows("SELECT * FROM progress") == []


def test_of_the_engine_only_the_last_is_known(table):
    assert workers.engine_state(table) is None
    workers.note_engine(table, 0, "the scheduler tls://a:8786 is not reached: refused")
    workers.note_engine(table, 2, "")
    assert workers.engine_state(table) == workers.EngineState(2, "", table.clock(), "")
    assert len(table.rows("SELECT * FROM engine")) == 1
