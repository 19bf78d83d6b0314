"""Keep the three roles running: start them, restart what dies, stop them together.

The commands of the roles enter; one process each leaves. Called by ``serve`` without a role, in
the main thread. A child's standard input is a pipe that this process holds open and never writes
to: when the supervisor dies, even by kill -9, the children read its end and stop by themselves.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import structlog

from osteon.errors import ConfigError, UnavailableError

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 10.0
SETTLED_S = 60.0  # A child that lived this long starts over with the first backoff.
STOP_S = 20.0
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = structlog.get_logger(__name__)


@dataclass
class Child:
    """One role: its command, its process while it runs, and when it may start again."""

    role: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    start_at: float = 0.0
    backoff_s: float = BACKOFF_FIRST_S
    restarts: int = 0


@dataclass
class Supervisor:
    """The parent of the roles.

    Attributes
    ----------
    commands : mapping of str to sequence of str
        Role → command line.
    """

    commands: Mapping[str, Sequence[str]]
    _stops: int = field(default=0, init=False)

    def run(self) -> None:
        """Keep the roles running until SIGTERM or SIGINT; a second one kills them at once.

        Raises
        ------
        ConfigError
            A role ended with the exit code of a wrong configuration; the others were stopped.
        """
        children = [Child(role, command) for role, command in self.commands.items()]
        with self._woken_by_signals() as wakeup, _lifeline() as lifeline:
            try:
                while not self._stops:
                    self._start_due(children, lifeline)
                    _wait(
                        wakeup, min((c.start_at for c in children if not c.process), default=None)
                    )
                    _reap(children)
            finally:
                self._stop(children, wakeup)

    @contextmanager
    def _woken_by_signals(self) -> Iterator[int]:
        """Turn signals into bytes of a pipe, so that one wait sees them all and misses none."""

        def note(number: int, _: FrameType | None) -> None:
            """Count the signals that ask for the end."""
            self._stops += number != signal.SIGCHLD

        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = {number: signal.signal(number, note) for number in _SIGNALS}
        wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)

    def _start_due(self, children: Sequence[Child], lifeline: int) -> None:
        for child in children:
            if child.process is None and child.start_at <= time.monotonic():
                # A session of its own: Ctrl-C at the terminal reaches the supervisor alone, which
                # then stops the roles in order.
                child.started = time.monotonic()
                try:
                    child.process = subprocess.Popen(
                        child.command, stdin=lifeline, start_new_session=True
                    )
                except OSError as error:  # no process or no memory is left just now
                    _restart_later(child, str(error))
                else:
                    log.info("role started", child=child.role, pid=child.process.pid)

    def _stop(self, children: Sequence[Child], wakeup: int) -> None:
        alive = [child for child in children if child.process is not None]
        _signal(alive, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        stops_at_first = max(self._stops, 1)
        while any(_is_alive(child) for child in alive):
            if time.monotonic() > deadline or self._stops > stops_at_first:
                log.warning("roles killed", roles=[c.role for c in alive if _is_alive(c)])
                _signal(alive, signal.SIGKILL)
                for child in alive:
                    assert child.process is not None
                    child.process.wait()  # The kernel ends a killed process without its consent.
            else:
                _wait(wakeup, deadline)
        log.info("roles stopped")


@contextmanager
def _lifeline() -> Iterator[int]:
    """Open the pipe whose end tells the children that this process is gone; yield their side."""
    reader, writer = os.pipe()
    try:
        yield reader
    finally:
        os.close(reader)
        os.close(writer)


def _wait(wakeup: int, until: float | None) -> None:
    timeout = None if until is None else max(0.0, until - time.monotonic())
    ready, _, _ = select.select([wakeup], [], [], timeout)
    if ready:
        os.read(wakeup, 4096)


def _reap(children: Sequence[Child]) -> None:
    """Note who has ended and when it starts again."""
    for child in children:
        code = None if child.process is None else child.process.poll()
        if code is None:
            continue
        child.process = None
        if code == ConfigError.exit_code:
            raise ConfigError(
                f"the role {child.role} does not start with this configuration: it says why above"
            )
        if code == UnavailableError.exit_code and not child.restarts:
            raise UnavailableError(f"the role {child.role} cannot start now: it says why above")
        _restart_later(child, f"exit code {code}")


def _restart_later(child: Child, why: str) -> None:
    now = time.monotonic()
    if now - child.started >= SETTLED_S:
        child.backoff_s = BACKOFF_FIRST_S
    child.start_at = now + child.backoff_s
    log.error("role ended", child=child.role, why=why, restart_in_s=child.backoff_s)
    child.restarts += 1
    child.backoff_s = min(2 * child.backoff_s, BACKOFF_MAX_S)


def _is_alive(child: Child) -> bool:
    return child.process is not None and child.process.poll() is None


def _signal(children: Sequence[Child], number: signal.Signals) -> None:
    for child in children:
        if child.process is not None and child.process.poll() is None:
            child.process.send_signal(number)


def command_of(role: str, config: str | None) -> list[str]:
    """Return the command line of a supervised role."""
    command = [sys.executable, "-m", "osteon.cli.main", "serve", "--role", role, "--supervised"]
    return command if config is None else [*command, "--config", config]
