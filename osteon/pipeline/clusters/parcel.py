"""What crosses to a worker on another machine, and what comes back.

A stage request of the node enters and a parcel leaves, with paths that hold on both sides: relative
to the data directory. By value the files travel along in both directions; by a shared folder both
sides see them. The cluster's engine packs parcels, the worker opens them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from osteon.errors import OutOfResourcesError, StageError
from osteon.pipeline.instances.spool import write_durably
from osteon.pipeline.job import WORKER_STAGES
from osteon.pipeline.workers.request import StageReport, StageRequest
from osteon.pipeline.workers.worker import DISK_IS_FULL

Contents = Mapping[str, bytes]
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Parcel:
    """A stage request on its way to a worker.

    Attributes
    ----------
    request : StageRequest
        Its paths are relative to the data directory.
    shared_data_dir : Path, optional
        The node's data directory, where the worker reads and writes in it; by value where absent.
    contents : mapping of str to bytes
        Relative path → content, by value: what the worker has asked for, and at first nothing.
    """

    request: StageRequest
    shared_data_dir: Path | None = None
    contents: Contents = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What a worker answers.

    Attributes
    ----------
    report : StageReport, optional
        None where files are wanted first.
    contents : mapping of str to bytes
        Name → content of the stage's outputs, by value.
    wanted : tuple of str
        Relative paths of files and folders that the worker does not hold.
    """

    report: StageReport | None = None
    contents: Contents = field(default_factory=dict)
    wanted: tuple[str, ...] = ()


def work_of(request: StageRequest) -> tuple[str, str]:
    """Return what a worker's files and volume belong to; what is made of it is always the same."""
    return request.input_sha256, request.model


def relative_to(data_dir: Path, request: StageRequest) -> StageRequest:
    """Return a request with the paths as they stand under the data directory."""
    return replace(
        request,
        out=request.out.relative_to(data_dir),
        inputs=tuple(path.relative_to(data_dir) for path in request.inputs),
        outputs={stage: path.relative_to(data_dir) for stage, path in request.outputs.items()},
        cache=request.cache
        and replace(request.cache, folder=request.cache.folder.relative_to(data_dir)),
    )


def rooted_at(root: Path, request: StageRequest) -> StageRequest:
    """Return a request with relative paths as it stands under another root."""
    return replace(
        request,
        out=root / request.out,
        inputs=tuple(root / path for path in request.inputs),
        outputs={stage: root / path for stage, path in request.outputs.items()},
        cache=request.cache and replace(request.cache, folder=root / request.cache.folder),
    )


def read_wanted(data_dir: Path, request: StageRequest, wanted: Iterable[str]) -> dict[str, bytes]:
    """Read what a worker asks for, of what its stage reads: the series, and the last output.

    Parameters
    ----------
    request : StageRequest
        With relative paths.

    Returns
    -------
    dict of str to bytes
        Relative path → content.

    Raises
    ------
    StageError
        A file cannot be read.
    """
    wanted = set(wanted)
    contents: dict[str, bytes] = {}
    for path in needed_by(request):
        if str(path) in wanted:
            whole = data_dir / path
            for file in _files_of(whole) if whole.is_dir() else [whole]:
                contents[str(file.relative_to(data_dir))] = _read(file)
    return contents


def read_outputs(out: Path) -> dict[str, bytes]:
    """Read what a stage wrote: name → content.

    Raises
    ------
    StageError
        A file cannot be read.
    """
    return {path.name: _read(path) for path in _files_of(out)}


def write_outputs(out: Path, contents: Contents) -> None:
    """Write what came back durably into the attempt's folder.

    Raises
    ------
    OutOfResourcesError
        The disk is full: it costs the job no attempt.
    StageError
        A file cannot be written, or its name is a path.
    """
    _refuse_paths(contents)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_durably(out / name, (content,), by_way_of=out)
    except OSError as error:
        failure = OutOfResourcesError if error.errno in DISK_IS_FULL else StageError
        raise failure(f"{out}: what a worker made cannot be written: {error}") from error


def write_inputs(root: Path, contents: Contents) -> None:
    """Write what came with a parcel under a worker's own root.

    Raises
    ------
    StageError
        A file cannot be written.
    """
    try:
        for name, content in contents.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        raise StageError(f"{root}: the series cannot be written: {error}") from error


def needed_by(request: StageRequest) -> list[Path]:
    """Return what a stage reads: the files of the series, and the folder of the stage before it."""
    before = [stage for stage in WORKER_STAGES if stage.next is request.stage]
    return [*request.inputs, *(request.outputs[stage] for stage in before)]


def _files_of(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise StageError(f"{folder}: a stage's output cannot be read: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StageError(f"{path} cannot be read: {error}") from error


def _refuse_paths(contents: Contents) -> None:
    for name in contents:
        if not _FILE_NAME.fullmatch(name):
            raise StageError(f"a worker answered with {name!r}, which is no plain file name")
