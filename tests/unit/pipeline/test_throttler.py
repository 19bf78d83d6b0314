"""Properties of the throttler: its limits hold, and nobody starves."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from osteon.pipeline.throttler import Limits, Waiting, admit

SOURCES = ("CT1", "CT2", "RESEARCH", "")
PLENTY = 10**12


def limits(running_max=8, weights=None, free_bytes_min=0):
    return Limits(running_max, free_bytes_min, weights or {})


@st.composite
def lines(draw):
    """The head of every source's line, each in its own order: by class, then by age."""
    jobs = draw(st.lists(st.tuples(st.sampled_from(SOURCES), st.integers(0, 3)), max_size=30))
    numbered = [Waiting(i + 1, source, priority) for i, (source, priority) in enumerate(jobs)]
    return sorted(numbered, key=lambda job: (job.source, job.priority, job.job_id))


running_jobs = st.dictionaries(st.sampled_from(SOURCES), st.integers(0, 12))
weight_tables = st.dictionaries(st.sampled_from(SOURCES), st.floats(0.1, 1000))


@given(lines(), running_jobs, st.integers(1, 20), weight_tables)
@settings(max_examples=300, deadline=None)
def test_limits_hold_and_room_is_used(waiting, running, running_max, weights):
    answer = admit(waiting, running, PLENTY, limits(running_max, weights))
    room = max(0, running_max - sum(running.values()))
    assert len(answer.admitted) == min(room, len(waiting))
    assert len(set(answer.admitted)) == len(answer.admitted)
    assert set(answer.admitted) <= {job.job_id for job in waiting}
    assert bool(answer.held) == (len(answer.admitted) < len(waiting))


@given(lines(), running_jobs, st.integers(1, 20), weight_tables)
@settings(max_examples=300, deadline=None)
def test_no_class_overtakes_a_more_urgent_one(waiting, running, running_max, weights):
    admitted = set(admit(waiting, running, PLENTY, limits(running_max, weights)).admitted)
    inside = [job.priority for job in waiting if job.job_id in admitted]
    outside = [job.priority for job in waiting if job.job_id not in admitted]
    assert max(inside, default=0) <= min(outside, default=3)


@given(lines(), running_jobs, st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_a_source_keeps_its_own_order(waiting, running, running_max):
    answer = admit(waiting, running, PLENTY, limits(running_max))
    for source in SOURCES:
        line = [job.job_id for job in waiting if job.source == source]
        mine = [job_id for job_id in answer.admitted if job_id in line]
        assert mine == line[: len(mine)]


def test_twenty_thousand_series_do_not_keep_out_one():
    dump = [Waiting(n, "RESEARCH", 2) for n in range(1, 20_001)]
    started = time.perf_counter()
    answer = admit([*dump, Waiting(20_001, "CT1", 2)], {"RESEARCH": 7}, PLENTY, limits())
    assert answer.admitted == (20_001,)
    assert time.perf_counter() - started < 2.0


def test_a_lone_slot_is_shared_in_turns():
    """With one job at a time nothing is inside when the next is chosen: turns must be taken."""
    line = {"RESEARCH": list(range(1, 100)), "CT1": [1000, 1001, 1002]}
    served: dict[str, float] = {}
    taken = []
    for turn in range(6):
        waiting = [Waiting(i, source, 2) for source, ids in line.items() for i in ids]
        (chosen,) = admit(waiting, {}, PLENTY, limits(running_max=1), served).admitted
        source = "CT1" if chosen >= 1000 else "RESEARCH"
        line[source].remove(chosen)
        served[source] = float(turn + 1)
        taken.append(source)
    assert taken.count("CT1") == 3


def test_weights_share_a_full_house():
    inside = {"A": 0, "B": 0}
    ids = iter(range(1, 1000))
    waiting = [Waiting(next(ids), source, 2) for source in ("A", "B") for _ in range(40)]
    answer = admit(waiting, inside, PLENTY, limits(40, {"A": 3.0, "B": 1.0}))
    source_of = {job.job_id: job.source for job in waiting}
    assert [source_of[i] for i in answer.admitted].count("A") == 30


def test_emergency_goes_first_whatever_its_source_has():
    waiting = [Waiting(1, "CT2", 2), Waiting(2, "CT1", 0)]
    answer = admit(waiting, {"CT1": 6}, PLENTY, limits(7))
    assert answer.admitted == (2,)
    assert answer.held == "waits for room: 7 of 7 jobs are running"


def test_nothing_enters_below_the_disk_reserve():
    answer = admit([Waiting(1, "CT1", 0)], {}, 5 * 10**8, limits(free_bytes_min=10**9))
    assert answer.admitted == ()
    assert answer.held == "waits for disk space: 0.5 GB are free"
    assert admit([], {}, 0, limits(free_bytes_min=10**9)).held == ""
