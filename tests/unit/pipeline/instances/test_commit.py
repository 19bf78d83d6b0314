"""Group commit: one alone is not delayed, many share, and nobody waits for ever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from osteon.errors import OutOfResourcesError, TableError
from osteon.pipeline.instances import commit as commit_module
from osteon.pipeline.instances.commit import GroupCommit
from tests.tools import wait_until


class Disk:
    """Commits when it is let."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)

    def commit(self, items):
        self.batches.append(list(items))
        self.begun.release()
        assert self.gate.wait(10)
        return [-item for item in items]


@pytest.fixture
def disk():
    return Disk()


def test_one_alone_commits_in_its_own_thread(disk):
    threads = []
    disk.gate.set()

    def commit(items):
        threads.append(threading.get_ident())
        return disk.commit(items)

    commits = GroupCommit(commit)
    assert [commits.run(n) for n in (1, 2)] == [-1, -2]
    assert disk.batches == [[1], [2]]
    assert threads == [threading.get_ident()] * 2


def test_who_comes_while_one_commits_shares_the_next(disk):
    commits = GroupCommit(disk.commit)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(commits.run, 1)
        disk.begun.acquire(timeout=10)
        others = [pool.submit(commits.run, n) for n in range(2, 10)]
        wait_until(lambda: len(commits._waiting) == 8)
        disk.gate.set()
        assert first.result(10) == -1
        assert [other.result(10) for other in others] == [-n for n in range(2, 10)]
    assert [sorted(batch) for batch in disk.batches] == [[1], list(range(2, 10))]


def test_a_batch_is_limited(disk, monkeypatch):
    monkeypatch.setattr(commit_module, "BATCH_MAX", 3)
    commits = GroupCommit(disk.commit)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(commits.run, 1)
        disk.begun.acquire(timeout=10)
        others = [pool.submit(commits.run, n) for n in range(2, 9)]
        wait_until(lambda: len(commits._waiting) == 7)
        disk.gate.set()
        assert {first.result(10), *(other.result(10) for other in others)} == set(range(-8, 0))
    assert [len(batch) for batch in disk.batches] == [1, 3, 3, 1]


@pytest.mark.parametrize("error", [OutOfResourcesError("full"), ZeroDivisionError("a bug")])
def test_what_the_commit_raises_everybody_gets_and_the_next_is_served(error):
    begun, gate = threading.Event(), threading.Event()

    def commit(items):
        begun.set()
        assert gate.wait(10)
        if len(items) > 1:
            raise error
        return items

    commits = GroupCommit(commit)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(commits.run, 1)
        assert begun.wait(10)
        others = [pool.submit(commits.run, n) for n in (2, 3, 4)]
        wait_until(lambda: len(commits._waiting) == 3)
        gate.set()
        assert first.result(10) == 1
        assert [type(other.exception(10)) for other in others] == [type(error)] * 3
    assert commits.run(5) == 5


def test_nobody_waits_for_ever(disk, monkeypatch):
    monkeypatch.setattr(commit_module, "WAIT_S", 0.05)
    commits = GroupCommit(disk.commit)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(commits.run, 1)
        disk.begun.acquire(timeout=10)
        with pytest.raises(TableError, match="nothing could be committed"):
            commits.run(2)
        disk.gate.set()
        assert first.result(10) == -1
    assert commits.run(3) == -3
    assert disk.batches == [[1], [3]]


def test_many_threads_each_get_their_own_result():
    sizes = []

    def commit(items):
        sizes.append(len(items))
        return [item * 2 for item in items]

    commits = GroupCommit(commit)

    def work(worker):
        return [commits.run(1000 * worker + n) for n in range(300)]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert results == [[2 * (1000 * worker + n) for n in range(300)] for worker in range(8)]
    assert sum(sizes) == 2400
