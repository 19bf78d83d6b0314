"""How far a stage has come: what computes says so, and who runs the stage hears it.

Counts of what is done enter, from the reading of a volume or from the midst of a model; fractions
leave to the listener of this thread. Where nobody listens, telling costs next to nothing, so a
model tells after every patch or slice and need not know who asks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class _Listener:
    """Who hears, and which part of the whole is told of now."""

    hear: Callable[[float], None]
    low: float = 0.0
    high: float = 1.0


_listener: ContextVar[_Listener | None] = ContextVar("listener", default=None)


def tell(done: int, total: int) -> None:
    """Say that `done` of `total` steps of the present part are behind us.

    Parameters
    ----------
    done : int
        0 to `total`.
    total : int
        Steps in all, 1 or more.
    """
    listener = _listener.get()
    if listener is not None:
        listener.hear(listener.low + (listener.high - listener.low) * done / total)


@contextmanager
def heard_by(hear: Callable[[float], None]) -> Iterator[None]:
    """Let a listener hear what the block tells, as a fraction of the block."""
    token = _listener.set(_Listener(hear))
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def part(low: float, high: float) -> Iterator[None]:
    """Let what the block tells stand for a part, 0 to 1, of what is told of around it."""
    around = _listener.get()
    if around is None:
        yield
        return
    width = around.high - around.low
    token = _listener.set(
        replace(around, low=around.low + low * width, high=around.low + high * width)
    )
    try:
        yield
    finally:
        _listener.reset(token)
