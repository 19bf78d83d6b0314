"""Faults of a running role: killed in the middle of a system call, or told that the disk fails.

`Fault`s enter, a `Verdict` on each leaves: after it the role is started again, and all that was
ever acknowledged must be there. Used by the tests and the benchmark.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.anomaly.evidence import broken_promises, left_behind
from tests.anomaly.power import Recording, Verdict
from tests.anomaly.role import PRODUCT, Role, RoleError
from tests.anomaly.sender import (
    Factory,
    Ledger,
    NotServedError,
    Sender,
    send_all,
    wait_until_served,
)
from tests.anomaly.trace import KILL, injected, injections, killer
from tests.tools import wait_until

SENDERS, INSTANCES = 3, 4
RESUMES_S = 10.0
FRESH_AFTER = 40  # Faults on one data directory, so that the checks stay short.
ERRORS = ("error=EIO", "error=ENOSPC")
KILLED_IN = ("fsync", "fdatasync", "link", "unlink", "pwrite64", "write", "openat", "sendto")
FAILING = ("fsync", "fdatasync", "link", "pwrite64", "write", "openat", "mkdir")
STARTING = ("mkdir", "pwrite64", "fsync", "ftruncate", "unlink")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    call : str
        The system call that fails; empty where the process is killed from outside.
    when : int
        The n-th such call of a thread; of a kill from outside, after how many answers.
    at_start : bool
        While the role starts, instead of while it receives.
    """

    kind: str
    call: str
    what: str
    when: int
    at_start: bool = False

    def __str__(self) -> str:
        where = f"{self.call} {self.when}" if self.call else f"{self.when} answers"
        return f"{self.kind} at {where} ({self.what})"


def kills(recording: Recording) -> list[Fault]:
    """Killed in every call that a thread of the receiver makes."""
    return [Fault("killed in a call", call, KILL, when)
            for call, when in _calls(recording, KILLED_IN)]  # fmt: skip


def errors(recording: Recording) -> list[Fault]:
    """Every call that writes fails, in turn, for want of space or of a sound disk."""
    return [Fault("disk error", call, what, when)
            for call, when in _calls(recording, FAILING) for what in ERRORS]  # fmt: skip


def starts(recording: Recording) -> list[Fault]:
    """Killed in every call that changes the disk while it starts on an empty one."""
    main = recording.calls[0].thread
    until = next(at for at, call in enumerate(recording.calls) if call.is_to_peer)
    counts = Counter(c.name for c in recording.calls[:until] if c.thread == main)
    return [Fault("killed at start", call, KILL, when, at_start=True)
            for call in STARTING for when in range(1, counts[call] + 1)]  # fmt: skip


def crashes() -> list[Fault]:
    """Killed from outside, at any moment."""
    return [Fault("killed at random", "", KILL, n) for n in range(SENDERS * INSTANCES)]


def _calls(recording: Recording, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """How often one thread made each call while it received the instances of one fault."""
    counts = Counter((c.thread, c.name) for c in recording.calls if c.thread != c.process)
    for name in names:
        most = max((n for (_, called), n in counts.items() if called == name), default=0)
        sent = max(map(len, recording.sent.values()))
        for when in range(1, max(1, most * INSTANCES // sent) + 1):
            yield name, when


class Trial:
    """A role that goes from fault to fault."""

    def __init__(self, folder: Path, *, entry: Sequence[str] = PRODUCT, seed: int = 0) -> None:
        self._folder, self._entry = folder, entry
        self._chance = random.Random(seed)
        self._factory = Factory("1.2.826.0.2")
        self._faults = 0
        self._role: Role | None = None
        self._ledger = Ledger()

    def close(self) -> None:
        """End the role and remove what it stored."""
        if self._role is not None:
            self._role.kill()
            shutil.rmtree(self._role.data_dir)
            self._role = None

    def run(self, fault: Fault) -> Verdict | None:
        """Let one fault happen; None where the role never came to that call."""
        role = self._prepared(fault)
        self._faults += 1
        before = len(self._ledger.acknowledged)
        happened, broken = (
            self._start(role, fault) if fault.at_start else self._receive(role, fault)
        )
        role.kill()
        try:
            role.start()
            broken += [f"left behind: {path.name}" for path in left_behind(role.data_dir)]
            self._serve(role)
            broken += broken_promises(role.data_dir, self._ledger.acknowledged)
        except (RoleError, NotServedError) as error:
            broken.append(f"after a new start: {error}")
        if broken:
            self.close()  # The next fault shall not be blamed for it.
        elif not happened:
            return None
        return Verdict(str(fault), len(self._ledger.acknowledged) - before, broken)

    def _serve(self, role: Role) -> None:
        """Store one instance; the role must be able to."""
        instance = self._factory.series(1)[0]
        self._ledger.add([wait_until_served(role.port, instance, RESUMES_S)])

    def _prepared(self, fault: Fault) -> Role:
        if self._role is None or self._faults % FRESH_AFTER == 0 or fault.at_start:
            self.close()
            self._ledger = Ledger()
            data_dir = self._folder / f"data{self._faults}"
            data_dir.mkdir()
            self._role = Role(data_dir, entry=self._entry)
        if not fault.at_start and not self._role.runs():
            self._role.start()
        return self._role

    def _start(self, role: Role, fault: Fault) -> tuple[bool, list[str]]:
        role.kill()
        try:
            role.start(killer(fault.call, fault.when))
        except RoleError:
            return True, []
        return False, []

    def _receive(self, role: Role, fault: Fault) -> tuple[bool, list[str]]:
        batches = [self._factory.series(INSTANCES) for _ in range(SENDERS)]
        if not fault.call:
            self._ledger.add(self._kill_among(role, batches, fault.when))
            return True, []
        log = role.data_dir.with_name("injected")
        pids = role.pids
        with injected(pids, fault.call, f"{fault.what}:when={fault.when}", log):
            ledger = Ledger()
            ledger.add(send_all(role.port, batches))
            if fault.what == KILL:
                happened = not role.runs() or role.pids != pids
        self._ledger.acknowledged |= ledger.acknowledged
        if fault.what == KILL:
            return happened, []
        if not role.runs():
            return True, ["the role ended"]
        try:
            self._serve(role)
        except NotServedError as error:
            return True, [f"after the fault: {error}"]
        return injections(log) > 0, ledger.unexpected()

    def _kill_among(self, role: Role, batches: Sequence[Sequence], answers: int) -> list[Sender]:
        senders = [Sender(role.port, batch) for batch in batches]
        for sender in senders:
            sender.start()
        wait_until(lambda: sum(len(s.answered) for s in senders) >= answers, every_s=0.0005)
        time.sleep(self._chance.uniform(0, 0.005))  # Anywhere in the next instance.
        os.kill(self._chance.choice(role.pids), signal.SIGKILL)
        role.kill()
        for sender in senders:
            sender.join(RESUMES_S)
        return senders
