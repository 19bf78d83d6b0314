#!/usr/bin/env python3
"""Draw what the benchmarks of the route have measured, for the documentation.

    route_report.py [--route FILE] [--pace FILE] [--docs [FILE]] [--picture FILE]

The JSON of ``route.py`` enters, and that of ``pace.py`` where it is there. --docs draws
pictures/route.png beside docs/benchmarks.md, and puts it there under the heading of the route.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from route_picture import Bar, Block, draw_times

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
DOCS = HERE.parent / "docs" / "benchmarks.md"
HEADING = "## The route\n"
PICTURE = Path("pictures") / "route.png"
LINE = f"![From the last slice to the PACS, and against the length of a series]({PICTURE})\n"
WORDS = {"osteon": "Osteon", "peer": "Orthanc + script"}


def main() -> None:
    """Draw where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--route", type=Path, default=OUT / "route.json")
    parser.add_argument("--pace", type=Path, default=OUT / "pace.json")
    parser.add_argument("--docs", type=Path, nargs="?", const=DOCS)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if not args.route.is_file():
        sys.exit(f"{args.route} is not there: run bench/route.py first")
    blocks = [block_of_route(json.loads(args.route.read_text()))]
    if args.pace.is_file():
        blocks.append(block_of_pace(json.loads(args.pace.read_text())))
    if args.picture:
        draw_times(args.picture, *blocks)
    if args.docs:
        draw_times(args.docs.parent / PICTURE, *blocks)
        show_picture(args.docs)


def block_of_route(figures: Mapping[str, Any]) -> Block:
    """Return what is drawn of the JSON of ``route.py``: one bar a system, its stages in it."""
    bars = [
        Bar(
            WORDS[name],
            figures[name]["after_last_s"],
            [(stage, began, ended) for stage, began, ended in figures[name].get("stages", ())],
        )
        for name in figures["measured"]
    ]
    size = f"{figures['slices']} slices of {figures['size']} by {figures['size']}"
    return Block(f"From the last slice to the PACS, {size}", bars, figures["quiet_s"])


def block_of_pace(figures: Mapping[str, Any]) -> Block:
    """Return what is drawn of the JSON of ``pace.py``: one bar for each length of a series."""
    bars = [Bar(f"{length} slices", s) for length, s in figures["after_last_s"].items()]
    title = f"From the last slice to the result, {figures['rate']:g} slices a second"
    return Block(title, bars, figures["quiet_s"])


def show_picture(page: Path) -> None:
    """Put the picture under its heading, unless it is there."""
    text = page.read_text()
    if LINE not in text:
        before, heading, after = text.partition(HEADING)
        page.write_text(f"{before}{heading}\n{LINE}{after}")


if __name__ == "__main__":
    main()
