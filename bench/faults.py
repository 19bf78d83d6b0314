"""Crash proof, counted: faults hit the receiver, and nothing that was acknowledged may be lost.

    python bench/faults.py --faults 1000    every night
    python bench/faults.py --quick          a sample, < 2 minutes
    python bench/faults.py --seed N         the same ones again

Half of the faults are power cuts of a disk that keeps only what was synced; the others happen to a
running role: killed in a system call or at any moment, or told that the disk is full or broken.
After each the role starts again. The same cuts are made of receivers that have one safeguard taken
out, which must be caught. One table leaves, and exit code 1 where anything is not as it must be.
"""

import argparse
import itertools
import logging
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from tests.anomaly import injection, weakened
from tests.anomaly.power import Verdict, record

FULL, QUICK = 1_000, 60
SHARES = {"power cut": 0.5, "killed in a call": 0.2, "disk error": 0.15, "killed at random": 0.1,
          "killed at start": 0.05}  # fmt: skip
CUTS_OF_WEAKENED = 60
INSTANCES = 60  # Of each sender of a recording: enough for SQLite to checkpoint on the way.
SHOWN = 20
WIDTH = 100


@dataclass
class Row:
    """All faults of one kind."""

    kind: str
    must_break: bool = False
    faults: int = 0
    acknowledged: int = 0
    broken: list[str] = field(default_factory=list)
    harmful: int = 0
    seconds: float = 0.0

    @property
    def is_met(self) -> bool:
        return bool(self.faults) and bool(self.harmful) == self.must_break

    def add(self, verdicts: Iterable[Verdict]) -> "Row":
        """Take over what became of each fault."""
        started = time.monotonic()
        for verdict in verdicts:
            self.faults += 1
            self.acknowledged += verdict.acknowledged
            self.harmful += bool(verdict.broken)
            self.broken += [f"{verdict.fault}: {why}" for why in verdict.broken]
        self.seconds += time.monotonic() - started
        return self


def cuts(folder: Path, kind: str, count: int, seed: int) -> Iterator[Verdict]:
    """Record a receiver and cut its power; a kind of weakened receiver, or none."""
    entry = {"entry": weakened.entry(kind)} if kind else {}
    recording = record(folder / f"recording{kind}", instances=INSTANCES if not kind else 8, **entry)
    faults = recording.model_faults()
    if faults:  # Then no cut proves anything.
        yield Verdict("the recording", 0, faults)
        return
    yield from recording.cuts(count, seed, folder)


def faults_of(
    trial: injection.Trial, listed: list[injection.Fault], count: int, seed: int
) -> Iterator[Verdict]:
    """Let so many of these faults happen; those that the role never comes to do not count."""
    chance = random.Random(seed)
    order = chance.sample(listed, len(listed))
    happened = 0
    for fault in itertools.islice(itertools.cycle(order), 4 * count + len(listed)):
        if happened == count:
            return
        verdict = trial.run(fault)
        if verdict is not None:
            happened += 1
            yield verdict
    yield Verdict("the plan", 0, [f"only {happened} of {count} faults happened"])


def run(count: int, seed: int, folder: Path) -> list[Row]:
    """Inject so many faults."""
    share = {kind: max(1, round(count * part)) for kind, part in SHARES.items()}
    rows = [Row("power cut").add(cuts(folder, "", share["power cut"], seed))]
    recording = record(folder / "short", instances=injection.INSTANCES)
    trial = injection.Trial(folder, seed=seed)
    kinds = (injection.kills(recording), injection.errors(recording), injection.crashes(),
             injection.starts(recording))  # fmt: skip
    try:
        for listed in kinds:
            row = Row(listed[0].kind)
            rows.append(row.add(faults_of(trial, listed, share[row.kind], seed)))
            print(f"{row.kind}: {row.faults} faults, {row.harmful} harmful", file=sys.stderr)
    finally:
        trial.close()
    for kind in weakened.KINDS:
        row = Row(f"weakened: {kind}", must_break=True)
        rows.append(row.add(cuts(folder, kind, min(count, CUTS_OF_WEAKENED), seed)))
    return rows


def show(rows: list[Row], seed: int) -> None:
    total = sum(row.faults for row in rows if not row.must_break)
    table = Table(title=f"{total} faults, seed {seed}")
    for column in ("fault", "faults", "acknowledged", "harmful", "must be", "s", "met"):
        table.add_column(column, no_wrap=True, justify="left" if column == "fault" else "right")
    for row in rows:
        wanted = "> 0" if row.must_break else "0"
        figures = row.faults, row.acknowledged, row.harmful, wanted, round(row.seconds)
        table.add_row(row.kind, *map(str, figures), "yes" if row.is_met else "NO")
    Console(width=WIDTH).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=FULL, help=f"how many; {FULL} if absent")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} of them")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    # What is recovered after each cut is told by the judge, in this process.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        rows = run(QUICK if args.quick else args.faults, args.seed, Path(folder).resolve())
    show(rows, args.seed)
    missed = [row for row in rows if not row.is_met]
    for row in missed:
        for broken in row.broken[:SHOWN] or ["no fault was harmful"]:
            print(f"MISSED {row.kind}: {broken}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
