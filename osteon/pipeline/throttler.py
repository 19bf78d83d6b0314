"""The throttler: which waiting jobs may enter, so that the queue never congests the system.

Counts, limits and free space enter; the jobs to admit, and why the others are held, leave. A pure
function: the observer asks it at every tick and writes down what it says.
"""

from collections import Counter
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
    waiting: Sequence[Waiting], running: Mapping[str, int], free_bytes: int, limits: Limits
) -> Admission:
    """Decide which jobs enter.

    The most urgent class goes first. Within it, the source that has least in the system for its
    weight is next, so that a source with thousands of series cannot starve another.

    Parameters
    ----------
    waiting : sequence of Waiting
        The head of every source's line, each in its own order.
    running : mapping
        Source → its jobs between admission and delivery.
    free_bytes : int
        Free space on the data directory's disk.
    """
    if waiting and free_bytes < limits.free_bytes_min:
        return Admission((), f"waits for disk space: {free_bytes / 1e9:.1f} GB are free")
    inside = Counter(running)
    left = list(waiting)
    admitted: list[int] = []
    while left and inside.total() < limits.running_max:
        chosen = min(
            left,
            key=lambda job: (
                job.priority,
                inside[job.source] / limits.weights.get(job.source, 1.0),
                job.job_id,
            ),
        )
        left.remove(chosen)
        inside[chosen.source] += 1
        admitted.append(chosen.job_id)
    held = f"waits for room: {inside.total()} of {limits.running_max} jobs are running"
    return Admission(tuple(admitted), held if left else "")
