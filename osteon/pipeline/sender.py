"""Senders: what is due goes out on a few threads, which never outlive the process.

Deliveries enter with the function that sends them, Futures leave. The delivery loop owns one; it
may be closed while a peer hangs, since nobody waits for a thread that has not ended in time.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from osteon.errors import OutOfResourcesError
from osteon.pipeline.table.connection import Row

SENDERS_MAX = 4
CLOSE_S = 2.0


class Sender(Protocol):
    """Where deliveries are sent from."""

    @property
    def room(self) -> int:
        """How many more can be sent now."""

    def send(self, delivery: Row) -> "Future[str]":
        """Begin to send; the future says what is known of it then, in words."""

    def close(self) -> None:
        """End within seconds, whatever the peers do."""


class ThreadSender:
    """Send on daemon threads, a few at a time.

    Parameters
    ----------
    send : callable
        Sends one delivery and returns what is known of it then.
    """

    def __init__(self, send: Callable[[Row], str]) -> None:
        self._send = send
        self._sending: list[tuple[threading.Thread, Future[str]]] = []

    @property
    def room(self) -> int:
        """How many more can be sent now."""
        self._sending = [(t, future) for t, future in self._sending if not future.done()]
        return SENDERS_MAX - len(self._sending)

    def send(self, delivery: Row) -> "Future[str]":
        """Begin to send."""
        future: Future[str] = Future()
        future.set_running_or_notify_cancel()
        name = f"delivery-{delivery['destination']}"
        thread = threading.Thread(target=self._run, args=(delivery, future), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # The system gives no thread now; it is tried again.
            future.set_exception(OutOfResourcesError(f"it could not be sent: {error}"))
        else:
            self._sending.append((thread, future))
        return future

    def close(self) -> None:
        """Wait a moment for what is being sent; what hangs ends with the process."""
        deadline = time.monotonic() + CLOSE_S
        for thread, _ in self._sending:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, delivery: Row, future: "Future[str]") -> None:
        """Send, and end the future whatever happens: else its destination would rest for ever."""
        try:
            outcome = self._send(delivery)
        except BaseException as error:  # noqa: BLE001 - a thread's top; the delivery loop records it
            future.set_exception(error)
        else:
            future.set_result(outcome)
