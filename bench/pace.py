#!/usr/bin/env python3
"""Does a long series take longer after its last slice? Slices come at a scanner's pace.

A model that predicts slice by slice, each at a known cost, keeps up with the scanner: what is left
after the last slice is the wait for the quiet time, the joining and the encoding. Series of several
lengths are sent in turn, and the time from the last acknowledgement to the finished Segmentation is
printed, with and without the quiet time.

    pace.py [--lengths 100,200,400] [--rate N] [--size N] [--cost S] [--quiet S] [--rounds N]
            [--json FILE] [--picture FILE] [--check]

--check ends with 1 unless the longest takes at most 1.25 times as long as the shortest.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pdus
import pydicom
import raw_scu
from receivers import HOST
from rich.console import Console
from rich.table import Table
from route_parts import RESULT_S, Node, wait_for
from route_picture import draw_times
from route_report import block_of_pace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from osteon.pipeline.phantoms.phantom import write_phantom
from tests import known_cost

HERE = Path(__file__).resolve().parent
RATIO_MAX = 1.25
DONE = {"done", "failed", "rejected"}


def main() -> None:
    """Measure, print, draw, and judge where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="100,200,400")
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--cost", type=float, default=0.03)
    parser.add_argument("--quiet", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=HERE / "out" / "pace.json")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    args.lengths = sorted(int(length) for length in args.lengths.split(","))
    with tempfile.TemporaryDirectory(prefix="bench-pace-") as folder:
        figures = measure(Path(folder), args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(figures, indent=2))
    show(figures)
    if args.picture:
        draw_times(args.picture, block_of_pace(figures))
    if args.check and figures["ratio"] > RATIO_MAX:
        sys.exit(1)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the medians of each length, in rounds that visit one after the other."""
    environment = {
        "PYTHONPATH": str(known_cost.install(folder / "site")),
        "KNOWN_COST_DIMENSION": "2d",
        "KNOWN_COST_S": str(args.cost),
    }
    pipeline = {"model": known_cost.NAME, "slots": 1}
    node = Node(folder / "node", quiet_s=args.quiet, pipeline=pipeline, environment=environment)
    times: dict[int, list[float]] = {length: [] for length in args.lengths}
    with node.serving():
        after_last_s(node, folder, args, seed=0, slices=20)  # Everything is loaded by this.
        for seed in range(1, args.rounds + 1):
            for length in args.lengths:
                seconds = after_last_s(node, folder, args, seed=seed * 1000 + length, slices=length)
                times[length].append(seconds)
    medians = {length: statistics.median(seconds) for length, seconds in times.items()}
    return {
        "rate": args.rate,
        "size": args.size,
        "cost_s": args.cost,
        "quiet_s": args.quiet,
        "rounds": times,
        "after_last_s": medians,
        "ratio": medians[args.lengths[-1]] / medians[args.lengths[0]],
    }


def after_last_s(
    node: Node, folder: Path, args: argparse.Namespace, *, seed: int, slices: int
) -> float:
    """Send a series at the scanner's pace; return the time from its last answer to its result."""
    ct = folder / f"ct{seed}"
    write_phantom(ct, seed=seed, slices=slices, rows=args.size, columns=args.size)
    instances = raw_scu.load(ct / "dicom")
    first = next(iter((ct / "dicom").iterdir()))
    name = pydicom.dcmread(first, stop_before_pixels=True).SeriesInstanceUID
    shutil.rmtree(ct)
    contexts = sorted({(i.sop_class_uid, i.transfer_syntax_uid) for i in instances})
    with raw_scu.associated((HOST, node.dicom), "OSTEON", contexts) as (assoc,):
        assoc.encode(instances)
        started = time.perf_counter()
        for number in range(len(instances)):
            time.sleep(max(0.0, started + number / args.rate - time.perf_counter()))
            assoc.next_message()
            while not assoc.send_some():
                pass
            assert pdus.status(assoc.receive()) == 0
        last = time.perf_counter()
    said: Mapping[str, Any] = wait_for(lambda: finished(node, name), RESULT_S)
    assert said["status"] == "done", said
    return time.perf_counter() - last


def finished(node: Node, name: str) -> Mapping[str, Any] | None:
    """Return what is said of a series when it is over."""
    said = node.predict(name)
    return said if said.get("status") in DONE else None


def show(figures: Mapping[str, Any]) -> None:
    """Print one table."""
    title = (
        f"{figures['rate']:g} slices of {figures['size']}² a second,"
        f" {figures['cost_s']:g} s of prediction each, quiet time {figures['quiet_s']:g} s"
    )
    ratio = f"the longest takes {figures['ratio']:.3f} times as long as the shortest"
    table = Table("slices", "after last, s", "without quiet, s", title=title, caption=ratio)
    for length, seconds in figures["after_last_s"].items():
        table.add_row(str(length), f"{seconds:.2f}", f"{seconds - figures['quiet_s']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
