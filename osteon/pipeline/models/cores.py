"""How much of the processor a network keeps busy: whether other threads find room beside it.

A network's first window is watched, by `osteon.pipeline.models.sliding`; how many cores it kept
busy leaves.
"""

import time
from collections.abc import Callable

import torch

# Of the cores' time. Where one of two is at work it is less, and more where both are, now and then
# waiting for each other.
BUSY_MIN = 2 / 3


class BusyCores:
    """Counts the cores that this process keeps busy from now on, whichever of its threads it is.

    Parameters
    ----------
    wall_s, cpu_s : callable
        Clocks, in seconds: what has passed, and what the process has used of the processor.
    """

    def __init__(
        self,
        wall_s: Callable[[], float] = time.perf_counter,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._wall_s, self._cpu_s = wall_s, cpu_s
        self._started = wall_s(), cpu_s()

    @property
    def count(self) -> float:
        """How many they were on average: 0.0 while the process only waits."""
        wall_s, cpu_s = self._started
        return (self._cpu_s() - cpu_s) / max(1e-9, self._wall_s() - wall_s)

    @property
    def leave_room(self) -> bool:
        """Whether the others of the cores that torch may use here are worth a thread."""
        return self.count < BUSY_MIN * torch.get_num_threads()
