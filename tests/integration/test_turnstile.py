"""No answer is lost to the association's own reactor, however late either of them is.

The reactor is held up at the one place where pynetdicom's own checkpoint lets it take an answer,
and the sender before it waits for that answer, as happens on a busy machine.
"""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from osteon.results import peer
from osteon.results.pacs import StandInPacs
from osteon.results.peer import Destination, associate
from osteon.results.turnstile import Turnstile
from tests.tools import wait_until

LATE_S = 0.05
SENT_S = 0.1
DIMSE_S = 2.0


class LateTurnstile(Turnstile):
    """The reactor goes on, but not at once."""

    def wait(self) -> None:
        super().wait()
        time.sleep(LATE_S)


class LateEvent(threading.Event):
    """The same with pynetdicom's own checkpoint."""

    def wait(self, timeout: float | None = None) -> bool:
        was_set = super().wait(timeout)
        time.sleep(LATE_S)
        return was_set


def test_every_answer_reaches_the_one_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert statuses(tmp_path, monkeypatch, LateTurnstile) == [0x0000] * 10


def test_without_it_an_answer_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails, pynetdicom has been mended and the turnstile can go."""
    answered = statuses(tmp_path, monkeypatch, lambda _: LateEvent())
    assert None in answered


def statuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> list[int | None]:
    """Send ten C-ECHO over one association; None for one without an answer, and none after it."""

    def put(assoc: Any) -> None:
        assoc._reactor_checkpoint = make(assoc)
        assoc._reactor_checkpoint.set()

    monkeypatch.setattr(peer, "mend", put)
    found: list[int | None] = []
    with StandInPacs(tmp_path / "pacs") as pacs:
        destination = Destination(pacs.ae_title, "127.0.0.1", pacs.port)
        with associate(destination, [build_context(Verification)], DIMSE_S) as assoc:
            send = assoc.dimse.send_msg

            def send_and_be_late(*arguments: Any) -> None:
                send(*arguments)
                time.sleep(SENT_S)

            monkeypatch.setattr(assoc.dimse, "send_msg", send_and_be_late)
            while len(found) < 10 and None not in found:
                response = assoc.send_c_echo()
                found.append(response.Status if "Status" in response else None)
    return found


class Stopped:
    """What a turnstile knows of an association."""

    _is_paused = False


def test_a_reactor_that_has_stopped_says_so_whoever_denies_it() -> None:
    """The thread that serves an N-EVENT-REPORT says at its end that the reactor goes on."""
    assoc = Stopped()
    turnstile = Turnstile(assoc)
    turnstile.clear()
    ended = threading.Event()

    def pass_again_and_again() -> None:
        while not ended.is_set():
            turnstile.wait()

    reactor = threading.Thread(target=pass_again_and_again)
    reactor.start()
    for _ in range(3):
        assoc._is_paused = False
        wait_until(lambda: assoc._is_paused)
        turnstile.set()  # A request has ended, and the release of the association begins at once.
        turnstile.clear()
    ended.set()
    turnstile.set()
    reactor.join(10)
    assert not reactor.is_alive()
    assert not assoc._is_paused
