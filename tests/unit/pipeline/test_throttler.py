"""Properties of the throttler: its limits hold, and nobody starves."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from osteon.pipeline.throttler import Clocks, Inside, Limits, Needs, Waiting, advance, choose

SOURCES = ("CT1", "CT2", "RESEARCH", "")
MODELS = ("builtin:bone", "lungs")
PLENTY = 10**12


class House:
    """Lines of waiting jobs before the throttler, played without a table."""

    def __init__(self, waiting, inside=(), limits=None, free_bytes=PLENTY):
        self.waiting = list(waiting)
        self.inside = list(inside)
        self.limits = limits or Limits(8)
        self.free_bytes = free_bytes
        self.clocks: dict[int, Clocks] = {}
        self.held: dict[int, str] = {}

    def heads(self):
        lines: dict[tuple[str, str], Waiting] = {}
        for job in sorted(self.waiting, key=lambda job: (job.priority, job.job_id)):
            lines.setdefault((job.source, job.model), job)
        return list(lines.values())

    def admit_one(self) -> Waiting | None:
        heads = self.heads()
        chosen, self.held = choose(
            heads, Inside(self.inside), self.limits, self.free_bytes, self.clocks
        )
        if chosen is None:
            assert set(self.held) == {head.job_id for head in heads}
            assert all(self.held.values())
            return None
        clocks = self.clocks.get(chosen.priority, Clocks())
        began, served = advance(clocks, chosen, self.limits)
        self.clocks[chosen.priority] = Clocks(began, {**clocks.served, chosen.source: served})
        self.waiting.remove(chosen)
        self.inside.append(chosen)
        return chosen

    def admit(self) -> list[Waiting]:
        return list(iter(self.admit_one, None))

    def one_by_one(self, count: int) -> list[Waiting]:
        """Admit, and let each leave before the next."""
        admitted = []
        while len(admitted) < count:
            admitted.append(self.admit_one())
            self.inside.clear()
        return admitted


@st.composite
def jobs(draw, first=1, size=30):
    kinds = st.tuples(
        st.sampled_from(SOURCES),
        st.integers(0, 3),
        st.sampled_from(MODELS),
        st.integers(1, 9),
        st.integers(0, 9),
    )
    return [
        Waiting(first + i, source, priority, model, Needs(cost, memory, cost))
        for i, (source, priority, model, cost, memory) in enumerate(
            draw(st.lists(kinds, max_size=size))
        )
    ]


limit_tables = st.builds(
    Limits,
    running_max=st.integers(1, 12),
    models_max=st.dictionaries(st.sampled_from(MODELS), st.integers(1, 4)),
    sources_max=st.dictionaries(st.sampled_from(SOURCES), st.integers(1, 4)),
    weights=st.dictionaries(st.sampled_from(SOURCES), st.floats(0.1, 1000)),
    memory_bytes_max=st.none() | st.integers(1, 30),
    free_bytes_min=st.integers(0, 20),
)


@given(jobs(), limit_tables, st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_every_limit_holds_whatever_enters(waiting, limits, free_bytes):
    house = House(waiting, limits=limits, free_bytes=free_bytes)
    house.admit()
    inside = house.inside
    for priority in range(4):
        of_class = [job for job in inside if job.priority <= priority]
        assert len(of_class) <= limits.running_max * (priority + 1)
    for model, most in limits.models_max.items():
        assert sum(job.model == model for job in inside) <= most
    for source, most in limits.sources_max.items():
        assert sum(job.source == source for job in inside) <= most
    memory = sum(job.needs.memory_bytes for job in inside)
    crowd = [job for job in inside if job.needs.memory_bytes]
    assert limits.memory_bytes_max is None or len(crowd) <= 1 or memory <= limits.memory_bytes_max
    if inside:
        disk = sum(job.needs.disk_bytes for job in inside)
        assert free_bytes - disk >= limits.free_bytes_min


@given(jobs())
@settings(max_examples=200, deadline=None)
def test_no_class_overtakes_a_more_urgent_one(waiting):
    order = [job.priority for job in House(waiting, limits=Limits(1000)).admit()]
    assert order == sorted(order)


@given(jobs())
@settings(max_examples=200, deadline=None)
def test_a_line_keeps_its_own_order(waiting):
    admitted = House(waiting, limits=Limits(1000)).admit()
    assert len(admitted) == len(waiting)
    for line in {(job.source, job.model) for job in waiting}:
        mine = [job for job in admitted if (job.source, job.model) == line]
        assert mine == sorted(mine, key=lambda job: (job.priority, job.job_id))


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=80, max_size=80))
@settings(max_examples=50, deadline=None)
def test_backlogged_sources_share_by_cost_and_weight(costs):
    """The bound of the paper: no two differ by more than one job of each for its weight."""
    weights = {"A": 3.0, "B": 1.0}
    waiting = [
        Waiting(2 * i + (source == "B"), source, 2, "m", Needs(pair[source == "B"]))
        for i, pair in enumerate(costs)
        for source in weights
    ]
    house = House(waiting, limits=Limits(1, weights=weights))
    got = {"A": 0.0, "B": 0.0}
    for job in house.one_by_one(80):
        got[job.source] += job.needs.cost / weights[job.source]
        if {j.source for j in house.waiting} == {"A", "B"}:
            assert abs(got["A"] - got["B"]) <= 50 / 3 + 50


def test_a_dump_of_thousands_does_not_keep_out_one():
    dump = [Waiting(n, "RESEARCH", 2) for n in range(1, 2_000)]
    house = House([*dump, Waiting(20_001, "CT1", 2)])
    assert 20_001 in [job.job_id for job in house.admit()[:2]]


def test_a_newcomer_begins_now_and_is_owed_nothing():
    house = House([Waiting(n, "RESEARCH", 2, needs=Needs(10)) for n in range(1, 500)])
    house.one_by_one(100)
    house.waiting += [Waiting(1000 + n, "CT1", 2, needs=Needs(10)) for n in range(50)]
    sources = [job.source for job in house.one_by_one(40)]
    assert 19 <= sources.count("CT1") <= 21
    assert sources[:2].count("CT1") >= 1


def test_ten_of_a_third_are_interleaved():
    house = House([Waiting(n, "RESEARCH", 2) for n in range(1, 200)])
    house.one_by_one(50)
    house.waiting += [Waiting(1000 + n, "CT3", 2) for n in range(10)]
    order = [job.source for job in house.one_by_one(22)]
    assert [i for i, source in enumerate(order) if source == "CT3"][-1] <= 20


def test_equal_sources_with_small_and_large_series_get_the_same_voxels():
    waiting = [Waiting(n, "SMALL", 2, needs=Needs(1)) for n in range(1, 2000)]
    waiting += [Waiting(n, "LARGE", 2, needs=Needs(10)) for n in range(5000, 5200)]
    order = Counter(job.source for job in House(waiting).one_by_one(220))
    assert order["SMALL"] / order["LARGE"] > 9


def test_emergency_enters_though_the_house_is_full_of_routine():
    routine = [Waiting(n, "CT1", 2) for n in range(1, 9)]
    house = House([Waiting(20, "CT1", 2), Waiting(21, "CT1", 0)], inside=routine)
    assert [job.job_id for job in house.admit()] == [21]
    assert house.held == {20: "waits for room: 8 jobs may run at once"}


def test_emergencies_are_limited_too():
    stat = [Waiting(n, "CT1", 0) for n in range(1, 9)]
    house = House([Waiting(21, "CT1", 0)], inside=stat)
    assert house.admit() == []


def test_a_line_at_its_own_limit_is_passed_over():
    limits = Limits(8, models_max={"lungs": 1}, sources_max={"CT2": 1})
    inside = [Waiting(1, "CT1", 2, "lungs"), Waiting(2, "CT2", 2, "bone")]
    waiting = [Waiting(3, "CT1", 0, "lungs"), Waiting(4, "CT2", 0, "bone")]
    house = House([*waiting, Waiting(5, "CT1", 3, "bone")], inside, limits)
    assert [job.job_id for job in house.admit()] == [5]
    assert house.held == {
        3: "waits for its model: 1 job of lungs may run at once",
        4: "waits for its source: 1 job of CT2 may run at once",
    }


def test_a_large_job_is_not_overtaken_while_it_waits_for_memory():
    gigabyte = 10**9
    limits = Limits(8, memory_bytes_max=4 * gigabyte)
    inside = [Waiting(1, "CT1", 2, needs=Needs(1, 2 * gigabyte))]
    large = Waiting(2, "CT2", 2, needs=Needs(1, 3 * gigabyte))
    small = Waiting(3, "CT3", 2, needs=Needs(1, 1))
    house = House([large, small], inside, limits)
    assert house.admit() == []
    why = "waits for memory: it needs 3.0 of the 4.0 GB that jobs share"
    assert house.held == {2: why, 3: f"waits for its turn: the next job {why}"}
    house.inside.clear()
    assert [job.job_id for job in house.admit()] == [2, 3]


def test_what_is_larger_than_all_memory_runs_alone():
    house = House([Waiting(1, "CT1", 2, needs=Needs(1, 9))], limits=Limits(8, memory_bytes_max=4))
    assert [job.job_id for job in house.admit()] == [1]


def test_nothing_enters_that_would_eat_into_the_disk_reserve():
    gigabyte = 10**9
    limits = Limits(8, free_bytes_min=2 * gigabyte)
    inside = [Waiting(1, "CT1", 2, needs=Needs(1, 0, gigabyte))]
    house = House([Waiting(2, "CT1", 0, needs=Needs(1, 0, gigabyte))], inside, limits, 3 * gigabyte)
    assert house.admit() == []
    assert house.held == {2: "waits for disk space: it needs 1.0 GB beside the 2.0 GB kept free"}
    house.free_bytes = 4 * gigabyte
    assert [job.job_id for job in house.admit()] == [2]
