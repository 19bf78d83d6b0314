"""``osteon send``: the files of a folder to a peer, by C-STORE."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from osteon.cli.folder import DICOMDIR, Skipped, check_all_read, files_of
from osteon.cli.options import config_option, example, json_option, settings_in_force
from osteon.cli.output import Bar, printable, progress, write_json, write_skipped
from osteon.cli.peers import peer_named
from osteon.errors import (
    DeliveryError,
    DeliveryRefusedError,
    NotFoundError,
    UnparseableError,
)
from osteon.pipeline.instances.part10 import decode_header
from osteon.results.peer import Destination
from osteon.results.scu import StoreOutcome, store

REFUSALS_MAX = 3  # In a row, after which the peer does not want these files at all.
_HEAD_BYTES = 65_536 + 132


@dataclass
class Sent:
    """What became of the files.

    Attributes
    ----------
    statuses : Counter of int
        C-STORE status of a delivery → files.
    failed : list of tuple of Path and str
        File and reason.
    not_tried : list of Path
        What was left when the peer was lost, or had refused too many in a row.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    not_tried: list[Path] = field(default_factory=list)


@click.command(
    name="send",
    epilog=example("osteon send ct/ --to pacs", "osteon send ct/ --to 127.0.0.1:11112:OSTEON"),
)
@config_option
@json_option
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--to", "name", required=True, metavar="NAME", help="Destination, or HOST:PORT:AE_TITLE."
)
@click.option(
    "--calling-ae-title",
    "calling",
    metavar="AE_TITLE",
    help="AE title to call as; that of the configuration where absent.",
)
def command(folder: Path, name: str, calling: str | None, as_json: bool) -> None:
    """Send every DICOM file of a folder by C-STORE.

    The exit code is 10 if one was not taken, 11 if one could not be read.
    """
    peer = peer_named(settings_in_force(), name, calling)
    paths, skipped = sendable(files_of(folder))
    with progress(f"to {peer}", len(paths)) as bar:
        sent = send_all(peer, paths, bar)
    if as_json:
        write_json(
            {
                "destination": str(peer),
                "sent": sent.statuses.total(),
                "statuses": {f"0x{status:04X}": n for status, n in sent.statuses.items()},
                "failed": [{"path": str(p), "reason": why} for p, why in sent.failed],
                "not_tried": [str(path) for path in sent.not_tried],
                "skipped": [{"path": str(s.path), "reason": s.why} for s in skipped],
            }
        )
    else:
        for status, count in sent.statuses.items():
            click.echo(f"{count} files: 0x{status:04X}")
        for path, why in sent.failed:
            click.echo(printable(f"failed {path}: {why}"))
        if sent.not_tried:
            click.echo(printable(f"not tried: {_range(sent.not_tried)}"))
        write_skipped([(skip.path, skip.why) for skip in skipped])
    if sent.failed:
        missed = len(sent.failed) + len(sent.not_tried)
        raise DeliveryError(f"{missed} of {len(paths)} files were not taken by {peer}")
    if not paths:
        raise NotFoundError(f"{folder}: no DICOM instance there: nothing was sent")
    check_all_read(skipped)


def _range(paths: Sequence[Path]) -> str:
    if len(paths) == 1:
        return f"1 file, {paths[0]}"
    return f"{len(paths)} files, from {paths[0]} to {paths[-1]}"


def sendable(paths: Sequence[Path]) -> tuple[list[Path], list[Skipped]]:
    """Return the Part 10 files among some, and why the others are none."""
    good: list[Path] = []
    skipped: list[Skipped] = []
    for path in paths:
        try:
            with path.open("rb") as file:
                meta, _ = decode_header(file.read(_HEAD_BYTES))
        except UnparseableError as error:
            skipped.append(Skipped(path, error.message))
        except OSError as error:
            skipped.append(Skipped(path, f"cannot be read: {error.strerror}", unread=True))
        else:
            if meta.sop_class_uid == DICOMDIR:
                skipped.append(Skipped(path, "a DICOMDIR, not an instance"))
            elif not (meta.sop_class_uid and meta.sop_instance_uid):
                skipped.append(Skipped(path, "its File Meta Information names no instance"))
            else:
                good.append(path)
    return good, skipped


def send_all(peer: Destination, paths: Sequence[Path], bar: Bar) -> Sent:
    """Send files; one that is refused for good is passed over, a lost peer ends it.

    Parameters
    ----------
    peer : Destination
        Who gets them.
    paths : sequence of Path
        Part 10 files.
    bar : Bar
        Shows how many have been taken.
    """
    sent = Sent()
    refused = at = 0

    def note(outcome: StoreOutcome) -> None:
        """Count a file that was taken; refusals are counted in a row."""
        nonlocal refused, at
        at, refused = at + 1, 0
        sent.statuses[outcome.status] += 1
        bar.show(at)

    while at < len(paths):
        try:
            store(peer, paths[at:], note)
        except DeliveryRefusedError as error:
            sent.failed.append((paths[at], error.message))
            at, refused = at + 1, refused + 1
            if refused == REFUSALS_MAX:
                sent.not_tried += paths[at:]
                break
        except DeliveryError as error:
            sent.failed.append((paths[at], error.message))
            sent.not_tried += paths[at + 1 :]
            break
    return sent
