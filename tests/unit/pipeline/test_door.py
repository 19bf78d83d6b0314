"""The door, on a real table: who is let in, in which order, and what the others are told."""

from pathlib import Path

import pytest

from osteon.config.settings import Settings
from osteon.pipeline import door as door_module
from osteon.pipeline.door import EXPLAIN_S, Door
from osteon.pipeline.table import jobs, lines, shares
from osteon.pipeline.table.connection import open_table
from tests.pipeline_parts import HandClock
from tests.unit.pipeline.table.rows import add_job


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def table(tmp_path, clock):
    opened = open_table(tmp_path, clock=clock)
    yield opened
    opened.close()


def door_of(table, *, source=(), **pipeline) -> Door:
    limits = {"disk_reserve_gb": 0, "running_max": 2, "memory_gb": 1000} | pipeline
    return Door(Settings(source=list(source), pipeline=limits), table)


def inside(table) -> list[int]:
    return [job["id"] for job in lines.ready(table, 100)]


def test_turns_are_kept_from_look_to_look_and_by_another_door(table):
    for number in range(4):
        add_job(table, f"1.1.{number}", source="A", cost=10)
    for number in range(4):
        add_job(table, f"1.2.{number}", source="B", cost=10)
    order = []
    for _ in range(4):
        door_of(table).admit(slots=1)  # Another one each time, as after a restart.
        for job_id in inside(table):
            order.append(jobs.get(table, job_id)["calling_ae_title"])
            jobs.cancel(table, jobs.get(table, job_id), "ada")
    assert order == ["A", "B"] * 4


def test_those_let_in_at_one_look_keep_their_order(table):
    add_job(table, "1.1", priority=3)
    add_job(table, "1.2", source="B")
    add_job(table, "1.3", source="A", cost=5)
    add_job(table, "1.4", source="A", cost=5)
    door_of(table, running_max=10).admit(slots=1)
    assert inside(table) == [2, 3, 4, 1]
    admitted = [jobs.get(table, job_id)["admitted"] for job_id in (2, 3, 4, 1)]
    assert admitted == sorted(set(admitted))


def test_a_full_house_is_looked_at_once_a_second_and_new_heads_are_told(table, clock):
    for number in range(3):
        add_job(table, f"1.1.{number}")
    door = door_of(table)
    door.admit(slots=1)
    assert jobs.get(table, 3)["reason"] == "waits for room: 2 jobs may run at once"
    add_job(table, "1.2", source="B")
    door.admit(slots=1)
    assert jobs.get(table, 4)["reason"] == "waits for the throttler"
    clock.advance(EXPLAIN_S)
    door.admit(slots=1)
    assert jobs.get(table, 4)["reason"] == "waits for room: 2 jobs may run at once"
    assert len(inside(table)) == 2


def test_a_model_and_a_source_have_limits_of_their_own(table):
    add_job(table, "1.1", source="A", model="lungs")
    add_job(table, "1.2", source="A", model="lungs")
    add_job(table, "1.3", source="B")
    add_job(table, "1.4", source="B")
    add_job(table, "1.5", source="C")
    own = {"ae_title": "B", "running_max": 1}
    door_of(table, source=[own], running_max=9, models_max={"lungs": 1}, model="lungs").admit(
        slots=1
    )
    assert sorted(inside(table)) == [1, 3, 5]
    assert "1 job of lungs" in jobs.get(table, 2)["reason"]
    assert "1 job of B" in jobs.get(table, 4)["reason"]


def test_memory_and_disk_are_not_promised_twice(table, monkeypatch):
    add_job(table, "1.1", cost=100_000_000, input_bytes=0)
    add_job(table, "1.2", cost=100_000_000, input_bytes=0)
    door_of(table, memory_gb=1.0).admit(slots=1)
    assert inside(table) == [1]
    assert "waits for memory" in jobs.get(table, 2)["reason"]
    monkeypatch.setattr(door_module, "free_bytes", lambda _: 400_000_000)
    door_of(table).admit(slots=1)
    assert inside(table) == [1]
    assert "waits for disk space" in jobs.get(table, 2)["reason"]
    monkeypatch.setattr(door_module, "free_bytes", lambda _: 600_000_000)
    door_of(table).admit(slots=1)
    assert inside(table) == [1, 2]


def test_weights_are_kept_by_voxels(table, tmp_path: Path):
    for number in range(30):
        add_job(table, f"1.1.{number}", source="A", cost=10)
        add_job(table, f"1.2.{number}", source="B", cost=5)
    door = door_of(table, source=[{"ae_title": "A", "weight": 2.0}], running_max=24)
    door.admit(slots=1)
    got = {"A": 0, "B": 0}
    for job_id in inside(table):
        job = jobs.get(table, job_id)
        got[job["calling_ae_title"]] += job["cost"]
    assert got["A"] / got["B"] == pytest.approx(2.0, abs=0.25)
    assert shares.began(table, 2) > 0
