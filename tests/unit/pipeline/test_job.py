"""The transition table: its full product, invalid pairs included."""

import itertools
import re
from importlib import resources

import pytest

from osteon.pipeline.job import (
    TRANSITIONS,
    WORKER_STAGES,
    Event,
    Stage,
    State,
    Status,
    next_state,
    progress_of,
    status_of,
)

UNFINISHED = {State.WAITING, State.RUNNING, State.BACKOFF}
# What may happen in each state, written down a second time and by state, as a reader asks for it.
MAY_HAPPEN = {
    State.WAITING: {
        Event.ADMIT,
        Event.CLAIM,
        Event.PRIORITIZE,
        Event.COMPLETE,
        Event.FAIL,
        Event.REJECT,
        Event.CANCEL,
        Event.SUPERSEDE,
    },
    State.RUNNING: {
        Event.FINISH,
        Event.RETRY,
        Event.RESCUE,
        Event.FAIL,
        Event.REJECT,
        Event.CANCEL,
        Event.SUPERSEDE,
    },
    State.BACKOFF: {Event.RESUME, Event.CANCEL, Event.SUPERSEDE, Event.PRIORITIZE},
    State.DONE: {Event.RERUN, Event.REROUTE},
    State.FAILED: {Event.RERUN, Event.REROUTE},
    State.REJECTED: {Event.RERUN, Event.REROUTE},
    State.CANCELLED: {Event.RERUN, Event.REROUTE},
    State.SUPERSEDED: {Event.RESTORE},
}


@pytest.mark.parametrize(("state", "event"), [*itertools.product(State, Event)])
def test_full_product_of_states_and_events(state, event):
    assert (next_state(state, event) is not None) == (event in MAY_HAPPEN[state])


def test_only_a_person_leaves_a_final_state_and_the_observer_what_was_superseded():
    leaving = {(state, event) for (state, event) in TRANSITIONS if state.final}
    by_people = {event for state, event in leaving if state is not State.SUPERSEDED}
    assert by_people == {Event.RERUN, Event.REROUTE}
    assert {event for state, event in leaving if state is State.SUPERSEDED} == {Event.RESTORE}
    assert {state for state in State if not state.final} == UNFINISHED


def test_every_state_is_reached_and_every_event_means_something():
    assert set(TRANSITIONS.values()) == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_a_person_can_stop_whatever_is_not_over():
    for state in UNFINISHED:
        assert next_state(state, Event.CANCEL) is State.CANCELLED
        assert next_state(state, Event.SUPERSEDE) is State.SUPERSEDED


@pytest.mark.parametrize("enum", [Stage, State])
def test_checks_of_the_schema_mirror_the_enums(enum):
    sql = resources.files("osteon.pipeline.table").joinpath("0001_route.sql").read_text()
    job = sql[sql.index("CREATE TABLE job") :]
    column = enum.__name__.lower()
    listed = re.search(rf"\b{column}\s+TEXT NOT NULL CHECK \({column} IN \(([^)]*)\)", job)
    assert re.findall(r"'(\w+)'", listed[1]) == [member.value for member in enum]


def test_stages_follow_each_other():
    assert [stage.next for stage in Stage] == [*list(Stage)[1:], None]
    assert WORKER_STAGES == (Stage.PREDICTION, Stage.BONESEG, Stage.ENCODE)


@pytest.mark.parametrize(("stage", "state"), [*itertools.product(Stage, State)])
def test_status_and_progress_are_total(stage, state):
    assert status_of(stage, state) in set(Status) - {Status.RECEIVING}
    assert 0.0 <= progress_of(stage, state) <= 1.0


@pytest.mark.parametrize(
    ("stage", "state", "status"),
    [
        (Stage.ADMISSION, State.WAITING, Status.WAITING),
        (Stage.PREDICTION, State.WAITING, Status.WAITING),
        (Stage.PREDICTION, State.BACKOFF, Status.WAITING),
        (Stage.PREDICTION, State.RUNNING, Status.RUNNING),
        (Stage.BONESEG, State.WAITING, Status.RUNNING),
        (Stage.BONESEG, State.BACKOFF, Status.RUNNING),
        (Stage.ENCODE, State.RUNNING, Status.RUNNING),
        (Stage.DELIVER, State.WAITING, Status.DELIVERING),
        (Stage.DELIVER, State.DONE, Status.DONE),
        (Stage.DELIVER, State.FAILED, Status.FAILED),
        (Stage.BONESEG, State.CANCELLED, Status.FAILED),
        (Stage.ADMISSION, State.REJECTED, Status.REJECTED),
        (Stage.ENCODE, State.SUPERSEDED, Status.REJECTED),
    ],
)
def test_status_of_what_people_see(stage, state, status):
    assert status_of(stage, state) is status


def test_progress_grows_along_the_route():
    along = [progress_of(stage, State.WAITING) for stage in Stage]
    assert along == sorted(set(along))
    assert progress_of(Stage.DELIVER, State.DONE) == 1.0
