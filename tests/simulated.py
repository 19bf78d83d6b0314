"""An engine and a sender in injected time: what they do, and for how long, is the player's to say.

The dispatcher and the delivery loop use them as they use the real ones. Nothing runs by itself:
whoever moves the clock calls `run_due`, and asks `next_end` how far it may be moved.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from osteon.errors import OsteonError, WorkerLostError
from osteon.pipeline.sender import SENDERS_MAX
from osteon.pipeline.table.connection import Row
from osteon.pipeline.workers.request import StageReport, StageRequest
from osteon.pipeline.workers.slot import Chain

NEVER = float("inf")


@dataclass(frozen=True)
class Part:
    """What one request becomes: an outcome after so many seconds, or `NEVER`."""

    seconds: float
    end: Callable[[], StageReport | OsteonError]


@dataclass
class _Playing:
    chain: Chain
    part: Part
    began: float

    @property
    def ends(self) -> float:
        return self.began + self.part.seconds


class SimulatedEngine:
    """Slots in injected time.

    Parameters
    ----------
    play : callable
        Request → what it becomes.
    """

    reason = ""

    def __init__(
        self, clock: Callable[[], float], slots: int, play: Callable[[StageRequest], Part]
    ) -> None:
        self._clock, self.play = clock, play
        self.slots = slots
        self.busy_s = 0.0
        self._queue: deque[Chain] = deque()
        self._playing: list[_Playing] = []

    @property
    def free(self) -> int:
        return 0 if self._queue else self.slots - len(self._playing)

    @property
    def room(self) -> int:
        return self.free + self.slots - len(self._queue)

    def submit(self, request: Any) -> "Future[StageReport]":
        if not self.free:
            raise RuntimeError("no slot is free")
        return self._take(Chain((request,)))[0]

    def chain(
        self, requests: Sequence[StageRequest], *, alone: bool = False
    ) -> "tuple[Future[StageReport], ...]":
        if not self.room:
            raise RuntimeError("no slot is free, and each has what follows")
        return self._take(Chain(tuple(requests), alone=alone))

    def withdraw(self, future: "Future[StageReport]") -> bool:
        for chain in self._queue:
            if chain.futures[0] is future:
                self._queue.remove(chain)
                chain.cancel()
                return True
        return False

    def kill(self, future: "Future[StageReport]") -> None:
        for playing in self._playing:
            if playing.chain.present is future:
                self._end(playing, WorkerLostError("the worker process died"), self._clock())
                break
        self._feed(self._clock())

    def lose_worker(self, number: int) -> None:
        """End one of the workers that run something, as the kernel's OOM killer does."""
        if self._playing:
            present = self._playing[number % len(self._playing)].chain.present
            assert present is not None
            self.kill(present)

    def progress(self, future: "Future[StageReport]") -> float:
        for playing in self._playing:
            if playing.chain.present is future and playing.part.seconds not in {0.0, NEVER}:
                return min(1.0, (self._clock() - playing.began) / playing.part.seconds)
        return 0.0

    def close(self) -> None:
        self._queue.clear()
        self._playing.clear()

    def shift(self, seconds: float) -> None:
        """Let what runs end as much later as before, though the clock was set."""
        for playing in self._playing:
            playing.began += seconds

    def next_end(self) -> float:
        """Return when the next request ends, in seconds since 1970, or `NEVER`."""
        return min((playing.ends for playing in self._playing), default=NEVER)

    def run_due(self) -> None:
        """End what is over by now, in the order of its end, and begin what follows."""
        now = self._clock()
        while self._playing:
            first = min(self._playing, key=lambda playing: playing.ends)
            if first.ends > now:
                return
            self._end(first, first.part.end(), first.ends)
            self._feed(first.ends)

    def _take(self, chain: Chain) -> "tuple[Future[StageReport], ...]":
        self._queue.append(chain)
        self._feed(self._clock())
        return chain.futures

    def _feed(self, now: float) -> None:
        while self._queue and len(self._playing) < self.slots:
            chain = self._queue.popleft()
            chain.begin()
            self._playing.append(_Playing(chain, self.play(chain.requests[0]), now))

    def _end(self, playing: _Playing, outcome: StageReport | OsteonError, at: float) -> None:
        self.busy_s += at - playing.began
        chain = playing.chain
        chain.settle(outcome)
        if chain.present is None:
            self._playing.remove(playing)
        else:
            playing.part, playing.began = self.play(chain.requests[chain.at]), at


class SimulatedSender:
    """Destinations in injected time.

    Parameters
    ----------
    answer : callable
        Delivery → what is known of it when it was sent, or why it was not.
    seconds : float
        How long one delivery takes.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        answer: Callable[[Row], str | OsteonError],
        seconds: float = 1.0,
    ) -> None:
        self._clock, self._answer, self._seconds = clock, answer, seconds
        self._sending: list[tuple[float, Row, Future[str]]] = []

    @property
    def room(self) -> int:
        return SENDERS_MAX - len(self._sending)

    def send(self, delivery: Row) -> "Future[str]":
        future: Future[str] = Future()
        future.set_running_or_notify_cancel()
        self._sending.append((self._clock() + self._seconds, delivery, future))
        return future

    def close(self) -> None:
        self._sending.clear()

    def shift(self, seconds: float) -> None:
        """Let what is being sent take as long as before, though the clock was set."""
        self._sending = [(at + seconds, delivery, future) for at, delivery, future in self._sending]

    def next_end(self) -> float:
        """Return when the next delivery is over, in seconds since 1970, or `NEVER`."""
        return min((at for at, _, _ in self._sending), default=NEVER)

    def run_due(self) -> None:
        """Answer what is over by now."""
        due = [one for one in self._sending if one[0] <= self._clock()]
        self._sending = [one for one in self._sending if one[0] > self._clock()]
        for _, delivery, future in sorted(due, key=lambda one: one[0]):
            outcome = self._answer(delivery)
            if isinstance(outcome, OsteonError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
