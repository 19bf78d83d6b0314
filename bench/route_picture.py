"""Draw times as bars. Names and seconds enter from the benchmarks of the route, a PNG leaves."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # Drawn twice as large, for sharp screens.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 880, 190, 80, 64, 40
BAR, GAP = 20, 14
INK, FAINT, PAPER = "#1f2933", "#7b8794", "#ffffff"
WAITED, WORKED = "#d5dbe1", "#3a9d8c"


def draw_times(path: Path, title: str, times_s: Mapping[str, float], *, split_s: float) -> None:
    """Draw one bar a name: what was only waited for is grey, the rest has colour.

    Parameters
    ----------
    times_s : mapping from name to seconds
        In the order in which they are drawn.
    split_s : float
        How much of each is the configured quiet time.
    """
    height = TOP + len(times_s) * (BAR + GAP) + BOTTOM
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    per_s = (WIDTH - LEFT - RIGHT) / max(times_s.values())

    def text(x: float, y: float, words: str, size: int, anchor: str, fill: str = INK) -> None:
        font = ImageFont.load_default(size * SCALE)
        draw.text((x * SCALE, y * SCALE), words, fill, font, anchor)

    def bar(begin_s: float, end_s: float, y: float, fill: str) -> None:
        left, right = (LEFT + per_s * at for at in (begin_s, end_s))
        draw.rectangle((left * SCALE, y * SCALE, right * SCALE, (y + BAR) * SCALE), fill)

    text(16, 24, title, 17, "lm")
    text(16, 46, "grey: the configured quiet time", 12, "lm", FAINT)
    y = float(TOP)
    for name, seconds in times_s.items():
        text(LEFT - 10, y + BAR / 2, name, 13, "rm")
        bar(0.0, min(split_s, seconds), y, WAITED)
        bar(min(split_s, seconds), seconds, y, WORKED)
        text(LEFT + per_s * seconds + 8, y + BAR / 2, f"{seconds:.2f} s", 13, "lm")
        y += BAR + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG", optimize=True)
