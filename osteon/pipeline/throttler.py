"""The throttler: which waiting job enters next, so that the queue never congests the system.

The heads of all lines, what is inside, and limits enter; the job to let in leaves, or why each must
wait. Pure functions: ``admission.py`` asks them at every tick and writes down what they say.

Within a class the sources share by start-time fair queuing: each has a clock of its own that every
admitted job sets forward by its cost for the source's weight, and the source whose clock is
furthest behind is next. Who had nothing to do starts at the present time of the class, so that
idleness earns nothing and a long line costs only its owner.

References
----------
Goyal, Vin, Cheng: Start-time Fair Queuing. SIGCOMM 1996.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Needs:
    """What a job takes of the system: ``cost`` is in voxels, its memory and disk in bytes."""

    cost: int = 1
    memory_bytes: int = 0
    disk_bytes: int = 0


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
    model: str = ""
    needs: Needs = field(default_factory=Needs)


@dataclass(frozen=True)
class Limits:
    """What the system can bear.

    Attributes
    ----------
    running_max : int
        Jobs between admission and delivery; those of a less urgent class do not count.
    models_max, sources_max : mapping
        The same for one model and for one source; no limit where absent.
    weights : mapping
        Source → its share; 1 where absent.
    memory_bytes_max : int or None
        What all jobs inside may take together; a larger job enters alone.
    free_bytes_min : int
        Free space that the jobs inside must leave.
    """

    running_max: int
    models_max: Mapping[str, int] = field(default_factory=dict)
    sources_max: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    memory_bytes_max: int | None = None
    free_bytes_min: int = 0


class Inside:
    """What is between admission and delivery.

    Parameters
    ----------
    jobs : iterable of Waiting
        All of it.
    """

    def __init__(self, jobs: Iterable[Waiting] = ()) -> None:
        self.by_class: Counter[int] = Counter()
        self.by_model: Counter[str] = Counter()
        self.by_source: Counter[str] = Counter()
        self.memory_bytes = self.disk_bytes = 0
        for job in jobs:
            self.add(job)

    def add(self, job: Waiting) -> None:
        """Count a job that has entered."""
        self.by_class[job.priority] += 1
        self.by_model[job.model] += 1
        self.by_source[job.source] += 1
        self.memory_bytes += job.needs.memory_bytes
        self.disk_bytes += job.needs.disk_bytes

    def as_urgent_as(self, priority: int) -> int:
        """Return how many jobs are of a class or of a more urgent one."""
        return sum(n for of, n in self.by_class.items() if of <= priority)


@dataclass(frozen=True)
class Clocks:
    """How far one class has been served, in voxels for a weight of 1.

    Attributes
    ----------
    now : float
        Where the job that was admitted last began: the present time of the class.
    served : mapping
        Source → where its next job begins; `now` where absent or earlier.
    """

    now: float = 0.0
    served: Mapping[str, float] = field(default_factory=dict)

    def start(self, source: str) -> float:
        """Return where the next job of a source begins."""
        return max(self.now, self.served.get(source, 0.0))


def choose(
    heads: Sequence[Waiting],
    inside: Inside,
    limits: Limits,
    free_bytes: int,
    clocks: Mapping[int, Clocks],
) -> tuple[Waiting | None, dict[int, str]]:
    """Decide which job enters next.

    The most urgent class goes first. Lines at the limit of their own model or source are passed
    over. The head that is next waits for room, memory and disk space, and nobody of its class or
    behind overtakes it meanwhile: a large job is not starved by small ones.

    Parameters
    ----------
    heads : sequence of Waiting
        The first job of every line.
    free_bytes : int
        Free space on the data directory's disk.
    clocks : mapping
        Class → how far its sources have been served.

    Returns
    -------
    chosen : Waiting or None
        The job that enters.
    held : dict
        Where none enters: job id → why it waits, in words.
    """
    own = {head.job_id: own_limit(head, inside, limits) for head in heads}
    free = [head for head in heads if not own[head.job_id]]
    if not free:
        return None, own
    none = Clocks()

    def precedence(head: Waiting) -> tuple[int, float, int]:
        """Class, then whose source has been served least, then who came first."""
        return head.priority, clocks.get(head.priority, none).start(head.source), head.job_id

    first = min(free, key=precedence)
    why = shared_limit(first, inside, limits, free_bytes)
    if not why:
        return first, {}
    behind = why if why.startswith("waits for room") else f"waits for its turn: the next job {why}"
    held = {job_id: reason or behind for job_id, reason in own.items()}
    return None, held | {first.job_id: why}


def own_limit(job: Waiting, inside: Inside, limits: Limits) -> str:
    """Return why a job must wait though others may pass it, or "" where it need not."""
    most = limits.models_max.get(job.model)
    if most is not None and inside.by_model[job.model] >= most:
        return f"waits for its model: {_jobs(most)} of {job.model} may run at once"
    most = limits.sources_max.get(job.source)
    if most is not None and inside.by_source[job.source] >= most:
        return f"waits for its source: {_jobs(most)} of {job.source} may run at once"
    return ""


def shared_limit(job: Waiting, inside: Inside, limits: Limits, free_bytes: int) -> str:
    """Return why a job and all behind it must wait, or "" where it may enter.

    The words hold no number that changes while it waits, so that they are written down once.
    """
    needs = job.needs
    if inside.as_urgent_as(job.priority) >= limits.running_max:
        return f"waits for room: {_jobs(limits.running_max)} may run at once"
    memory_max = limits.memory_bytes_max
    if memory_max is not None and inside.memory_bytes + needs.memory_bytes > memory_max:
        crowded = inside.memory_bytes > 0
        if crowded:
            need, budget = needs.memory_bytes / 1e9, memory_max / 1e9
            return f"waits for memory: it needs {need:.1f} of the {budget:.1f} GB that jobs share"
    if free_bytes - inside.disk_bytes - needs.disk_bytes < limits.free_bytes_min:
        need, kept = needs.disk_bytes / 1e9, limits.free_bytes_min / 1e9
        return f"waits for disk space: it needs {need:.1f} GB beside the {kept:.1f} GB kept free"
    return ""


def advance(clocks: Clocks, job: Waiting, limits: Limits) -> tuple[float, float]:
    """Return where an admitted job began, and where the next one of its source begins.

    Both are in voxels for a weight of 1, as `Clocks` counts.
    """
    began = clocks.start(job.source)
    return began, began + job.needs.cost / limits.weights.get(job.source, 1.0)


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
