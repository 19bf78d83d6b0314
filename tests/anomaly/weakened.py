"""Receivers with one safeguard taken out: a crash test that does not catch them proves nothing.

    python -m tests.anomaly.weakened KIND serve --role receive

Used by the tests and the benchmark of faults; nothing of the product knows of it.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

from osteon.cli.main import main
from osteon.pipeline.instances import blocks, drafts, spool
from osteon.pipeline.intake import Intake
from osteon.pipeline.table import connection, reception

LATE_S = 0.05


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    setattr(owner, name, make(getattr(owner, name)))  # An AttributeError where it is gone.


def _settle_often() -> None:
    """Let few instances do what many do under load: first names are made and go all the time."""
    _replace(drafts, "SETTLE_S", lambda _: 0.0)
    _replace(drafts, "READY", lambda _: 4)


def lazy_table() -> None:
    """SQLite leaves its log to be written when the kernel likes, whatever is asked of it."""
    _replace(connection, "SYNCED", lambda _: connection.UNSYNCED)
    _settle_often()


def hasty_rows() -> None:
    """The first name of a draft is taken away before its row is on the disk."""
    _replace(reception, "sync_rows", lambda _: lambda table, role: None)
    _settle_often()


def no_folder_sync() -> None:
    """The names of new files are left to the kernel."""
    for module in (drafts, spool):
        _replace(module, "sync_folder", lambda _: lambda folder: None)


def no_first_name() -> None:
    """A draft is written under a name that is not on the disk."""

    def make(original: Any) -> Any:
        def made(self: Any, count: int) -> Any:
            drafts.sync_folder, synced = lambda folder: None, drafts.sync_folder
            try:
                return original(self, count)
            finally:
                drafts.sync_folder = synced

        return made

    _replace(drafts.DraftPool, "_make", make)


def hasty_names() -> None:
    """The first name of a draft is taken away before its last one is on the disk."""
    _replace(drafts, "_sync_names", lambda _: lambda files: None)


def no_data_sync() -> None:
    """The bytes of new files are left to the kernel."""
    _replace(blocks.os, "fdatasync", lambda _: lambda descriptor: None)


def late_record() -> None:
    """The answer goes out before the row is there."""

    def make(original: Any) -> Any:
        def later(self: Any, batch: Any) -> list[bool]:
            timer = threading.Timer(LATE_S, original, (self, batch))
            timer.daemon = True
            timer.start()
            return [True for _ in batch]  # All of them are new.

        return later

    _replace(Intake, "_commit", make)


KINDS = {
    "lazy-table": lazy_table,
    "hasty-rows": hasty_rows,
    "no-folder-sync": no_folder_sync,
    "no-first-name": no_first_name,
    "hasty-names": hasty_names,
    "no-data-sync": no_data_sync,
    "late-record": late_record,
}


def entry(kind: str) -> tuple[str, ...]:
    """What Python runs for a weakened receiver."""
    return ("-m", "tests.anomaly.weakened", kind)


if __name__ == "__main__":
    KINDS[sys.argv.pop(1)]()
    main()
