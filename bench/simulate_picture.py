"""Draw how long each class waited. Runs enter from ``simulate.py``, a PNG leaves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # Drawn twice as large, for sharp screens.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 880, 190, 90, 76, 14
BAR, GAP = 11, 14
INK, FAINT, PAPER = "#1f2933", "#7b8794", "#ffffff"
SHADES = {"stat": "#0f5f55", "urgent": "#3a9d8c", "routine": "#8fc7bd", "bulk": "#c9d1d9"}
SHORTEST_S = 1.0


def draw_waits(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Draw the 99th percentile of the waiting time, a bar for each class, on a scale of powers."""
    rows = [(run["name"], run["waited_s"]) for run in runs]
    height = TOP + sum(len(waits) * BAR + GAP for _, waits in rows) + BOTTOM
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    longest = max(wait["p99"] for _, waits in rows for wait in waits.values())
    powers = math.log10(max(longest, 10 * SHORTEST_S) / SHORTEST_S)

    def text(x: float, y: float, words: str, size: int, anchor: str, fill: str = INK) -> None:
        font = ImageFont.load_default(size * SCALE)
        draw.text((x * SCALE, y * SCALE), words, fill, font, anchor)

    def bar(x: float, y: float, width: float, fill: str) -> None:
        box = (x * SCALE, (y + 1) * SCALE, (x + width) * SCALE, (y + BAR - 1) * SCALE)
        draw.rectangle(box, fill)

    text(16, 22, "99 of 100 series begin within … s after they are complete", 17, "lm")
    for at, (kind, shade) in enumerate(SHADES.items()):
        bar(LEFT + at * 110, 48, 12, shade)
        text(LEFT + at * 110 + 18, 53, kind, 12, "lm", FAINT)
    y = float(TOP)
    for name, waits in rows:
        text(LEFT - 10, y + len(waits) * BAR / 2, name, 13, "rm")
        for kind, shade in SHADES.items():
            if kind not in waits:
                continue
            seconds = waits[kind]["p99"]
            share = math.log10(max(seconds, SHORTEST_S) / SHORTEST_S) / powers
            width = max(share * (WIDTH - LEFT - RIGHT), 1)
            bar(LEFT, y, width, shade)
            text(
                LEFT + width + 6, y + BAR / 2, f"{seconds:,.0f}".replace(",", " "), 10, "lm", FAINT
            )
            y += BAR
        y += GAP
    image.save(path, optimize=True)
