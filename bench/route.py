#!/usr/bin/env python3
"""From the last acknowledgement to the Segmentation in the PACS, beside Orthanc with a script.

A digital CT phantom is sent by C-STORE to a node whose PACS is Orthanc, and to an Orthanc whose
stable series start ``route_peer.py``: the same model, the same quiet time, in turn. Printed:

    after last   s from the last acknowledgement until the PACS holds the Segmentation
    overhead     the same without the quiet time
    bare         s that the model needs on the volume in memory
    R            overhead / bare

The JSON has the stages of the median round as well; ``route_report.py`` draws them.

    route.py [--slices N] [--size N] [--quiet S] [--rounds N] [--cost S] [--json FILE]
             [--picture FILE] [--check]

--cost S takes a 3D model of known cost, S seconds a series, instead of builtin:bone, without the
peer. --check ends with 1 unless R <= 1.15 where the bare model takes 5 s or more, the overhead is
below bare + 0.5 s, and below the peer's.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from receivers import ORTHANC
from rich.console import Console
from rich.table import Table
from route_parts import RESULT_S, Node, orthanc, send, wait_for
from route_picture import Span, draw_times
from route_report import WORDS, block_of_route

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # The parts are shared with the tests.

from osteon.pipeline.bones.bone import BoneModel
from osteon.pipeline.boneseg import combine
from osteon.pipeline.phantoms.phantom import write_phantom
from osteon.pipeline.prediction import predict
from osteon.pipeline.volume import read_volume
from tests import known_cost

HERE = Path(__file__).resolve().parent
R_MAX, LONG_MODEL_S, BEYOND_BARE_S = 1.15, 5.0, 0.5
Measured = tuple[float, list[Span]]  # seconds after the last acknowledgement, and what they held


def main() -> None:
    """Measure, print, and judge where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--quiet", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cost", type=float, default=0.0)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path, default=HERE / "out" / "route.json")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if shutil.which(ORTHANC) is None:
        sys.exit(f"{ORTHANC} is not installed: it is the PACS and the peer")
    with tempfile.TemporaryDirectory(prefix="bench-route-") as folder:
        figures = measure(Path(folder), args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(figures, indent=2))
    show(figures)
    if args.picture:
        draw_times(args.picture, block_of_route(figures))
    if args.check and not meets_targets(figures):
        sys.exit(1)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return the medians of both, in rounds that visit one after the other."""
    rounds: dict[str, list[Measured]] = {"osteon": [], "peer": []}
    bare_rounds: list[float] = []
    for number in range(args.rounds):
        ct = folder / f"ct{number}"
        write_phantom(ct, seed=number, slices=args.slices, rows=args.size, columns=args.size)
        bare_rounds.append(bare_model_s(ct / "dicom", args.cost))
        rounds["osteon"].append(
            osteon_s(folder / f"osteon{number}", ct / "dicom", args.quiet, args.cost)
        )
        if not args.cost:
            rounds["peer"].append(peer_s(folder / f"peer{number}", ct / "dicom", args.quiet))
        shutil.rmtree(ct)
    bare = statistics.median(bare_rounds)
    figures: dict[str, Any] = {"slices": args.slices, "size": args.size, "quiet_s": args.quiet}
    measured = [name for name in WORDS if rounds[name]]
    seconds = {name: [s for s, _ in rounds[name]] for name in measured}
    figures |= {"rounds": seconds | {"bare": bare_rounds}, "bare_s": bare, "measured": measured}
    for name in measured:
        after_last = statistics.median(seconds[name])
        overhead = after_last - args.quiet
        figures[name] = {"after_last_s": after_last, "overhead_s": overhead, "r": overhead / bare}
        _, figures[name]["stages"] = min(rounds[name], key=lambda m: abs(m[0] - after_last))
    return figures


def bare_model_s(folder: Path, cost_s: float = 0.0) -> float:
    """Return how long the model needs on a volume that is in memory, warm."""
    model = known_cost.KnownCost() if cost_s else BoneModel()
    if cost_s:
        model.cost_s = cost_s
    volume = read_volume(sorted(folder.iterdir()))
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        combine(model, predict(model, volume), volume)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def osteon_s(folder: Path, ct: Path, quiet_s: float, cost_s: float = 0.0) -> Measured:
    """Return the time from the last acknowledgement to the Segmentation in the PACS."""
    with orthanc(folder / "pacs", quiet_s) as pacs:
        node = Node(
            folder / "node",
            quiet_s=quiet_s,
            pacs_port=pacs.dicom,
            pipeline={"model": known_cost.NAME} if cost_s else {},
            environment={
                "PYTHONPATH": str(known_cost.install(folder / "site")),
                "KNOWN_COST_S": str(cost_s),
            },
        )
        with node.serving():
            time.sleep(3.0)  # The worker has loaded its model by then, as in a node that runs.
            sent = send(ct, node.dicom, "OSTEON")
            wait_for(pacs.segmentations, RESULT_S)
            seconds, sent_at = since(sent)
        return seconds, stages_of(node, sent_at, seconds)


def stages_of(node: Node, sent_at: float, seconds: float) -> list[Span]:
    """Return when each stage ran, as the node has logged it; delivery is all that follows."""
    events = node.events()
    spans = [
        (event["stage"], event["began"] - sent_at, event["began"] - sent_at + event["seconds"])
        for event in events
        if event["event"] == "stage finished"
    ]
    complete = [event["timestamp"] for event in events if event["event"] == "series complete"]
    began = datetime.fromisoformat(complete[0]).timestamp() - sent_at
    return [*spans, ("deliver", max([began, *(ended for _, _, ended in spans)]), seconds)]


def peer_s(folder: Path, ct: Path, quiet_s: float) -> Measured:
    """Return the same of an Orthanc whose stable series start the script."""
    with orthanc(folder, quiet_s) as pacs:
        sent = send(ct, pacs.dicom, "PACS")
        series = wait_for(pacs.stable_series, RESULT_S)
        script = [sys.executable, str(HERE / "route_peer.py"), pacs.address, series]
        with subprocess.Popen(script, stdout=subprocess.PIPE) as running:
            wait_for(pacs.segmentations, RESULT_S)
            seconds, sent_at = since(sent)  # How long the script takes to end is nobody's wait.
            said, _ = running.communicate(timeout=RESULT_S)
    spans = json.loads(said)
    # The PACS has it moments before its answer is read.
    ends = [(name, began - sent_at, min(ended - sent_at, seconds)) for name, began, ended in spans]
    return seconds, ends


def since(sent: float) -> tuple[float, float]:
    """Return the seconds since an acknowledgement, and when it was in seconds since 1970."""
    seconds = time.perf_counter() - sent
    return seconds, time.time() - seconds


def meets_targets(figures: dict[str, Any]) -> bool:
    """Return whether the node is as fast as it claims."""
    ours, bare_s = figures["osteon"], figures["bare_s"]
    if "peer" in figures and ours["overhead_s"] >= figures["peer"]["overhead_s"]:
        return False
    long = bare_s >= LONG_MODEL_S
    return bool(ours["r"] <= R_MAX if long else ours["overhead_s"] <= bare_s + BEYOND_BARE_S)


def show(figures: dict[str, Any]) -> None:
    """Print one table."""
    title = f"{figures['slices']} × {figures['size']}², quiet time {figures['quiet_s']:g} s"
    table = Table(title=title, caption=f"bare model: {figures['bare_s']:.2f} s")
    for column in ("", "after last, s", "overhead, s", "R"):
        table.add_column(column, justify="right" if column else "left")
    for name in figures["measured"]:
        row = figures[name]
        cells = (row["after_last_s"], row["overhead_s"], row["r"])
        table.add_row(WORDS[name], *(f"{cell:.2f}" for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
