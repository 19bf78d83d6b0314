"""Do the pipeline's promises hold whatever happens? The state machine of ``tests/states.py``.

    python bench/states.py --seeds 10000      examples of 25 steps each; about 10 minutes
    python bench/states.py --mutations        break it in one way after another: is each found?

One table leaves, and exit code 1 where a promise was broken, or a mutation was not found. A failure
is printed with the steps that led to it.
"""

import argparse
import sys
import time
from pathlib import Path

import structlog
from hypothesis.errors import FlakyFailure
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from tests.breakage import MUTATIONS, examine
from tests.states import STEPS

CHUNK = 500
BROKEN = 2_000  # Examples in which what is broken on purpose must show.


def play(examples: int) -> float:
    """Play examples, each chunk with a seed of its own; return the seconds."""
    began = time.perf_counter()
    for number, first in enumerate(range(0, examples, CHUNK), 1):
        examine(min(CHUNK, examples - first), seed=number)
        print(f"{min(first + CHUNK, examples)} of {examples} hold", file=sys.stderr)
    return time.perf_counter() - began


def is_found(mutation: str, examples: int) -> bool:
    """Return whether something that was broken on purpose is noticed."""
    try:
        examine(examples, mutation)
    except (AssertionError, FlakyFailure):  # A thread that sends does so at its own pace.
        return True
    return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10_000, help="examples that are played")
    parser.add_argument("--mutations", action="store_true", help="only what is broken on purpose")
    args = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    printed = Table(title=f"Examples of {STEPS} steps")
    printed.add_column("")
    printed.add_column("", justify="right")
    if not args.mutations:
        seconds = play(args.seeds)
        printed.add_row(f"{args.seeds} examples", f"hold, {seconds:.0f} s")
    missed = []
    for mutation in MUTATIONS:
        began = time.perf_counter()
        if not is_found(mutation, BROKEN):
            missed.append(mutation)
        outcome = "MISSED" if mutation in missed else "found"
        printed.add_row(mutation, f"{outcome}, {time.perf_counter() - began:.1f} s")
    Console().print(printed)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
