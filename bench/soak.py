"""Does the receiver stay the same however long it runs? Associations and instances by the thousand.

    python bench/soak.py            5,000 associations, 50,000 instances
    python bench/soak.py --quick    200 and 2,000

A receive role of its own is started; one table leaves, and exit code 1 where its memory grew, where
it kept descriptors or threads, or where something that it acknowledged is not there.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from tests.anomaly.evidence import broken_promises
from tests.anomaly.role import Role
from tests.anomaly.sender import Instance, Ledger, Sender
from tests.dicom_peer import ct_slice, encoded
from tests.tools import wait_until

FULL, QUICK = 5_000, 200
INSTANCES = 10  # On each association.
SENDERS = 4
WARM_UP = 0.1  # Of all: caches are full then, and the table has been checkpointed.
ROWS = 10
MEMORY_GROWTH_KIB_MAX = 20 * 1024
REST_S = 15.0
_UID = b"1.2.826.0.5.100000.10"


@dataclass(frozen=True)
class Sample:
    """What the role took while nobody was connected."""

    associations: int
    seconds: float
    memory_kib: int
    descriptors: int
    threads: int


class Soak:
    """A role, and senders that take turns."""

    def __init__(self, role: Role, associations: int) -> None:
        self._role, self._associations = role, associations
        self._next, self._lock = 0, threading.Lock()
        self.ledger = Ledger()
        self.samples: list[Sample] = []
        ds = ct_slice(1, "1.2.826.0.5.100000", 16)
        ds.SOPInstanceUID = _UID.decode()
        self._dataset = encoded(ds)
        self._started = time.monotonic()
        self._idle_threads = role.threads()

    def run(self) -> None:
        """Send everything, and measure ten times on the way."""
        warm = int(WARM_UP * self._associations)
        steps = [warm + n * (self._associations - warm) // ROWS for n in range(ROWS + 1)]
        for until in steps:
            workers = [threading.Thread(target=self._work, args=(until,)) for _ in range(SENDERS)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            # A connection is closed by the peer first; its thread ends a moment later.
            wait_until(lambda: self._role.threads() <= self._idle_threads, REST_S)
            role = self._role
            self.samples.append(
                Sample(
                    until,
                    time.monotonic() - self._started,
                    role.memory_kib(),
                    role.descriptors(),
                    role.threads(),
                )
            )

    def _work(self, until: int) -> None:
        while True:
            with self._lock:
                if self._next >= until:
                    return
                self._next += 1
                number = self._next
            sender = Sender(self._role.port, list(self._instances(number)))
            sender.run()
            with self._lock:
                self.ledger.add([sender])

    def _instances(self, number: int) -> Iterator[Instance]:
        """One series for each association, in bytes of the same length."""
        series = b"1.2.826.0.5.%d" % (100_000 + number)
        for at in range(INSTANCES):
            uid = b"%s.%d" % (series, 10 + at)
            dataset = self._dataset.replace(_UID, uid).replace(_UID[:-3], series)
            yield Instance(uid.decode(), dataset)


def failures(soak: Soak, associations: int, data_dir: Path) -> list[str]:
    """Say what must not be."""
    first, last = soak.samples[0], soak.samples[-1]
    found = broken_promises(data_dir, soak.ledger.acknowledged)[:10]
    if soak.ledger.statuses != {0: associations * INSTANCES}:
        found.append(f"answers {dict(soak.ledger.statuses)}")
    if last.memory_kib - first.memory_kib >= MEMORY_GROWTH_KIB_MAX:
        found.append(f"memory grew by {(last.memory_kib - first.memory_kib) / 1024:.1f} MiB")
    for what in ("descriptors", "threads"):
        if getattr(last, what) > getattr(first, what):
            found.append(f"{getattr(first, what)} {what} became {getattr(last, what)}")
    return found


def show(soak: Soak) -> None:
    table = Table(title="A receiver that runs on and on")
    for column in ("associations", "instances", "seconds", "memory MiB", "descriptors", "threads"):
        table.add_column(column, justify="right")
    for s in soak.samples:
        row = s.associations, s.associations * INSTANCES, round(s.seconds)
        table.add_row(*map(str, (*row, round(s.memory_kib / 1024, 1), s.descriptors, s.threads)))
    Console(width=100).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} associations")
    parser.add_argument("--associations", type=int, help=f"instead of {FULL}")
    args = parser.parse_args()
    associations = args.associations or (QUICK if args.quick else FULL)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        role = Role(Path(folder) / "data")
        with role.start():
            soak = Soak(role, associations)
            soak.run()
            missed = failures(soak, associations, role.data_dir)
    show(soak)
    for failure in missed:
        print(f"MISSED {failure}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
