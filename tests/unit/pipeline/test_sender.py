"""Sending on threads: a few at a time, and nobody waits for one that hangs."""

import threading
import time

from osteon.errors import DeliveryError, OutOfResourcesError
from osteon.pipeline import sender
from osteon.pipeline.sender import SENDERS_MAX, ThreadSender
from tests.tools import wait_until


def row(number: int) -> dict:
    return {"id": number, "destination": f"pacs{number}"}


def test_what_was_sent_and_what_was_not_is_known_from_the_future():
    def send(delivery):
        if delivery["id"] == 2:
            raise DeliveryError("nobody there")
        return "stored"

    sending = ThreadSender(send)
    assert sending.send(row(1)).result(10) == "stored"
    assert isinstance(sending.send(row(2)).exception(10), DeliveryError)
    assert wait_until(lambda: sending.room == SENDERS_MAX, 5.0)


def test_a_peer_that_hangs_takes_a_place_and_holds_up_no_end(monkeypatch):
    monkeypatch.setattr(sender, "CLOSE_S", 0.2)
    release = threading.Event()
    sending = ThreadSender(lambda delivery: str(release.wait(30)))
    futures = [sending.send(row(number)) for number in range(SENDERS_MAX)]
    assert sending.room == 0
    began = time.monotonic()
    sending.close()
    assert time.monotonic() - began < 2.0
    hanging = [t for t in threading.enumerate() if t.name.startswith("delivery-pacs")]
    assert len(hanging) == SENDERS_MAX
    assert all(thread.daemon for thread in hanging)  # The process may end without them.
    release.set()
    for future in futures:
        assert future.result(10) == "True"


def test_where_no_thread_can_be_had_it_is_tried_again(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    sending = ThreadSender(lambda delivery: "stored")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        error = sending.send(row(1)).exception(1)
    assert isinstance(error, OutOfResourcesError)
    assert error.retryable
    assert sending.room == SENDERS_MAX
    sending.close()
    assert sending.send(row(1)).result(10) == "stored"
