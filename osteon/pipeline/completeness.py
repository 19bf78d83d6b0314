"""Is a series complete? Judged by evidence, never by the end of an association (PS3.4 B.4).

The index of a series' instances enters, a `Verdict` leaves: complete, or what it waits for and
until when. Pure functions; the observer calls them with its clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, median_low

GAP_RATIO = 1.5  # A step this much longer than the median step leaves out a slice.
RANGES_NAMED_MAX = 4


@dataclass(frozen=True)
class Slice:
    """What the index knows of one instance.

    Attributes
    ----------
    instance_number : int or None
        Instance Number (0020,0013).
    position_mm : sequence of 3 float, or None
        Image Position (Patient).
    orientation : sequence of 6 float, or None
        Image Orientation (Patient).
    """

    instance_number: int | None
    position_mm: Sequence[float] | None
    orientation: Sequence[float] | None


@dataclass(frozen=True)
class Verdict:
    """What the evidence says.

    Attributes
    ----------
    due : float
        When to look again, in seconds since 1970; of no meaning when complete.
    why : str
        In words: what it waits for, or why it counts as complete.
    """

    complete: bool
    due: float
    why: str


def judge(
    slices: Sequence[Slice], *, last: float, now: float, quiet_s: float, gap_wait_s: float
) -> Verdict:
    """Judge whether a series is complete.

    Parameters
    ----------
    slices : sequence of Slice
        What is held.
    last, now : float
        When the last instance arrived, and the time now, in seconds since 1970.
    quiet_s : float
        Quiet time that a series without gaps needs.
    gap_wait_s : float
        Quiet time that a series with gaps needs.
    """
    if now < last + quiet_s:
        return Verdict(False, last + quiet_s, f"{quiet_s:g} s without a new instance")
    missing = missing_slices(slices)
    if not missing:
        return Verdict(True, now, f"{len(slices)} instances, no gap, quiet for {quiet_s:g} s")
    gap_until = last + max(quiet_s, gap_wait_s)
    if now < gap_until:
        return Verdict(False, gap_until, missing)
    return Verdict(True, now, f"{missing} and did not come within {gap_wait_s:g} s")


def missing_slices(slices: Sequence[Slice]) -> str:
    """Say which slices are missing, or "" where nothing tells of a gap.

    Gaps are steps of Instance Number, or of the position along the normal, that are longer than
    1.5 times the median step of the series.
    """
    numbers = sorted({s.instance_number for s in slices if s.instance_number is not None})
    ranges = _number_gaps(numbers)
    if ranges:
        named = ", ".join(ranges[:RANGES_NAMED_MAX])
        more = f" and {len(ranges) - RANGES_NAMED_MAX} more gaps"
        return f"slices {named}{more if len(ranges) > RANGES_NAMED_MAX else ''} missing"
    return _position_gap(slices)


def _number_gaps(numbers: Sequence[int]) -> list[str]:
    if len(numbers) < 3:
        return []
    step = median_low(b - a for a, b in pairwise(numbers))
    gaps = [(a + step, b - step) for a, b in pairwise(numbers) if b - a > GAP_RATIO * step]
    return [f"{a}–{b}" if a < b else f"{a}" for a, b in gaps]


def _position_gap(slices: Sequence[Slice]) -> str:
    orientations = {tuple(s.orientation) for s in slices if s.orientation is not None}
    if len(orientations) != 1:
        return ""
    (rx, ry, rz, cx, cy, cz) = orientations.pop()
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    along = sorted(
        {
            round(sum(p * n for p, n in zip(s.position_mm, normal, strict=True)), 2)
            for s in slices
            if s.position_mm is not None
        }
    )
    if len(along) < 3:
        return ""
    step = median(b - a for a, b in pairwise(along))
    wide = [(a, b) for a, b in pairwise(along) if b - a > GAP_RATIO * step]
    if not wide:
        return ""
    a, b = wide[0]
    count = max(1, round((b - a) / step) - 1)
    more = f", and {len(wide) - 1} more gaps" if len(wide) > 1 else ""
    return f"about {count} slices missing between {a:g} and {b:g} mm along the normal{more}"
