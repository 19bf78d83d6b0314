"""What a stage tells of its progress, and what of it is heard."""

import threading

import pytest

from osteon.pipeline.progress import heard_by, part, tell


def test_what_nobody_hears_costs_nothing():
    tell(1, 2)
    with part(0.0, 0.5):
        tell(1, 2)


def test_parts_of_parts_are_fractions_of_the_whole():
    heard: list[float] = []
    with heard_by(heard.append):
        with part(0.0, 0.5):
            tell(1, 2)
            with part(0.5, 1.0):
                tell(2, 4)
        tell(3, 4)
    tell(4, 4)
    assert heard == pytest.approx([0.25, 0.375, 0.75])


def test_a_part_ends_where_its_block_fails():
    heard: list[float] = []
    with heard_by(heard.append):
        with pytest.raises(ValueError, match="no"), part(0.0, 0.1):
            raise ValueError("no")
        tell(1, 1)
    assert heard == [1.0]


def test_two_threads_are_heard_apart():
    heard: dict[str, list[float]] = {"a": [], "b": []}
    both = threading.Barrier(2, timeout=10)

    def run(name: str, done: int) -> None:
        with heard_by(heard[name].append):
            both.wait()
            tell(done, 4)
            both.wait()

    threads = [threading.Thread(target=run, args=of) for of in (("a", 1), ("b", 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert heard == {"a": [0.25], "b": [0.75]}
