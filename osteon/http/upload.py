"""One upload on its way into intake: a DICOM file, a zip of them, or a form with any of both.

The body enters block by block, durable instances leave through `Intake.store`; ``files.py`` feeds
it. What is under way lies in files without a name on the spool's disk, so that a killed process
leaves nothing behind; the content, never a name or a label, decides what a file is.
"""

import errno
import mmap
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from io import FileIO
from pathlib import Path

from pydantic import BaseModel, Field
from pydicom.uid import MediaStorageDirectoryStorage
from starlette.exceptions import HTTPException

from osteon.errors import InvalidUIDError, MismatchError, OutOfResourcesError, UnparseableError
from osteon.http.archive import inflate, open_archive, refusal_of
from osteon.http.form import Form
from osteon.pipeline.instances.part10 import decode_header
from osteon.pipeline.instances.spool import INCOMING
from osteon.pipeline.intake import Intake, Stored
from osteon.pipeline.table.reception import Origin
from osteon.pipeline.table.stored import input_path

NAME_CHARACTERS_MAX = 200
INFLATED_TIMES_MAX = 4  # Of the longest upload: what a zip may come to.
_ZIP_PREFIXES = (b"PK\x03\x04", b"PK\x05\x06")
_PREFIX_BYTES = 132
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


class StoredFile(BaseModel):
    """An instance that is durable."""

    path: str = Field(description="Its bytes are at `/api/v1/files/<path>`.")
    sop_instance_uid: str
    series_instance_uid: str
    duplicate: bool = Field(description="The same bytes were held already.")


class SkippedFile(BaseModel):
    """A file that was not stored."""

    name: str
    reason: str


class Accepted(BaseModel):
    """What became of an upload."""

    files: list[StoredFile] = Field(description="What is durable.")
    ids: list[str] = Field(description="Series Instance UIDs; ask `/api/v1/predict/<id>`.")
    skipped: list[SkippedFile] = Field(description="What is no instance, and why.")


@dataclass(frozen=True)
class Limits:
    """How much one upload may be, in bytes."""

    upload_bytes_max: int
    instance_bytes_max: int


class Upload:
    """One request body.

    Parameters
    ----------
    intake : Intake
        Where instances go.
    origin : Origin
        Who sends.
    limits : Limits
        What is refused as too large.
    data_dir : Path
        The node's data directory.
    boundary : bytes, optional
        The form's boundary (RFC 7578 section 4.1); None where the body is one file.
    """

    def __init__(
        self, intake: Intake, origin: Origin, limits: Limits, data_dir: Path, boundary: bytes | None
    ) -> None:
        self._intake = intake
        self._origin = origin
        self._limits = limits
        self._folder = data_dir / INCOMING
        self._received = 0
        self._form: Form | None = None
        if boundary is not None:
            self._form = Form(
                boundary, begin=self._begin_file, write=self._write, end=self._end_file
            )
        self._file: FileIO = self._open()
        self.accepted = Accepted(files=[], ids=[], skipped=[])

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the body.

        Raises
        ------
        HTTPException
            413: the upload is longer than is allowed; 400: the form is malformed.
        OutOfResourcesError
            The disk reserve is reached or the disk is full.
        """
        self._received += len(block)
        if self._received > self._limits.upload_bytes_max:
            raise too_long(self._limits.upload_bytes_max)
        refusal = self._intake.refusal()
        if refusal is not None:
            raise OutOfResourcesError(refusal)
        if self._form is None:
            self._write(block)
        else:
            self._form.feed(block)

    def finish(self) -> Accepted:
        """Take the end of the body and return what became of it.

        Raises
        ------
        UnparseableError
            Nothing of it is an instance.
        HTTPException
            A form ends before its last boundary (400).
        """
        if self._form is None:
            self._end_file("body")
        elif not self._form.complete:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "the form ends before its last boundary")
        if not self.accepted.files:
            reasons = [f"{s.name}: {s.reason}" for s in self.accepted.skipped[:3]]
            raise UnparseableError("nothing to store: " + ("; ".join(reasons) or "no file came"))
        return self.accepted

    def close(self) -> None:
        """Drop what is under way; a second call does nothing."""
        self._file.close()

    def _begin_file(self) -> None:
        self._file.close()
        self._file = self._open()

    def _write(self, data: bytes | memoryview) -> None:
        _write(self._file, data)

    def _end_file(self, name: str) -> None:
        """Store the file if it is an instance, or its members if it is a zip."""
        size = self._file.seek(0, 2)
        self._file.seek(0)
        prefix = self._file.read(_PREFIX_BYTES)
        if _is_zip(prefix):
            with open_archive(
                self._file, size, inflated_max=INFLATED_TIMES_MAX * self._limits.upload_bytes_max
            ) as archive:
                for entry in archive.infolist():
                    if not entry.is_dir():
                        self._take_member(archive, entry)
        else:
            self._take(self._file, name, prefix)

    def _take_member(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        refusal = refusal_of(entry)
        if refusal is not None:
            self._skip(entry.filename, refusal)
            return
        with self._open() as file:
            prefix = b""
            try:
                for chunk in inflate(archive, entry):
                    prefix = prefix or chunk[:_PREFIX_BYTES]
                    if not _is_dicom(prefix):
                        break
                    _write(file, chunk)
            except UnparseableError as error:
                self._skip(entry.filename, error.message)
                return
            self._take(file, entry.filename, prefix)

    def _take(self, file: FileIO, name: str, prefix: bytes) -> None:
        if not _is_dicom(prefix):
            nested = "a zip within a zip: send it by itself"
            self._skip(name, nested if _is_zip(prefix) else "not a DICOM file (PS3.10 7.1)")
            return
        try:
            stored = self._store(file)
        except (UnparseableError, MismatchError, InvalidUIDError) as error:
            self._skip(name, error.message)
            return
        if stored is None:
            self._skip(name, "a DICOMDIR: its instances are stored without it")
            return
        series, instance = stored.series_instance_uid, stored.sop_instance_uid
        self.accepted.files.append(
            StoredFile(
                path=input_path(series, instance),
                sop_instance_uid=instance,
                series_instance_uid=series,
                duplicate=stored.duplicate,
            )
        )
        if series not in self.accepted.ids:
            self.accepted.ids.append(series)

    def _store(self, file: FileIO) -> Stored | None:
        # The map is freed with its last view; a close here could meet a view in a traceback.
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        meta, start = decode_header(content)
        if meta.sop_class_uid == MediaStorageDirectoryStorage:
            return None
        limit = self._limits.instance_bytes_max
        if len(content) - start > limit:
            raise UnparseableError(f"longer than {limit} bytes (scp.instance_bytes_max)")
        return self._intake.store(
            self._origin,
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            dataset=content[start:],
        )

    def _skip(self, name: str, reason: str) -> None:
        self.accepted.skipped.append(SkippedFile(name=name[:NAME_CHARACTERS_MAX], reason=reason))

    def _open(self) -> FileIO:
        with _full_mapped():
            # Without a buffer, since closing one that does not fit on the disk would fail again.
            return tempfile.TemporaryFile(dir=self._folder, buffering=0)


def too_long(limit: int) -> HTTPException:
    """Return what is raised on an upload that is longer than the limit, in bytes."""
    detail = f"the upload is longer than {limit} bytes (http.upload_bytes_max): split it"
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


def _write(file: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    with _full_mapped():
        while view:
            view = view[file.write(view) :]


@contextmanager
def _full_mapped() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OutOfResourcesError(f"no space left for the upload: {error.strerror}") from error


def _is_dicom(prefix: bytes) -> bool:
    return prefix[128:132] == b"DICM"


def _is_zip(prefix: bytes) -> bool:
    return prefix.startswith(_ZIP_PREFIXES) and not _is_dicom(prefix)
