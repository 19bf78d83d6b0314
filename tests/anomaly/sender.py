"""Senders that remember what they were told: the other side of every claim about loss.

Instances of which no two are alike enter a receiver; a `Ledger` leaves, of those that were answered
0x0000. Used by the anomaly tests and the benchmarks.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from osteon.pipeline.instances.digest import digest_of
from tests.dicom_peer import AbortedError, RawPeer, RejectedError, ct_slice, encoded

SUCCESS = 0x0000  # PS3.4 Table B.2-1
OUT_OF_RESOURCES = 0xA700
CONGESTED = (2, 3, 1)  # Rejected transient, temporary congestion, PS3.8 9.3.4
ANSWER_S = 60.0


class NotServedError(Exception):
    """The receiver takes nothing, long after it should."""


@dataclass(frozen=True)
class Instance:
    """One instance as it is sent."""

    uid: str
    dataset: bytes

    @property
    def key(self) -> tuple[str, str]:
        """SOP Instance UID and SHA-256 of the data set: what must be found again."""
        return self.uid, digest_of(self.dataset)


@dataclass
class Ledger:
    """What was acknowledged, and how often each status and rejection was answered."""

    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    rejections: Counter[tuple[int, int, int]] = field(default_factory=Counter)

    def add(self, senders: Iterable["Sender"]) -> None:
        """Take over what senders were told."""
        for sender in senders:
            if sender.rejection is not None:
                self.rejections[sender.rejection] += 1
            for instance, status in sender.answered:
                self.statuses[status] += 1
                if status == SUCCESS:
                    self.acknowledged.add(instance.key)

    def unexpected(self) -> list[str]:
        """Answers that a sender would take for its own fault, and so never try again."""
        odd = set(self.statuses) - {SUCCESS, OUT_OF_RESOURCES}
        found = [f"status {status:#06x} was answered" for status in sorted(odd)]
        return found + [f"rejected with {t}" for t in self.rejections if t != CONGESTED]


class Sender(threading.Thread):
    """Sends its instances over one association until the receiver is gone."""

    def __init__(self, port: int, instances: Sequence[Instance]) -> None:
        super().__init__(daemon=True)
        self.port, self.instances = port, instances
        self.answered: list[tuple[Instance, int]] = []
        self.took_s: list[float] = []
        self.local_port = 0
        self.rejection: tuple[int, int, int] | None = None

    def run(self) -> None:
        with suppress(OSError, AbortedError):
            try:
                with RawPeer(self.port, timeout_s=ANSWER_S) as peer:
                    self.local_port = peer.sock.getsockname()[1]
                    for instance in self.instances:
                        started = time.monotonic()
                        status, _ = peer.store(instance.dataset, instance.uid)
                        self.answered.append((instance, status))
                        self.took_s.append(time.monotonic() - started)
                    peer.release()
            except RejectedError as error:
                self.rejection = error.triple


class Factory:
    """Makes instances that were never there before, the same ones for the same name."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._numbers: Iterator[int] = iter(range(1, 10**9))

    def series(self, count: int, *, rows: int = 64) -> list[Instance]:
        """A series of CT instances of random pixels."""
        series = f"{self._root}.{next(self._numbers)}"
        return [self.instance(series, number, rows=rows) for number in range(1, count + 1)]

    def instance(self, series: str, number: int, *, rows: int = 64, salt: str = "") -> Instance:
        """One instance; another salt makes other pixels under the same UID."""
        ds = ct_slice(number, series, rows)
        ds.SOPInstanceUID = f"{series}.{number}"
        ds.PixelData = random.Random(f"{ds.SOPInstanceUID} {salt}").randbytes(2 * rows * rows)
        return Instance(ds.SOPInstanceUID, encoded(ds))


def send_all(port: int, batches: Iterable[Sequence[Instance]]) -> list[Sender]:
    """Send each batch over an association of its own, all at once, until the end of all."""
    senders = [Sender(port, batch) for batch in batches]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(2 * ANSWER_S)
        assert not sender.is_alive(), "a sender waits for an answer that does not come"
    return senders


def wait_until_served(port: int, instance: Instance, timeout_s: float) -> Sender:
    """Send one instance again and again until it is taken.

    Raises
    ------
    NotServedError
        It is not taken in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        sender = send_all(port, [[instance]])[0]
        if [status for _, status in sender.answered] == [SUCCESS]:
            return sender
        if time.monotonic() > deadline:
            said = [f"{status:#06x}" for _, status in sender.answered] or sender.rejection
            raise NotServedError(f"not served after {timeout_s:g} s: {said}")
        time.sleep(0.1)
