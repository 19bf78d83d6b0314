"""Draw rates as bars. Names and figures enter from ``receive_report.py``, a PNG leaves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # Drawn twice as large, for sharp screens.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 880, 250, 70, 64, 14
BAR, GAP = 13, 14
INK, FAINT, PAPER = "#1f2933", "#7b8794", "#ffffff"
OURS, OTHERS = ("#8fc7bd", "#3a9d8c", "#0f5f55"), ("#c9d1d9", "#98a4b0", "#616e7c")


def draw_rates(
    path: Path,
    title: str,
    all_associations: Sequence[int],
    rates: Mapping[str, Sequence[float | None]],
) -> None:
    """Draw a group of bars for each receiver, a bar for each number of associations.

    Parameters
    ----------
    rates : mapping from name to rates
        In the order in which they are drawn; Osteon's own have a colour.
    """
    group = len(all_associations) * BAR + GAP
    height = TOP + len(rates) * group + BOTTOM
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    longest = max((rate for row in rates.values() for rate in row if rate), default=1.0)

    def text(x: float, y: float, words: str, size: int, anchor: str, fill: str = INK) -> None:
        font = ImageFont.load_default(size * SCALE)
        draw.text((x * SCALE, y * SCALE), words, fill, font, anchor)

    def bar(x: float, y: float, width: float, fill: str) -> None:
        box = (x * SCALE, (y + 1) * SCALE, (x + width) * SCALE, (y + BAR - 1) * SCALE)
        draw.rectangle(box, fill)

    text(16, 24, title, 17, "lm")
    x = float(LEFT)
    for shade, associations in zip(OTHERS, all_associations, strict=True):
        bar(x, 42, 12, shade)
        text(x + 18, 49, f"{associations} association{'s' * (associations > 1)}", 12, "lm", FAINT)
        x += 122
    for at, (name, row) in enumerate(rates.items()):
        top = TOP + at * group + GAP / 2
        text(LEFT - 10, top + (group - GAP) / 2, name, 13, "rm")
        shades = OURS if name.startswith("Osteon") else OTHERS
        for line, (rate, shade) in enumerate(zip(row, shades, strict=True)):
            width = (rate or 0.0) / longest * (WIDTH - LEFT - RIGHT)
            bar(LEFT, top + line * BAR, max(width, 1), shade)
            shown = "not measured" if rate is None else f"{rate:,.0f}".replace(",", " ")
            text(LEFT + width + 6, top + line * BAR + BAR / 2, shown, 11, "lm", FAINT)
    image.save(path, optimize=True)
