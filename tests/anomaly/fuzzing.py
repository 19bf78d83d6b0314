"""Throw malformed PDUs and data sets at a receive role, and watch whether it lives.

A running role, a seed and a count enter; a `Catch` leaves: what was answered, and every way in
which the role was hurt. Used by ``bench/fuzz.py`` and the test beside this file.
"""

import random
import select
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.anomaly.evidence import broken_promises
from tests.anomaly.mutations import SYNTAXES, UID, Mutator, own_dataset
from tests.anomaly.role import Role
from tests.anomaly.sender import SUCCESS, Instance
from tests.dicom_peer import CT, AbortedError, RawPeer, RejectedError

THREADS = 3
HANG_S = 10.0  # A connection that nothing more comes over is over long before.
ANSWER_S = 0.2  # To an A-ASSOCIATE-RQ, if it is one.
WATCH_S = 0.5
WARM_UP = 0.02  # Of all, before the memory is what it is compared with.
CONTEXTS_MAX = 100
FOREIGN = "Traceback (most recent call last)"

DataSet = tuple[str, str, str, bytes]


@dataclass
class Catch:
    """What came of it."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    base_kib: int = 0
    most_kib: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Most memory by memory after warming up."""
        return self.most_kib / self.base_kib if self.base_kib else 0.0


def own_datasets() -> list[DataSet]:
    """Data sets of our own, one in each native syntax."""
    return [(CT, UID, syntax, own_dataset(syntax)) for syntax in SYNTAXES]


class _Fuzzer:
    """What both kinds share: the count, the memory, and what to do where something is wrong."""

    def __init__(self, role: Role, count: int, seed: int) -> None:
        self.role, self.count, self.seed = role, count, seed
        self.catch = Catch()
        self._lock = threading.Lock()
        self._watched = 0.0
        self._logged = role.log.stat().st_size

    def note(self, sent: int, answer: str, took_s: float) -> bool:
        """Count an answer and return whether to go on."""
        catch = self.catch
        with self._lock:
            catch.sent += sent
            catch.answers[answer] += 1
            catch.slowest_s = max(catch.slowest_s, took_s)
            if time.monotonic() - self._watched > WATCH_S and not catch.failures:
                self._watched = time.monotonic()
                if not self.role.runs():
                    catch.failures.append("the role ended")
                    return False
                catch.most_kib = max(catch.most_kib, self.role.memory_kib())
                if catch.sent < WARM_UP * self.count or not catch.base_kib:
                    catch.base_kib = catch.most_kib
            return catch.sent < self.count and not catch.failures

    def fail(self, why: str, raw: bytes) -> None:
        """Record a failure and keep the input that made it."""
        with self._lock:
            number = len(self.catch.failures)
            path = Path(tempfile.gettempdir()) / f"osteon-fuzz-{self.seed}-{number}.bin"
            path.write_bytes(raw)
            self.catch.failures.append(f"{why}: the input is in {path}")

    def finish(self) -> Catch:
        """Look at the role once more and return the catch."""
        catch = self.catch
        if not self.role.runs() or not self.role.listens():
            catch.failures.append("the role ended")
        if FOREIGN in self.role.log.read_bytes()[self._logged :].decode(errors="replace"):
            catch.failures.append(f"an exception that nobody foresaw, in {self.role.log}")
        return catch


class PduFuzzer(_Fuzzer):
    """Streams of PDUs, of which most are broken."""

    def __init__(
        self, role: Role, count: int, seed: int, streams: Sequence[Sequence[bytes]]
    ) -> None:
        super().__init__(role, count, seed)
        self._streams = streams

    def run(self) -> Catch:
        """Send so many broken PDUs over as many connections as it takes."""
        workers = [threading.Thread(target=self._work, args=(n,)) for n in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return self.finish()

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")
        mutator = Mutator(chance)
        goes_on = True
        while goes_on:
            pdus, broken = self._stream(chance, mutator)
            started = time.monotonic()
            try:
                answer = self._exchange(pdus)
            except TimeoutError:
                self.fail(f"the connection was left open for {HANG_S:g} s", b"".join(pdus))
                return
            except ConnectionRefusedError:
                self.fail("nobody listens any more", b"".join(pdus))
                return
            goes_on = self.note(broken, answer, time.monotonic() - started)

    def _stream(self, chance: random.Random, mutator: Mutator) -> tuple[list[bytes], int]:
        """PDUs, and how many of them are broken."""
        pdus = list(chance.choice(self._streams))
        is_early = chance.random() < 0.2  # Else the association is accepted, and more is reached.
        broken = 0
        for at, pdu in enumerate(pdus):
            if (at == 0) == is_early and chance.random() < 0.7:
                pdus[at] = mutator.broken(pdu)
                broken += pdus[at] != pdu
        if chance.random() < 0.1:
            chance.shuffle(pdus)
        return pdus, broken

    def _exchange(self, pdus: Sequence[bytes]) -> str:
        """Send them, end, and read what kinds of PDUs come back until the connection is closed.

        As the Standard wants it, the first one is answered before the others follow, if at all.
        """
        kinds, answer = set(), b""
        with socket.create_connection(("127.0.0.1", self.role.port), HANG_S) as sock:
            try:
                sock.sendall(pdus[0])
                if select.select([sock], [], [], ANSWER_S)[0]:
                    answer = sock.recv(65536)
                sock.sendall(b"".join(pdus[1:]))
                sock.shutdown(socket.SHUT_WR)
            except TimeoutError:
                raise
            except OSError:  # It was closed by the other side already.
                pass
            with suppress(ConnectionError):
                while chunk := sock.recv(65536):
                    answer += chunk
            while len(answer) >= 6:
                kinds.add(answer[0])
                answer = answer[6 + int.from_bytes(answer[2:6]) :]
        return "+".join(f"{kind:02x}" for kind in sorted(kinds)) or "closed"


class DataSetFuzzer(_Fuzzer):
    """Well-formed messages with broken data sets, over associations that must live through it."""

    def __init__(self, role: Role, count: int, seed: int, datasets: Sequence[DataSet]) -> None:
        super().__init__(role, count, seed)
        kinds = sorted({(sop_class, syntax) for sop_class, _, syntax, _ in datasets})
        self._contexts = kinds[:CONTEXTS_MAX]
        self._datasets = [d for d in datasets if (d[0], d[2]) in self._contexts]

    def run(self) -> Catch:
        """Send so many broken data sets; those that are taken must be kept."""
        chance = random.Random(self.seed)
        mutator, acknowledged, goes_on = Mutator(chance), set(), True
        while goes_on:
            sop_class, uid, syntax, raw = chance.choice(self._datasets)
            broken = mutator.broken(raw)
            context_id = 2 * self._contexts.index((sop_class, syntax)) + 1
            started = time.monotonic()
            try:
                status, _ = self._peer().store(
                    broken, uid, sop_class=sop_class, context_id=context_id
                )
            except (OSError, AbortedError) as error:
                self.fail(f"no status but {error!r}", broken)
                break
            if status == SUCCESS:
                acknowledged.add(Instance(uid, broken).key)
            goes_on = self.note(1, f"{status:#06x}", time.monotonic() - started)
        self._peer().release()
        self.catch.failures += broken_promises(self.role.data_dir, acknowledged)[:10]
        return self.finish()

    def _peer(self) -> RawPeer:
        deadline = time.monotonic() + HANG_S
        while not hasattr(self, "_open_peer"):
            try:
                self._open_peer = RawPeer(self.role.port, self._contexts, timeout_s=HANG_S)
            except RejectedError:  # Those of broken PDUs are still ending.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        return self._open_peer
