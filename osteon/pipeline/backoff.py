"""How long to wait before the next attempt: doubling, capped, and spread by jitter."""

import random

JITTER = 0.25


def backoff_s(failures: int, *, first_s: float, max_s: float, jitter: random.Random) -> float:
    """Return the wait after so many failures in seconds.

    Parameters
    ----------
    failures : int
        Failures so far, at least 1.
    first_s, max_s : float
        The wait after the first failure, and the longest.
    jitter : random.Random
        Spreads the wait by `JITTER` to both sides, so that what failed together is not tried
        together.
    """
    doubled = first_s * 2.0 ** min(failures - 1, 62)
    return min(doubled, max_s) * jitter.uniform(1 - JITTER, 1 + JITTER)
