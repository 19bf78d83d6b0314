"""An answer reaches the one who asked: a cure for a race in pynetdicom's requestor.

An association as it is opened enters; its reactor's checkpoint is another one afterwards. Called by
`osteon.results.scu` for every association.

pynetdicom pauses the reactor of an association while a request waits for its answer, since both
take from one queue. It asks ``_is_paused`` whether the reactor has stopped, but a reactor that was
let go a moment ago still says so, goes on, and takes the answer of the next request for a request
of the peer: the sender then waits for its time-out, 300 s for a C-STORE. With a receiver that
answers in a millisecond, 2 of 120 series of 40 instances met this on a busy machine. Here the
reactor says that it goes on in the moment in which it is let go.

A report of storage commitment is served by a thread of its own, which says at its end that the
reactor goes on, though it may have stopped: whoever then wants to release the association waited
for it without end. Here a reactor that has stopped goes on saying so. Relied on beyond pynetdicom's
documentation, held by ``tests/integration/test_turnstile.py``: ``_reactor_checkpoint`` is set,
cleared and waited for, and ``_is_paused`` says that it is waited for.
"""

import threading
from typing import Any

SAID_AGAIN_S = 0.01


class Turnstile:
    """What pynetdicom uses as ``threading.Event``: open when set, closed when cleared.

    Parameters
    ----------
    assoc : pynetdicom.association.Association
        The association whose reactor passes.
    """

    def __init__(self, assoc: Any) -> None:
        self._assoc = assoc
        self._changed = threading.Condition()
        self._is_open = True

    def set(self) -> None:
        """Let the reactor go on."""
        with self._changed:
            self._is_open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Stop the reactor when it comes here next; it has stopped when it says so."""
        with self._changed:
            self._is_open = False

    def is_set(self) -> bool:
        """Return whether the reactor can go on."""
        return self._is_open

    def wait(self) -> None:
        """Wait until it is open; who passes is paused no longer, seen at once by all threads.

        It has no deadline: every request has one, and sets it at its end, as an abort does.
        """
        with self._changed:
            while not self._is_open:
                self._assoc._is_paused = True  # noqa: SLF001 - a report's thread may deny it
                self._changed.wait(SAID_AGAIN_S)
            self._assoc._is_paused = False  # noqa: SLF001 - pynetdicom does so itself, too late


def mend(assoc: Any) -> None:
    """Give an association that is being opened a checkpoint that loses no answer."""
    assoc._reactor_checkpoint = Turnstile(assoc)  # noqa: SLF001 - there is no public way
