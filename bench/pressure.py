"""Does the receiver stand while others push? Slow peers, honest crowds, bombs and a full disk.

    python bench/pressure.py              30 s of each kind of slow peers
    python bench/pressure.py --quick      5 s

A receive role of its own is started for each; one table leaves, and exit code 1 where a limit is
passed. The small disk is a tmpfs in a mount namespace of its own.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from tests.anomaly.bombs import BOMB_KIB_MAX, BOMB_S_MAX, BOMBS, cost
from tests.anomaly.pressure import (
    BACK_S,
    ECHO_S_MAX,
    HONEST,
    HONEST_S_MAX,
    SILENT_TLS,
    SLOW,
    SOCKETS,
    THREADS_MAX,
    Slowed,
    served,
    slowed,
    tls_of,
)
from tests.anomaly.role import Role
from tests.anomaly.sender import OUT_OF_RESOURCES, SUCCESS, Factory, send_all
from tests.anomaly.smalldisk import FULL_FIRST, RESUMES_S, Filled, fill_and_free, small_disk

FULL_S, QUICK_S = 30.0, 5.0


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    pressure: str
    found: str
    limit: str
    is_kept: bool


def slow_peers(folder: Path, seconds: float) -> Iterator[Row]:
    """Hold connections of every kind."""
    for kind, (first, rest) in SLOW.items():
        with Role(folder / kind.replace(" ", "-")).start() as role:
            yield _slowed(kind, slowed(role, first, rest, seconds=seconds))
    settings, tls = tls_of(folder)
    with Role(folder / "tls", settings=settings).start() as role:
        yield _slowed(SILENT_TLS, slowed(role, b"", b"", seconds=seconds, tls=tls))


def _slowed(kind: str, found: Slowed) -> Row:
    return Row(
        f"{SOCKETS} connections, {kind}",
        f"C-ECHO p99 {1000 * found.echo_p99_s:.1f} ms of {len(found.echo_s)}, "
        f"{found.threads} threads, back after {found.back_s:.1f} s",
        f"{ECHO_S_MAX:g} s, {THREADS_MAX} threads, {BACK_S:g} s",
        found.echo_p99_s < ECHO_S_MAX and found.threads < THREADS_MAX and found.back_s < BACK_S,
    )


def honest_peers(folder: Path) -> Iterator[Row]:
    """Open many associations at once."""
    with Role(folder / "honest").start() as role:
        found = served(role)
    refused = len(found.ledger.rejections) + sum(
        count for status, count in found.ledger.statuses.items() if status != SUCCESS
    )
    yield Row(
        f"{HONEST} honest associations at once",
        f"{refused} refused, answer p99 {found.p99_s:.2f} s, {len(found.broken)} promises broken",
        f"0 refused, {HONEST_S_MAX:g} s",
        not refused and found.p99_s < HONEST_S_MAX and not found.broken,
    )


def bombs(folder: Path) -> Iterator[Row]:
    """Throw each bomb at one role."""
    with Role(folder / "bombed").start() as role:
        send_all(role.port, [Factory("1.2.826.0.8").series(20)])
        for throw in BOMBS:
            took_s, grew_kib = cost(role, throw)
            yield Row(
                f"bomb: {throw.__name__.replace('_', ' ')}",
                f"{took_s:.2f} s, {max(0, grew_kib) / 1024:.1f} MiB",
                f"{BOMB_S_MAX:g} s, {BOMB_KIB_MAX // 1024} MiB",
                took_s < BOMB_S_MAX and grew_kib < BOMB_KIB_MAX,
            )


def full_disk(folder: Path) -> Iterator[Row]:
    """Fill a disk of 12 MB, in both orders."""
    for kind, rows in FULL_FIRST.items():
        with (
            small_disk(folder / f"disk-{rows}") as disk,
            Role(disk.mount / "data").start(disk.enter) as role,
        ):
            yield _filled(kind, fill_and_free(role, disk, rows))


def _filled(kind: str, found: Filled) -> Row:
    statuses = ", ".join(f"{n} x {status:#06x}" for status, n in found.ledger.statuses.items())
    return Row(
        f"12 MB tmpfs, {kind}",
        f"{statuses}; served again after {found.resumes_s:.2f} s, {len(found.left)} left behind",
        f"0xa700, {RESUMES_S:g} s, 0",
        set(found.ledger.statuses) == {SUCCESS, OUT_OF_RESOURCES}
        and found.resumes_s < RESUMES_S
        and not found.left,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_S:g} s of slow peers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pressure-") as name:
        folder = Path(name)
        rows = [
            *slow_peers(folder, QUICK_S if args.quick else FULL_S),
            *honest_peers(folder),
            *bombs(folder),
            *full_disk(folder),
        ]
    table = Table(title="A receiver under pressure")
    for column in ("pressure", "found", "at most", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(row.pressure, row.found, row.limit, "" if row.is_kept else "MISSED")
    Console(width=160).print(table)
    return int(not all(row.is_kept for row in rows))


if __name__ == "__main__":
    sys.exit(main())
