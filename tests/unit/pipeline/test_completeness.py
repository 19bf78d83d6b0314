"""Completeness: the evidence of Instance Number and of position, and how long is waited."""

import random

import pytest

from osteon.pipeline.completeness import Slice, judge, missing_slices

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def by_number(*numbers):
    return [Slice(n, None, None) for n in numbers]


def by_position(*z_mm, orientation=AXIAL):
    return [Slice(None, (0.0, 0.0, z), orientation) for z in z_mm]


@pytest.mark.parametrize(
    ("slices", "missing"),
    [
        ([], ""),
        (by_number(1), ""),
        (by_number(1, 100), ""),
        (by_number(1, 2, 3), ""),
        (by_number(5, 6, 7, 8), ""),
        (by_number(3, 1, 2, 2, 1), ""),
        (by_number(*range(1, 212), *range(231, 300)), "slices 212–230 missing"),
        (by_number(1, 2, 4, 5), "slices 3 missing"),
        (by_number(1, 2, 4), "slices 3 missing"),
        (by_number(10, 20, 30), ""),
        (by_number(10, 20, 40, 50), "slices 30 missing"),
        (by_number(10, 20, 30, 70, 80), "slices 40–60 missing"),
        (by_number(-3, -2, 0, 1), "slices -1 missing"),
        (by_number(1, 2, 4, 5, 7, 8, 9, 11, 12, 13), "slices 3, 6, 10 missing"),
        (
            by_number(*(n for n in range(1, 30) if n % 5)),
            "slices 5, 10, 15, 20 and 1 more gaps missing",
        ),
        (by_position(0, 5, 10, 15), ""),
        (by_position(0, 5), ""),
        (by_position(0, 5, 10, 20, 25), "about 1 slices missing between 10 and 20 mm"),
        (by_position(0, 5, 10, 30, 35, 40, 60), "about 3 slices missing between 10 and 30 mm"),
        (by_position(0, 0, 0, 5, 10), ""),
        (by_position(5, 5, 5, 5), ""),
    ],
)
def test_what_is_missing_is_named(slices, missing):
    shuffled = random.Random(1).sample(slices, len(slices))
    assert missing_slices(shuffled).startswith(missing)
    assert bool(missing_slices(shuffled)) == bool(missing)


def test_gaps_are_looked_for_along_the_normal():
    positions = [(float(x), 7.0, 9.0) for x in (0, 2, 4, 10, 12)]
    slices = [Slice(None, position, SAGITTAL) for position in positions]
    assert "2 slices missing" in missing_slices(slices)
    in_plane = [Slice(None, (0.0, float(y), 0.0), SAGITTAL) for y in (0, 2, 4, 10, 12)]
    assert missing_slices(in_plane) == ""


def test_mixed_orientations_and_absent_values_tell_of_no_gap():
    mixed = [*by_position(0, 5, 10, 30), *by_position(50, orientation=SAGITTAL)]
    assert missing_slices(mixed) == ""
    assert missing_slices([Slice(None, None, None)] * 5) == ""
    assert missing_slices([Slice(None, (0, 0, 1), None)] * 5) == ""


LIMITS = {"quiet_s": 5.0, "gap_wait_s": 60.0}


def test_not_before_the_quiet_time_is_over():
    verdict = judge(by_number(1, 2, 3), last=100.0, now=104.9, **LIMITS)
    assert (verdict.complete, verdict.due) == (False, 105.0)
    assert verdict.why == "5 s without a new instance"
    assert judge(by_number(1, 2, 3), last=100.0, now=105.0, **LIMITS).complete


def test_gaps_are_waited_for_until_the_gap_wait_is_over():
    slices = by_number(1, 2, 5, 6)
    waits = judge(slices, last=100.0, now=105.0, **LIMITS)
    assert (waits.complete, waits.due, waits.why) == (False, 160.0, "slices 3–4 missing")
    over = judge(slices, last=100.0, now=160.0, **LIMITS)
    assert over.complete
    assert over.why == "slices 3–4 missing and did not come within 60 s"


def test_a_gap_wait_shorter_than_the_quiet_time_never_shortens_it():
    slices = by_number(1, 2, 5, 6)
    verdict = judge(slices, last=100.0, now=104.0, quiet_s=5.0, gap_wait_s=1.0)
    assert (verdict.complete, verdict.due) == (False, 105.0)
    assert judge(slices, last=100.0, now=105.0, quiet_s=5.0, gap_wait_s=1.0).complete


@pytest.mark.parametrize("now", [0.0, 99.0, 100.0, 105.0, 130.0])
def test_what_is_not_complete_is_always_due_later_than_now(now):
    """A due time in the past would make the observer spin."""
    verdict = judge(by_number(1, 2, 5, 6), last=100.0, now=now, **LIMITS)
    assert not verdict.complete
    assert verdict.due > now
