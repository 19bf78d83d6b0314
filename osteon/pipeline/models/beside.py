"""A thread beside the caller's: the next items are made while the caller works on the last one.

An iterator enters, the same items leave in the same order. `osteon.pipeline.models.sliding` strings
two of these together: the input grid beside the network, and the network beside the output grid.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from typing import TypeVar

import torch

T = TypeVar("T")


class Beside(Iterator[T]):
    """Yields what an iterator yields, items made in a thread while the last one is in use.

    Besides the caller's item, so many exist at most as are made ahead of it. The first is begun at
    once. The thread sees the caller's context variables and its inference mode, not its CUDA
    stream.

    Parameters
    ----------
    items : iterator
        It must not yield None. Nobody else may use it meanwhile.
    name : str
        Of the thread.
    ahead : int
        How many items are made after the caller's.

    Raises
    ------
    Exception
        Whatever the iterator raises, in the place of the item.
    """

    def __init__(self, items: Iterator[T], name: str, ahead: int = 1) -> None:
        self._items = items
        self._context, self._inference = copy_context(), torch.is_inference_mode_enabled()
        self._thread = ThreadPoolExecutor(1, name)
        self._coming: deque[Future[T | None]] = deque()
        for _ in range(ahead):
            self._begin()

    def __next__(self) -> T:
        """Return the next item, and have another one made."""
        if not self._coming:
            raise StopIteration
        with ExitStack() as otherwise:
            otherwise.callback(self.close)
            self._begin()
            item = self._coming.popleft().result()
            if item is not None:
                otherwise.pop_all()
                return item
        raise StopIteration

    def close(self) -> None:
        """End the thread: it finishes the item that it is at, and makes no other."""
        self._thread.shutdown(cancel_futures=True)
        self._coming.clear()

    def _begin(self) -> None:
        self._coming.append(self._thread.submit(self._following))

    def _following(self) -> T | None:
        with torch.inference_mode(self._inference):
            return self._context.run(next, self._items, None)
