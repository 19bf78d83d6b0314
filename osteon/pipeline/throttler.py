"""The throttler: which waiting jobs may enter, so that the queue never congests the system.

Counts, limits and free space enter; the jobs to admit, and why the others are held, leave. A pure
function: the observer asks it at every tick and writes down what it says.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A job at the door.

    Attributes
    ----------
    priority : int
        Its class, 0 the most urgent.
    """

    job_id: int
    source: str
    priority: int


@dataclass(frozen=True)
class Limits:
    """What the system can bear.

    Attributes
    ----------
    running_max : int
        Jobs between admission and delivery.
    free_bytes_min : int
        Below this free space nothing enters, since every job writes.
    weights : mapping
        Source → its share; 1 where absent.
    """

    running_max: int
    free_bytes_min: int
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Admission:
    """The throttler's answer.

    Attributes
    ----------
    admitted : tuple of int
        Job ids, in the order in which they enter.
    held : str
        Why the rest waits, in words; "" where nothing is held.
    """

    admitted: tuple[int, ...]
    held: str


def admit(
    waiting: Sequence[Waiting],
    running: Mapping[str, int],
    free_bytes: int,
    limits: Limits,
    served: Mapping[str, float] | None = None,
) -> Admission:
    """Decide which jobs enter.

    The most urgent class goes first. Within it, the source that has least in the system for its
    weight is next, so that a source with thousands of series cannot starve another; among equals
    it is the one that was served longest ago, so that a single slot is shared in turns.

    Parameters
    ----------
    waiting : sequence of Waiting
        The head of every source's line, each in its own order: by class, then by age.
    running : mapping
        Source → its jobs between admission and delivery.
    free_bytes : int
        Free space on the data directory's disk.
    served : mapping, optional
        Source → when a job of it was last admitted, in seconds since 1970; never where absent.
    """
    if waiting and free_bytes < limits.free_bytes_min:
        return Admission((), f"waits for disk space: {free_bytes / 1e9:.1f} GB are free")
    inside = Counter(running)
    last = dict(served or {})
    lines: dict[str, deque[Waiting]] = {}
    for job in waiting:
        lines.setdefault(job.source, deque()).append(job)
    admitted: list[int] = []

    def precedence(line: deque[Waiting]) -> tuple[int, float, float, int]:
        job = line[0]
        share = inside[job.source] / limits.weights.get(job.source, 1.0)
        return job.priority, share, last.get(job.source, 0.0), job.job_id

    while lines and inside.total() < limits.running_max:
        line = min(lines.values(), key=precedence)
        chosen = line.popleft()
        if not line:
            del lines[chosen.source]
        inside[chosen.source] += 1
        last[chosen.source] = float("inf")  # It is the last that was served.
        admitted.append(chosen.job_id)
    held = f"waits for room: {inside.total()} of {limits.running_max} jobs are running"
    return Admission(tuple(admitted), held if lines else "")
