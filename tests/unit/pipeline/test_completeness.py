"""Completeness: the evidence of Instance Number and of position, and how long is waited."""

import random

import pytest

from osteon.pipeline.completeness import RETURN_WAIT_S, Link, Slice, judge, missing_slices

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


def judge_linked(now, numbers=(1, 2, 3), **link):
    return judge(by_number(*numbers), last=100.0, now=now, link=Link("CT1", **link), **LIMITS)


def test_while_no_receiver_listens_quiet_time_does_not_pass():
    """Its sender had released: it may bring one slice an association, but not for ever."""
    verdict = judge_linked(105.0, listening=0.0, gone=101.0)
    assert (verdict.complete, verdict.due) == (False, 160.0)
    assert verdict.why == "the receiver to listen again"
    assert judge_linked(160.0, listening=0.0, gone=101.0).complete


def test_nobody_waits_for_a_receiver_that_was_stopped_in_good_order():
    assert judge_linked(105.0, listening=None, gone=101.0).complete
    assert not judge_linked(105.0, listening=None, gone=101.0, cut=101.0).complete


def test_quiet_time_starts_anew_when_the_receiver_listens_again():
    verdict = judge_linked(105.0, listening=104.0)
    assert (verdict.complete, verdict.due) == (False, 109.0)
    assert verdict.why == "5 s without a new instance"
    assert judge_linked(109.0, listening=104.0).complete


def test_a_receiver_that_comes_and_goes_keeps_nothing_waiting():
    assert judge_linked(159.9, listening=159.0).due == 160.0
    assert judge_linked(160.0, listening=159.0).complete


def test_a_sender_that_was_cut_off_is_waited_for_from_when_it_can_be_heard():
    cut = {"listening": 107.0, "cut": 107.0, "how": "lost"}
    verdict = judge_linked(110.0, **cut)
    assert (verdict.complete, verdict.due) == (False, 167.0)
    assert verdict.why == "CT1 to send again: it was cut off (lost)"
    over = judge_linked(167.0, **cut)
    assert over.complete
    assert over.why == "3 instances, no gap, CT1 was cut off and not heard again"
    again = judge_linked(167.0, **cut | {"listening": 150.0})
    assert (again.complete, again.due) == (False, 210.0)


def test_a_sender_that_is_back_may_first_bring_what_is_held_already():
    cut = {"listening": 107.0, "cut": 107.0, "how": "lost", "is_back": True}
    assert judge_linked(110.0, **cut).due == 167.0
    verdict = judge_linked(200.0, **cut)
    assert (verdict.complete, verdict.due) == (False, 205.0)
    assert judge_linked(107.0 + RETURN_WAIT_S, **cut).complete
    assert judge_linked(200.0, **cut | {"is_back": False}).complete


def test_a_receiver_that_does_not_come_back_is_waited_for_ten_minutes():
    verdict = judge_linked(105.0, listening=0.0, gone=101.0, cut=101.0)
    assert (verdict.complete, verdict.due) == (False, 101.0 + RETURN_WAIT_S)
    assert verdict.why == "the receiver to listen again: it stopped while CT1 was sending"
    assert judge_linked(101.0 + RETURN_WAIT_S, listening=0.0, gone=101.0, cut=101.0).complete
    late = 101.0 + RETURN_WAIT_S
    assert judge_linked(late, listening=late - 1.0, cut=101.0).complete


def test_slices_may_be_missing_of_a_sender_that_was_cut_off():
    over = judge_linked(167.0, (1, 2, 5, 6), listening=107.0, cut=107.0)
    assert over.why == "slices 3–4 missing and did not come within 60 s"


@pytest.mark.parametrize("is_back", [False, True])
@pytest.mark.parametrize("gone", [None, 99.0, 101.0])
@pytest.mark.parametrize("cut", [None, 99.0, 101.0])
@pytest.mark.parametrize("listening", [None, 0.0, 50.0, 103.0, 690.0])
def test_every_wait_has_an_end(gone, cut, listening, is_back):
    """Looked at when due, again and again, while a receiver comes back every now and then."""
    now = 100.0
    while True:
        verdict = judge_linked(now, listening=listening, gone=gone, cut=cut, is_back=is_back)
        if verdict.complete:
            break
        assert verdict.due > now
        now = verdict.due
        listening = None if listening is None else now - 0.5
    assert 105.0 <= now <= 101.0 + RETURN_WAIT_S


@pytest.mark.parametrize("now", [0.0, 99.0, 100.0, 105.0, 130.0])
def test_what_is_not_complete_is_always_due_later_than_now(now):
    """A due time in the past would make the observer spin."""
    verdict = judge(by_number(1, 2, 5, 6), last=100.0, now=now, **LIMITS)
    assert not verdict.complete
    assert verdict.due > now
