"""Who was turned away, gathered and put on record once a second.

Rejected associations enter from the acceptor; rows leave through the intake. However fast somebody
knocks, that is one commit a second, so that instances need not wait behind it.
"""

import threading
from collections.abc import Callable, Sequence

import structlog

from osteon.errors import OsteonError
from osteon.pipeline.table.associations import REJECTIONS_MAX, Rejected

PAUSE_S = 1.0

log = structlog.get_logger(__name__)


class Rejections:
    """Gather rejected associations; those that are alike become one.

    Parameters
    ----------
    record : callable
        Puts them on record.
    pause_s : float
        How long they are gathered.
    """

    def __init__(
        self, record: Callable[[Sequence[Rejected]], None], pause_s: float = PAUSE_S
    ) -> None:
        self._record = record
        self._pause_s = pause_s
        self._held: dict[tuple[str, ...], Rejected] = {}
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._recording = threading.Lock()

    def note(
        self, calling: str, called: str, address: str, answer: str, why: str, at: float
    ) -> None:
        """Remember that an association was rejected, at a time in seconds since 1970."""
        key = calling, called, address, answer
        with self._lock:
            before = self._held.get(key)
            if before is None and len(self._held) >= REJECTIONS_MAX:
                return
            first, times = (at, 0) if before is None else (before.first, before.times)
            self._held[key] = Rejected(*key, why, first, at, times + 1)
            if self._timer is None:
                self._timer = threading.Timer(self._pause_s, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Put on record what was gathered, and wait until that is so."""
        with self._recording:
            with self._lock:
                held, self._held = list(self._held.values()), {}
                timer, self._timer = self._timer, None
            if timer is not None:
                timer.cancel()
            try:
                if held:
                    self._record(held)
            except OsteonError as error:
                log.warning("rejected associations not on record", why=str(error))
