"""A thread beside the caller's: the same items, few at once, and an end whatever happens."""

import threading
from collections.abc import Iterator
from contextlib import closing
from contextvars import ContextVar

import pytest
import torch

from osteon.pipeline.models.beside import Beside

PATIENCE_S = 30.0


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def test_items_come_in_their_order() -> None:
    assert list(Beside(iter(range(100)), "counts")) == list(range(100))
    assert not threads_named("counts")


def test_the_next_item_is_made_while_the_last_is_in_use() -> None:
    begun = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for number, event in enumerate(begun):
            event.set()
            yield number

    with closing(Beside(items(), "ahead")) as made:
        assert next(made) == 0
        assert begun[1].wait(PATIENCE_S), "the second begins without being asked for"
        assert next(made) == 1
        assert begun[2].wait(PATIENCE_S)


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_items_exist_than_are_made_ahead_and_the_callers(ahead: int) -> None:
    alive, most = 0, 0
    made: list[threading.Event] = [threading.Event() for _ in range(11)]

    class Item:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def make(event: threading.Event) -> Item:
        item = Item()
        event.set()
        return item

    number = 0
    for item in Beside((make(event) for event in made), "bounded", ahead):
        number += 1
        # Those after it are made meanwhile, and no further one.
        assert made[min(number + ahead, len(made)) - 1].wait(PATIENCE_S)
        del item
    assert (number, most) == (11, 1 + ahead)


def test_an_error_in_the_thread_reaches_the_caller_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    made = Beside(items(), "fails")
    assert next(made) == 1
    with pytest.raises(torch.OutOfMemoryError, match="CUDA"):
        next(made)
    assert not threads_named("fails")


def test_a_caller_that_leaves_ends_the_thread() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            asked.append(number)
            yield number

    made = Beside(items(), "left")
    assert next(made) == 0
    made.close()
    assert not threads_named("left")
    assert len(asked) <= 2, "nothing is made that nobody wants"


def test_the_thread_sees_what_the_caller_set() -> None:
    said: ContextVar[str] = ContextVar("said", default="nothing")

    def items() -> Iterator[tuple[str, bool]]:
        yield said.get(), torch.is_inference_mode_enabled()

    token = said.set("this")
    with torch.inference_mode():
        assert list(Beside(items(), "sees")) == [("this", True)]
    said.reset(token)
    assert list(Beside(items(), "sees")) == [("nothing", False)]
