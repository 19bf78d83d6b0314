"""Is a series complete? Judged by evidence, never by the end of an association (PS3.4 B.4).

The index of a series' instances enters, and how its sender could be heard; a `Verdict` leaves:
complete, or what it waits for and until when. Pure functions; the observer calls them with its
clock.

Silence is evidence only where something could have been heard. After a receiver was killed, quiet
time does not pass until one listens again, and then it starts anew. A sender that was cut off has
more to send: it is given the gap wait, from when it can be heard again. Every wait has an end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, median_low

GAP_RATIO = 1.5  # A step this much longer than the median step leaves out a slice.
RANGES_NAMED_MAX = 4
LOOK_AGAIN_S = 5.0  # At a sender that has come again and brought nothing new yet.
RETURN_WAIT_S = 600.0  # For a receiver that is gone: long enough to start a host again.


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
class Link:
    """How the sender of a series could be heard. All times are in seconds since 1970.

    Attributes
    ----------
    sender : str
        Its AE title.
    listening : float or None
        Since when the receiver listens, or did until it was killed; None where it was stopped in
        good order.
    gone : float or None
        Since when no receiver listens, as far as is known; None while one does.
    cut : float or None
        When the sender was cut off in the middle of something, as far as is known; None where it
        was not, or has come again.
    how : str
        How its association ended, in the words of the association log; "" where it is open.
    is_back : bool
        Whether the sender has an association open that it opened since.
    """

    sender: str
    listening: float | None
    gone: float | None = None
    cut: float | None = None
    how: str = ""
    is_back: bool = False


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
    slices: Sequence[Slice],
    *,
    last: float,
    now: float,
    quiet_s: float,
    gap_wait_s: float,
    link: Link | None = None,
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
        Quiet time that a series with gaps needs, and one whose sender was cut off.
    link : Link, optional
        How its sender could be heard; None where it came by HTTP.
    """
    until, waits_for = last + quiet_s, quiet_words(quiet_s)
    if link is not None and now >= until:
        until, waits_for = _unheard_until(link, last, now, quiet_s, gap_wait_s)
    if now < until:
        return Verdict(False, until, waits_for)
    missing = missing_slices(slices)
    if not missing:
        silence = f"quiet for {quiet_s:g} s"
        if link is not None and link.cut is not None:
            silence = f"{link.sender} was cut off and not heard again"
        return Verdict(True, now, f"{len(slices)} instances, no gap, {silence}")
    gap_until = last + max(quiet_s, gap_wait_s)
    if now < gap_until:
        return Verdict(False, gap_until, missing)
    return Verdict(True, now, f"{missing} and did not come within {gap_wait_s:g} s")


def _unheard_until(
    link: Link, last: float, now: float, quiet_s: float, gap_wait_s: float
) -> tuple[float, str]:
    """Return until when silence tells nothing of a series, and what is waited for meanwhile."""
    listening = link.listening or 0.0
    if link.cut is None:
        latest = last + max(quiet_s, gap_wait_s)
        if link.gone is not None and link.listening is not None:
            return latest, "the receiver to listen again"
        return min(max(last, listening) + quiet_s, latest), quiet_words(quiet_s)
    latest = link.cut + max(RETURN_WAIT_S, gap_wait_s)
    if link.gone is not None:
        return latest, f"the receiver to listen again: it stopped while {link.sender} was sending"
    until = max(link.cut, listening) + gap_wait_s
    if link.is_back:  # It may send the whole series again, and what is held already first.
        until = max(until, now + LOOK_AGAIN_S)
    return min(until, latest), f"{link.sender} to send again: it was cut off ({link.how})"


def quiet_words(quiet_s: float) -> str:
    """Say what a series waits for of which nothing else is known."""
    return f"{quiet_s:g} s without a new instance"


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
