"""Several processes that take data: Python lets one thread of a process run at a time.

An association that was accepted enters with its connection; what it brought, and how it ended,
comes back. The receiver's own process listens, negotiates, keeps all limits and the log, and ends
associations; between the acceptance and whatever ends it, a lane (``lane.py``) reads the connection
and answers. They share one fate: a lane ends when the receiver does, however that happened, and
where one has died the role ends and is started again, as after any other crash.
"""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import structlog

from osteon.config.settings import Settings
from osteon.errors import UnavailableError
from osteon.pipeline.table.associations import Brought
from osteon.scp.command import InvalidPduError
from osteon.scp.haul import Haul
from osteon.scp.lane import MESSAGE_BYTES_MAX, READY, STOP, Ending, serve
from osteon.scp.messages import Context
from osteon.scp.transfer import SilentError, Transfer

START_S = 30.0
HAND_OVER_S = 5.0
STOP_S = 5.0  # To have rows and names synced, as `DraftPool.close` does.
KILLED_S = 1.0
LANES_MAX = 8

log = structlog.get_logger(__name__)
# Made by a process without threads, from which lanes are forked: they start at once, and share
# the memory of all that is loaded.
_processes = multiprocessing.get_context("forkserver")


def lanes_of(settings: Settings) -> int:
    """Return how many processes take data besides the receiver's own; 0 where it does so itself."""
    scp = settings.scp
    if not scp.fast or scp.tls is not None:
        return 0
    if scp.processes != "auto":
        return scp.processes if scp.processes > 1 else 0
    cores = min(LANES_MAX, len(os.sched_getaffinity(0)))
    return cores if cores > 1 else 0


class Lanes:
    """The processes that take data, and which association is where.

    Parameters
    ----------
    settings : Settings
        What they go by.
    count : int
        How many.
    held : int
        Descriptor of the receiver's lock: whoever starts next waits until no lane is left.
    prepare : callable
        Called in each process before anything else; it can be pickled.

    Raises
    ------
    UnavailableError
        A process does not start.
    """

    def __init__(
        self, settings: Settings, count: int, held: int, prepare: Callable[[], None]
    ) -> None:
        self._lock = threading.Lock()
        self._lanes: list[_Lane] = []
        _processes.set_forkserver_preload([serve.__module__])
        try:
            with _unstoppable():
                for _ in range(count):
                    self._lanes.append(_Lane(settings, held, prepare))
            for lane in self._lanes:
                lane.wait_until_ready()
        except OSError as error:
            self.close()
            raise UnavailableError(f"no receiving process can be started: {error}") from error
        except UnavailableError:
            self.close()
            raise

    @property
    def are_alive(self) -> bool:
        """Whether all of them are there."""
        return all(lane.process.is_alive() for lane in self._lanes)

    @property
    def pids(self) -> list[int]:
        """Their process numbers."""
        return [lane.process.pid for lane in self._lanes if lane.process.pid is not None]

    def begin(
        self, sock: socket.socket, contexts: Mapping[int, Context], haul: Haul, pdu_bytes_max: int
    ) -> Transfer:
        """Have the data of an association taken by the lane that has the fewest.

        Parameters
        ----------
        sock : socket.socket
            The connection, of which nothing has been read after the A-ASSOCIATE-RQ.
        contexts : mapping of int to Context
            The accepted presentation contexts by their id.
        haul : Haul
            Its counts are set when the transfer ends.
        pdu_bytes_max : int
            The longest PDU that the peer takes; 0 where it does not care.
        """
        charge = {
            "contexts": {
                number: (str(cx.abstract_syntax), str(cx.transfer_syntax[0]))
                for number, cx in contexts.items()
            },
            "origin": asdict(haul.origin),
            "pdu_bytes_max": pdu_bytes_max,
        }
        with self._lock:
            lane = min(self._lanes, key=lambda lane: lane.associations)
            lane.associations += 1
        return _LaneTransfer(self, lane, sock, json.dumps(charge).encode(), haul)

    def leave(self, lane: "_Lane") -> None:
        """Note that an association of a lane is over."""
        with self._lock:
            lane.associations -= 1

    def close(self) -> None:
        """End them; what they have stored is settled then."""
        for lane in self._lanes:
            lane.tell_to_stop()
        deadline = time.monotonic() + STOP_S
        for lane in self._lanes:
            lane.end(deadline)


@contextmanager
def _unstoppable() -> Iterator[None]:
    """Let what is started meanwhile, and all that it starts, take no notice of SIGTERM.

    systemd sends it to every process; where the one from which lanes are forked had ended, nobody
    could say any more whether they are alive.
    """
    resource_tracker.ensure_running()  # Else it is started on the way, and then unblocks SIGTERM.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Lane:
    """One process and the way to it."""

    def __init__(self, settings: Settings, held: int, prepare: Callable[[], None]) -> None:
        self.associations = 0
        self._sending = threading.Lock()
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process: BaseProcess = _processes.Process(
                target=serve, args=(theirs, settings, prepare), name="lane", daemon=True
            )
            self.process.start()
        self._link.settimeout(START_S)
        socket.send_fds(self._link, [b"held"], [held])

    def wait_until_ready(self) -> None:
        """Wait for its first word, `START_S` at most; without it raise `UnavailableError`."""
        try:
            word = self._link.recv(MESSAGE_BYTES_MAX)
        except OSError:
            word = b""
        if word != READY:
            raise UnavailableError("a receiving process does not start: see the log above")
        self._link.settimeout(HAND_OVER_S)

    def hand_over(self, charge: bytes, sock: socket.socket, report: socket.socket) -> None:
        """Give it an association; `OSError` where it does not take it in `HAND_OVER_S`."""
        with self._sending:
            socket.send_fds(self._link, [charge], [sock.fileno(), report.fileno()])

    def tell_to_stop(self) -> None:
        """Say that no association is left."""
        try:
            self._link.send(STOP)
        except OSError as error:
            log.warning("a receiving process is gone", why=str(error))

    def end(self, deadline: float) -> None:
        """Wait until then for its end, and kill it after that."""
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.is_alive():
            log.warning("a receiving process did not end and is killed", pid=self.process.pid)
            self.process.kill()
            self.process.join(KILLED_S)
        self._link.close()


class _LaneTransfer:
    """The data of one association, taken elsewhere; see `Transfer`."""

    def __init__(
        self, lanes: Lanes, lane: _Lane, sock: socket.socket, charge: bytes, haul: Haul
    ) -> None:
        self._lanes, self._lane = lanes, lane
        self._sock, self._charge, self._haul = sock, charge, haul

    def step(self) -> bytes:
        """Take all of it, and return the PDU that is no P-DATA-TF."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self._haul.is_storing = True  # Until the lane says that it is not.
                self._lane.hand_over(self._charge, self._sock, theirs)
            # The lane keeps all deadlines; where it has died, this ends as well.
            words = b"".join(iter(lambda: ours.recv(MESSAGE_BYTES_MAX), b""))
        if not words:
            raise ConnectionError("the process that took the data has died")
        told: dict[str, Any] = json.loads(words)
        self._haul.is_storing = told["is_storing"]
        self._haul.brought = Brought.from_dict(told["brought"])
        why, what = told["why"], told["what"]
        if told["ending"] == Ending.SILENT:
            raise SilentError(why)
        if told["ending"] == Ending.INVALID:
            raise InvalidPduError(why)
        if told["ending"] == Ending.LOST:
            raise ConnectionError(why)
        return bytes.fromhex(what)

    def close(self) -> None:
        """Give the place back."""
        self._lanes.leave(self._lane)
