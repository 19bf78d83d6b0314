"""Draw times as bars. What the benchmarks of the route have measured enters, a PNG leaves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # Drawn twice as large, for sharp screens.
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 880, 190, 80, 70, 14
BAR, GAP = 20, 14
INK, FAINT, PAPER = "#1f2933", "#7b8794", "#ffffff"
WAITED, WORKED = "#d5dbe1", "#98a4b0"
STAGES = {
    "fetch": "#c9a35b",
    "prediction": "#3a9d8c",
    "boneseg": "#0f5f55",
    "encode": "#8fc7bd",
    "deliver": "#616e7c",
}
Span = tuple[str, float, float]  # a stage, and when it began and ended


@dataclass(frozen=True)
class Bar:
    """One time, in seconds, and what filled it as far as that is known."""

    name: str
    seconds: float
    spans: Sequence[Span] = ()


@dataclass(frozen=True)
class Block:
    """Bars under one title, on one scale; ``quiet_s`` of each is the configured quiet time."""

    title: str
    bars: Sequence[Bar]
    quiet_s: float

    @property
    def height(self) -> int:
        return TOP + len(self.bars) * (BAR + GAP) + BOTTOM


class Canvas:
    """An image in units of the page."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, words: str, size: int, anchor: str, fill: str = INK) -> None:
        """Write a line."""
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), words, fill, font, anchor)

    def width(self, words: str, size: int) -> float:
        """Return how wide a line is."""
        return ImageFont.load_default(size * SCALE).getlength(words) / SCALE

    def box(self, left: float, top: float, right: float, bottom: float, fill: str) -> None:
        """Fill a rectangle."""
        self._draw.rectangle([at * SCALE for at in (left, top, right, bottom)], fill)


def draw_times(path: Path, *blocks: Block) -> None:
    """Draw blocks of bars, one below the other."""
    canvas = Canvas(sum(block.height for block in blocks))
    top = 0.0
    for block in blocks:
        _draw_block(canvas, block, top)
        top += block.height
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.image.save(path, "PNG", optimize=True)


def _draw_block(canvas: Canvas, block: Block, top: float) -> None:
    canvas.text(16, top + 24, block.title, 17, "lm")
    shown = {name for bar in block.bars for name, _, _ in bar.spans}
    shades = {"the configured quiet time": WAITED}
    shades |= {name: shade for name, shade in STAGES.items() if name in shown}
    x = 16.0
    for name, shade in shades.items():
        canvas.box(x, top + 42, x + 12, top + 53, shade)
        canvas.text(x + 18, top + 48, name, 12, "lm", FAINT)
        x += 42 + canvas.width(name, 12)
    per_s = (WIDTH - LEFT - RIGHT) / max(bar.seconds for bar in block.bars)
    y = top + TOP
    for bar in block.bars:
        _draw_bar(canvas, bar, block.quiet_s, per_s, y)
        y += BAR + GAP


def _draw_bar(canvas: Canvas, bar: Bar, quiet_s: float, per_s: float, y: float) -> None:
    """Draw the quiet time at full height, the rest, and over both the stages where they ran."""
    end = LEFT + per_s * bar.seconds
    canvas.text(LEFT - 10, y + BAR / 2, bar.name, 13, "rm")
    # Of a bar whose stages are known, what lies between them is a line.
    rest = (y + BAR / 2 - 1, y + BAR / 2 + 1) if bar.spans else (y, y + BAR)
    canvas.box(LEFT, y, LEFT + per_s * min(quiet_s, bar.seconds), y + BAR, WAITED)
    canvas.box(LEFT + per_s * min(quiet_s, bar.seconds), rest[0], end, rest[1], WORKED)
    for name, began_s, ended_s in bar.spans:
        left, right = (LEFT + per_s * max(0.0, at) for at in (began_s, ended_s))
        if right > LEFT:
            canvas.box(left, y + 4, max(right, left + 1), y + BAR - 4, STAGES[name])
    canvas.text(end + 8, y + BAR / 2, f"{bar.seconds:.2f} s", 13, "lm")
