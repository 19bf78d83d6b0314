"""Worker processes before they have a slot: started, with their libraries loaded, waiting.

Settings enter, processes with a pipe leave to the slots. Once a worker has been lost, one is kept
ready, since another may follow; a fresh one takes seconds to load torch, in which its slot is idle.
"""

import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from osteon.pipeline.workers.request import WorkerSettings
from osteon.pipeline.workers.worker import serve

_spawn = multiprocessing.get_context("spawn")
Worker = tuple[Connection, SpawnProcess]


class Spares:
    """One process for whichever slot loses its own; called with the engine's lock held."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._ready: Worker | None = None
        self._is_kept = False

    def take(self) -> Worker:
        """Return a worker process that nobody has, and the pipe to it."""
        spare, self._ready = self._ready, None
        if spare is not None and spare[1].is_alive():
            return spare
        return self._start()

    def keep(self) -> None:
        """From now on have one ready."""
        self._is_kept = True

    def prepare(self) -> None:
        """Start one if one is to be kept; called when a slot works, which comes first."""
        if self._is_kept and self._ready is None:
            self._ready = self._start()

    def close(self) -> None:
        """End what nobody has taken."""
        self._is_kept = False
        if self._ready is not None:
            self._ready[1].kill()

    def _start(self) -> Worker:
        ours, theirs = _spawn.Pipe()
        process = _spawn.Process(target=serve, args=(theirs, self._settings))
        process.start()
        theirs.close()
        return ours, process
