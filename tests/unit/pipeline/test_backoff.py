"""Backoff doubles, is capped and is spread."""

import random

import pytest

from osteon.pipeline.backoff import backoff_s


@pytest.mark.parametrize(
    ("failures", "middle_s"), [(1, 5.0), (2, 10.0), (4, 40.0), (9, 900.0), (5000, 900.0)]
)
def test_doubles_up_to_the_cap_within_the_jitter(failures, middle_s):
    jitter = random.Random(7)
    waits = [backoff_s(failures, first_s=5, max_s=900, jitter=jitter) for _ in range(200)]
    assert 0.75 * middle_s <= min(waits) < 0.8 * middle_s
    assert 1.2 * middle_s < max(waits) <= 1.25 * middle_s
