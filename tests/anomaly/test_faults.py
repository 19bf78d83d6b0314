"""Crash proof: whatever the fault, what was acknowledged is there, whole and on record.

A sample of ``bench/faults.py``, with the same parts.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.anomaly import weakened
from tests.anomaly.disk import Cut, Disk
from tests.anomaly.evidence import broken_promises
from tests.anomaly.injection import INSTANCES, Fault, Trial, crashes, errors, kills, starts
from tests.anomaly.power import Recording, record
from tests.anomaly.sender import SUCCESS
from tests.anomaly.trace import Call, read_calls
from tests.tools import require_tool

SEED = 20


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    require_tool("/usr/bin/strace")
    return record(tmp_path_factory.mktemp("recorded") / "role", instances=INSTANCES)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    trial = Trial(tmp_path_factory.mktemp("trial"), seed=SEED)
    yield trial
    trial.close()


def test_every_write_is_seen(recording: Recording) -> None:
    """What is replayed is what is on the disk, so no cut can be judged by half of the writes."""
    assert recording.model_faults() == []
    assert set(recording.ledger.statuses) == {SUCCESS}


def test_power_cuts_lose_nothing(recording: Recording, tmp_path: Path) -> None:
    verdicts = list(recording.cuts(80, SEED, tmp_path))

    assert [(v.fault, v.broken) for v in verdicts if v.broken] == []
    assert len(verdicts) == 80
    assert max(v.acknowledged for v in verdicts) > INSTANCES


def test_power_cuts_lose_nothing_even_without_the_table(
    recording: Recording, tmp_path: Path
) -> None:
    verdicts = list(recording.forgetful_cuts(15, SEED, tmp_path))

    assert [(v.fault, v.broken) for v in verdicts if v.broken] == []
    assert max(v.acknowledged for v in verdicts) > INSTANCES


@pytest.mark.parametrize("kind", weakened.KINDS)
def test_power_cuts_catch_a_receiver_with_a_safeguard_less(kind: str, tmp_path: Path) -> None:
    require_tool("/usr/bin/strace")
    recording = record(tmp_path / "role", instances=2 * INSTANCES, entry=weakened.entry(kind))

    assert any(verdict.broken for verdict in recording.cuts(60, SEED, tmp_path))


@pytest.mark.parametrize(
    ("make", "count"),
    [(kills, 6), (errors, 6), (starts, 3), (lambda _: crashes(), 3)],
    ids=["killed in a call", "disk error", "killed at start", "killed at random"],
)
def test_a_role_that_is_hurt_loses_nothing(
    recording: Recording, trial: Trial, make: Callable[[Recording], list[Fault]], count: int
) -> None:
    listed = make(recording)
    order = random.Random(SEED).sample(listed, len(listed))
    verdicts = itertools.islice(filter(None, map(trial.run, order)), count)
    seen = list(verdicts)

    assert [(v.fault, v.broken) for v in seen if v.broken] == []
    assert len(seen) == count


def test_kill_9_catches_a_receiver_that_answers_too_soon(tmp_path: Path) -> None:
    trial = Trial(tmp_path, entry=weakened.entry("late-record"), seed=SEED)
    try:
        verdicts = [trial.run(fault) for fault in crashes()[1:4]]
    finally:
        trial.close()

    assert any(verdict is not None and verdict.broken for verdict in verdicts)


def test_a_torn_file_is_caught(tmp_path: Path) -> None:
    (tmp_path / "spool" / "s").mkdir(parents=True)
    (tmp_path / "spool" / "s" / f"{'0' * 64}.dcm").write_bytes(b"\0" * 200)

    assert [why.split(":")[0] for why in broken_promises(tmp_path, {("1.2", "0")})] == [
        "torn",
        "lost",
    ]


def _hex(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def test_a_call_counts_when_it_takes_effect(tmp_path: Path) -> None:
    """Of two threads: a closed number is free at once, synced is only what came back."""
    path = _hex("/d/a")
    (tmp_path / "log").write_text(
        "1  close(7</d/old> <unfinished ...>\n"
        f"2  openat(AT_FDCWD</>, {path}, O_RDWR) = 7</d/a>\n"
        "1  <... close resumed>)              = 0\n"
        f"2  fsync(7<{path}> <unfinished ...>\n"
        f"1  unlink({path}) = -1 ENOENT (No such file or directory)\n"
        '1  sendto(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, "\\x04", 1, 0, NULL, 0 <unfinished ...>\n'
        "2  <... fsync resumed>)              = 0\n"
        "1  <... sendto resumed>)             = 1\n"
        "2  +++ exited with 0 +++\n"
    )
    calls = [(call.thread, call.name) for call in read_calls(tmp_path / "log")]

    assert calls == [(1, "close"), (2, "openat"), (1, "sendto"), (2, "fsync")]


@pytest.mark.parametrize(
    ("synced", "survives"),
    [((), {}), (("file",), {}), (("folder",), {"a": b""}), (("file", "folder"), {"a": b"xyz"})],
)
def test_a_file_survives_when_it_and_its_name_are_synced(
    tmp_path: Path, synced: tuple[str, ...], survives: dict[str, bytes]
) -> None:
    disk = Disk(tmp_path)
    calls = [
        ("openat", ("AT_FDCWD", _hex(f"{tmp_path}/a"), "O_WRONLY|O_CREAT"), 3),
        ("write", ("3<a>", _hex("xyz"), "3"), 3),
        ("openat", ("AT_FDCWD", _hex(str(tmp_path)), "O_RDONLY"), 4),
    ]
    calls += [("fsync", ("3<a>" if what == "file" else "4<b>",), 0) for what in synced]
    for name, arguments, result in calls:
        disk.apply(Call(1, name, arguments, result))

    disk.image(tmp_path / "image", Cut.NOTHING)
    found = {path.name: path.read_bytes() for path in (tmp_path / "image").iterdir()}
    assert found == survives
