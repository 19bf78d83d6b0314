"""A folder of DICOM files as the series in it; what is no DICOM file is named with its reason.

Paths enter, `Series` and `Skipped` leave; ``run``, ``send`` and ``routes test`` read folders so.
Nothing is copied: a file is read once for its header.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from osteon.errors import NotFoundError, OsteonError, UnavailableError, UnparseableError
from osteon.pipeline.instances.digest import digest_of
from osteon.pipeline.instances.index import Header, read_header
from osteon.pipeline.instances.part10 import decode_header

DICOMDIR = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage, PS3.4 Table B.5-1


@dataclass(frozen=True)
class Instance:
    """One file: its header, and the hash of its data set as a node that received it would have."""

    path: Path
    header: Header
    digest: str


@dataclass(frozen=True)
class Series:
    """The files of one Series Instance UID, each SOP Instance UID once."""

    series_instance_uid: str
    instances: tuple[Instance, ...]

    @property
    def first(self) -> Header:
        """The header of its first instance."""
        return self.instances[0].header

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files."""
        return tuple(instance.path for instance in self.instances)

    @property
    def input_sha256(self) -> str:
        """Its identity as an input set: a node that received it derives the same result UIDs."""
        identity = sorted((i.header.sop_instance_uid, i.digest) for i in self.instances)
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def __str__(self) -> str:
        said = self.first.values.get("SeriesDescription", ["no description"])[0]
        count = len(self.instances)
        return f"{self.first.modality or 'no modality'}, {said}, {count} instances"


@dataclass(frozen=True)
class Skipped:
    """A file that belongs to no series here; of an unread one nobody knows whether it does."""

    path: Path
    why: str
    unread: bool = False


def files_of(folder: Path) -> list[Path]:
    """Return every file below a folder, or the file itself, in the order of their names.

    Raises
    ------
    NotFoundError
        There is none.
    UnavailableError
        A folder below it cannot be looked into: what is in it would be passed over.
    """
    if folder.is_file():
        return [folder]

    def refuse(error: OSError) -> None:
        """Pass over no folder that cannot be read, as `os.walk` would."""
        raise UnavailableError(
            f"{error.filename} cannot be looked into: {error.strerror}: let this user read it,"
            " or take it away"
        ) from error

    walked = os.walk(folder, onerror=refuse)
    found = sorted(path for at, _, names in walked for path in _files(Path(at), names))
    if not found:
        raise NotFoundError(f"{folder}: no files there")
    return found


def _files(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    return (path for path in map(folder.joinpath, names) if path.is_file())


def check_all_read(skipped: Sequence[Skipped]) -> None:
    """Make sure that nothing is missing because it could not be read.

    Raises
    ------
    UnavailableError
        Files could not; one is named.
    """
    unread = [one.path for one in skipped if one.unread]
    if unread:
        more = f", nor {len(unread) - 1} more" if len(unread) > 1 else ""
        raise UnavailableError(f"left out, since it could not be read: {unread[0]}{more}")


def read_folder(
    folder: Path, on_file: Callable[[int, int], None] | None = None
) -> tuple[list[Series], list[Skipped]]:
    """Read the headers below a folder and sort them into series.

    Parameters
    ----------
    on_file : callable, optional
        Called with (files read, files in all) after each file.

    Raises
    ------
    NotFoundError
        There are no files.
    """
    paths = files_of(folder)
    series: dict[str, dict[str, Instance]] = {}
    skipped: list[Skipped] = []
    for done, path in enumerate(paths, 1):
        try:
            found = _read(path)
        except OsteonError as error:
            skipped.append(Skipped(path, error.message))
        except OSError as error:
            skipped.append(Skipped(path, f"cannot be read: {error.strerror}", unread=True))
        else:
            held = series.setdefault(found.header.series_instance_uid, {})
            twin = held.setdefault(found.header.sop_instance_uid, found)
            if twin is not found:
                skipped.append(Skipped(path, f"the same SOP Instance UID as {twin.path.name}"))
        if on_file is not None:
            on_file(done, len(paths))
    return list(_series(series)), skipped


def _series(series: dict[str, dict[str, Instance]]) -> Iterator[Series]:
    for uid, instances in series.items():
        ordered = sorted(instances.values(), key=lambda i: (i.header.instance_number or 0, i.path))
        yield Series(uid, tuple(ordered))


def _read(path: Path) -> Instance:
    raw = memoryview(path.read_bytes())
    meta, start = decode_header(raw)
    if meta.sop_class_uid == DICOMDIR:
        raise UnparseableError("a DICOMDIR, not an instance")
    header = read_header(raw[start:], meta.transfer_syntax_uid)
    return Instance(path, header, digest_of(raw[start:]))
