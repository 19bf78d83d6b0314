"""A thread beside the caller's: the next item is made while the caller works on the last one.

An iterator enters, the same items leave in the same order. `osteon.pipeline.models.sliding` strings
two of these together: the input grid beside the network, and the network beside the output grid.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

import torch

T = TypeVar("T")


def beside(items: Iterator[T], name: str) -> Generator[T, None, None]:
    """Yield what an iterator yields, each item made in a thread while the last one is in use.

    Two items exist at most: the caller's, and the one that is made or has been made after it. The
    thread sees the caller's context variables and its inference mode, not its CUDA stream. Close
    the generator to end the thread: it finishes the item that it is at, and makes no other.

    Parameters
    ----------
    items : iterator
        It must not yield None. Nobody else may use it meanwhile.
    name : str
        Of the thread.

    Raises
    ------
    Exception
        Whatever the iterator raises, in the place of the item.
    """
    context, inference = copy_context(), torch.is_inference_mode_enabled()

    def following() -> T | None:
        with torch.inference_mode(inference):
            return context.run(next, items, None)

    thread = ThreadPoolExecutor(1, name)
    coming: deque[Future[T | None]] = deque()
    try:
        coming.append(thread.submit(following))
        while True:
            coming.append(thread.submit(following))
            item = coming.popleft().result()
            if item is None:
                return
            yield item
            del item  # Not kept alive while the caller waits for the next.
    finally:
        thread.shutdown(cancel_futures=True)
