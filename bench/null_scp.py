"""A receiver that keeps nothing and answers at once: how fast a sender can be, at most.

    null_scp.py PORT COUNT_FILE

Osteon's own listener and messages, without hash, disk or job table. The number of instances of each
association is appended to a file. ``receivers.py`` starts it.
"""

import argparse
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osteon.config.settings import Settings
from osteon.pipeline.instances.arrival import Stored
from osteon.pipeline.table.reception import Origin
from osteon.scp.server import Receiver


class NullArrival:
    """Takes the bytes of a data set and forgets them."""

    memory = memoryview(bytearray(2**20))

    def room(self, count: int) -> memoryview:
        return self.memory[:count]

    def filled(self, part: memoryview) -> None:
        pass

    def finish(self) -> Stored:
        return Stored("", "", "", duplicate=False)

    def drop(self) -> None:
        pass


class NullIntake:
    """What stands for the pipeline's door."""

    def __init__(self, counts: Path) -> None:
        self._counts = counts
        self._begun: dict[int, int] = {}
        self._lock = threading.Lock()

    def refusal(self) -> None:
        return None

    def open_association(self, calling: str, called: str, address: str) -> Origin:
        with self._lock:
            number = len(self._begun)
            self._begun[number] = 0
        return Origin(calling, called, address, number)

    def close_association(
        self,
        origin: Origin,
        outcome: str,  # noqa: ARG002 - its signature
        **_: Any,
    ) -> None:
        with self._lock, self._counts.open("a") as counts:
            counts.write(f"{self._begun[origin.association_id or 0]}\n")

    def record_rejections(self, rejections: Sequence[Any]) -> None:
        pass

    def begin(self, origin: Origin, **_: Any) -> NullArrival:
        self._begun[origin.association_id or 0] += 1
        return NullArrival()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("counts", type=Path)
    args = parser.parse_args()
    settings = Settings(scp={"host": "127.0.0.1", "port": args.port})
    Receiver(settings, NullIntake(args.counts)).start()  # type: ignore[arg-type] # a stand-in
    threading.Event().wait()


if __name__ == "__main__":
    main()
