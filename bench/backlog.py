#!/usr/bin/env python3
"""How busy the slots are while series wait, and how many jobs an hour that makes.

Small digital phantoms are received while nothing works on them; then the role ``work`` starts on
the whole backlog. Busy is the time in which a slot's worker runs a stage, whichever, over slots ×
time, from when every slot has a worker until the last series begins: while series wait. The device
is that of a model of known cost, a sleep: what it waits is not what a stage waits, and is shown
beside it.

    backlog.py [--series N] [--slices N] [--size N] [--slots N] [--cost S] [--json FILE] [--check]

--cost S takes the model of known cost, S seconds a series, instead of builtin:bone. --check ends
with 1 unless the slots were busy for 0.95 of the time.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from route_parts import Node, send, wait_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from osteon.pipeline.phantoms.phantom import write_phantom
from osteon.pipeline.table.connection import Table as JobTable
from osteon.pipeline.table.connection import open_table
from tests import known_cost

HERE = Path(__file__).resolve().parent
BUSY_MIN = 0.95
WAIT_S = 1800.0


def main() -> None:
    """Measure, print, and judge where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--series", type=int, default=50)
    parser.add_argument("--slices", type=int, default=60)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--cost", type=float, default=0.0)
    parser.add_argument("--json", type=Path, default=HERE / "out" / "backlog.json")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-backlog-") as folder:
        figures = measure(Path(folder), args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(figures, indent=2))
    show(figures)
    if args.check and figures["busy"] < BUSY_MIN:
        sys.exit(1)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one backlog."""
    log = folder / "device.log"
    environment = {
        "PYTHONPATH": str(known_cost.install(folder / "site")),
        "KNOWN_COST_LOG": str(log),
        "KNOWN_COST_S": str(args.cost),
    }
    model = known_cost.NAME if args.cost else "builtin:bone"
    limits = {"slots": args.slots, "running_max": 2 * args.slots + 2, "model": model}
    node = Node(folder / "node", quiet_s=1.0, pipeline=limits, environment=environment)
    fill(node, folder / "ct", args)
    with node.serving("work"):
        table = open_table(node.data_dir)
        wait_for(lambda: count(table, "done") == args.series, WAIT_S)
        table.close()
    stages = [e for e in node.events("work") if e["event"] == "stage finished"]
    spans: dict[str, list[tuple[float, float]]] = {}
    for e in stages:
        spans.setdefault(e["worker"], []).append((e["began"], e["began"] + e["seconds"]))
    begin, end = waiting_between(spans, stages, args.slots)
    within_s = sum(covered_s(clipped(of, begin, end)) for of in spans.values())
    device_s = sum(covered_s(clipped(of, begin, end)) for of in uses_of(log).values())
    whole_s = max(e["began"] + e["seconds"] for e in stages) - min(e["began"] for e in stages)
    return {
        "series": args.series,
        "slices": args.slices,
        "size": args.size,
        "slots": args.slots,
        "model": model,
        "cost_s": args.cost,
        "seconds": whole_s,
        "waiting_s": end - begin,
        "busy": within_s / (args.slots * (end - begin)),
        "jobs_per_hour": 3600 * args.series / whole_s,
        "device_busy": device_s / (args.slots * (end - begin)) if args.cost else None,
        "stage_s": {
            stage: sum(e["seconds"] for e in stages if e["stage"] == stage) / args.series
            for stage in ("prediction", "boneseg", "encode")
        },
    }


def fill(node: Node, folder: Path, args: argparse.Namespace) -> None:
    """Let the node receive the series, each with UIDs of its own."""
    with node.serving("receive"):
        for number in range(args.series):
            write_phantom(
                folder, seed=number, slices=args.slices, rows=args.size, columns=args.size
            )
            wait_for(lambda: sent(node, folder / "dicom"), 60.0)
            shutil.rmtree(folder)


def sent(node: Node, folder: Path) -> bool:
    """Send a series; False while the receiver does not listen yet."""
    try:
        return send(folder, node.dicom, "OSTEON") > 0
    except OSError:
        return False


def count(table: JobTable, state: str) -> int:
    """Return how many jobs are in a state."""
    row = table.row("SELECT count(*) AS n FROM job WHERE state = ?", (state,))
    return 0 if row is None else int(row["n"])


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return for how long at least one span lasts."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def clipped(
    spans: Iterable[tuple[float, float]], begin: float, end: float
) -> list[tuple[float, float]]:
    """Return the parts of some spans that lie within another one."""
    parts = [(max(a, begin), min(b, end)) for a, b in spans]
    return [(a, b) for a, b in parts if a < b]


def waiting_between(
    spans: Mapping[str, list[tuple[float, float]]],
    stages: Iterable[Mapping[str, Any]],
    slots: int,
) -> tuple[float, float]:
    """Return from when every slot had a worker until when the last series began to run."""
    first = sorted(min(begin for begin, _ in of) for of in spans.values())
    last = max(e["began"] for e in stages if e["stage"] == "prediction")
    return first[min(slots, len(first)) - 1], last


def uses_of(log: Path) -> dict[str, list[tuple[float, float]]]:
    """Return when the devices of known cost were in use, by worker process."""
    uses: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text().splitlines() if log.is_file() else ():
        pid, begin, end, _ = line.split()
        uses.setdefault(pid, []).append((float(begin), float(end)))
    return uses


def show(figures: dict[str, Any]) -> None:
    """Print one table."""
    title = f"{figures['series']} series of {figures['slices']} × {figures['size']}² waiting"
    table = Table("", figures["model"], title=title)
    table.add_row("slots", str(figures["slots"]))
    table.add_row("busy", f"{figures['busy']:.3f}")
    if figures["device_busy"] is not None:
        table.add_row("device in use", f"{figures['device_busy']:.3f}")
    table.add_row("jobs an hour", f"{figures['jobs_per_hour']:.0f}")
    for stage, seconds in figures["stage_s"].items():
        table.add_row(f"{stage}, s", f"{seconds:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
