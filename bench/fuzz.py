"""Does anything that a peer may send hurt the receiver? Broken PDUs and data sets, by the thousand.

    python bench/fuzz.py            100,000 PDUs and 10,000 data sets
    python bench/fuzz.py --quick    some of them, < 30 s
    python bench/fuzz.py --stock    into pynetdicom's own path, scp.fast = false
    python bench/fuzz.py --seed N   the same ones again

A receive role of its own is started; one table leaves, and exit code 1 where the role ended, hung,
grew, lost what it acknowledged, or met an exception that nobody foresaw. An input that did so is
kept in the folder for temporary files.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # The parts are shared with the tests.

from tests.anomaly.fuzzing import Catch, DataSetFuzzer, PduFuzzer, own_datasets  # noqa: E402 - above
from tests.anomaly.mutations import own_streams, real_datasets, recorded_streams  # noqa: E402
from tests.anomaly.role import Role  # noqa: E402

DATA = REPOSITORY.parent / "shared" / "data"
FULL, QUICK = (100_000, 10_000), (1_500, 600)
GROWTH_MAX = 1.5


def run(
    pdus: int, datasets: int, seed: int, folder: Path, data: Path, *, fast: bool = True
) -> dict[str, Catch]:
    """Fuzz a role that is started in a folder; recordings of real peers are in another."""
    streams = own_streams() + recorded_streams(data / "profuzzbench")
    settings = {"OSTEON_SCP__FAST": str(fast).lower()}
    with Role(folder / "data", settings=settings).start() as role:
        return {
            "PDUs": PduFuzzer(role, pdus, seed, streams).run(),
            "data sets": DataSetFuzzer(
                role, datasets, seed, own_datasets() + real_datasets(data)
            ).run(),
        }


def failures(caught: dict[str, Catch]) -> list[str]:
    """Say what must not be."""
    found = [failure for catch in caught.values() for failure in catch.failures]
    found += [
        f"{kind}: memory grew {catch.growth:.2f} times, {GROWTH_MAX} are allowed"
        for kind, catch in caught.items()
        if catch.growth > GROWTH_MAX
    ]
    return found


def show(caught: dict[str, Catch], seed: int, seconds: float) -> None:
    table = Table(title=f"Malformed input, seed {seed}, {seconds:.0f} s")
    for column in ("what", "sent", "slowest answer", "memory", "answers"):
        table.add_column(column, justify="left" if column in {"what", "answers"} else "right")
    for kind, catch in caught.items():
        answers = ", ".join(f"{answer} {n}" for answer, n in catch.answers.most_common(8))
        memory = f"{catch.base_kib / 1024:.0f} → {catch.most_kib / 1024:.0f} MiB"
        table.add_row(kind, f"{catch.sent}", f"{catch.slowest_s:.2f} s", memory, answers)
    Console(width=100).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} instead of {FULL}")
    parser.add_argument("--stock", action="store_true", help="pynetdicom's own path")
    parser.add_argument("--pdus", type=int, help="how many PDUs")
    parser.add_argument("--datasets", type=int, help="how many data sets")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of real instances")
    args = parser.parse_args()
    pdus, datasets = QUICK if args.quick else FULL
    print(f"seed {args.seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        caught = run(
            args.pdus or pdus,
            args.datasets or datasets,
            args.seed,
            Path(folder),
            args.data,
            fast=not args.stock,
        )
        missed = failures(caught)
        if any("nobody foresaw" in failure for failure in missed):
            kept = Path(tempfile.gettempdir()) / f"osteon-fuzz-{args.seed}.log"
            kept.write_bytes((Path(folder) / "data.log").read_bytes())
            missed.append(f"the log of the role is in {kept}")
    show(caught, args.seed, time.monotonic() - started)
    for failure in missed:
        print(f"MISSED {failure}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
