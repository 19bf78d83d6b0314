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
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, Field
from pydicom.uid import MediaStorageDirectoryStorage
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from osteon.errors import InvalidUIDError, MismatchError, OutOfResourcesError, UnparseableError
from osteon.http.archive import inflate, open_archive, refusal_of
from osteon.pipeline.intake import Intake, Stored
from osteon.pipeline.part10 import decode_header
from osteon.pipeline.spool import INCOMING
from osteon.pipeline.table import views
from osteon.pipeline.table.reception import Origin

PARTS_MAX = 50_000
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
        self._file: BinaryIO = self._open()
        self._form = None if boundary is None else _Form(self, boundary)
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
            self.write(block)
        else:
            self._form.feed(block)

    def finish(self) -> Accepted:
        """Take the end of the body and return what became of it.

        Raises
        ------
        UnparseableError
            Nothing of it is an instance.
        """
        if self._form is None:
            self.end_file("body")
        elif not self._form.complete:
            raise HTTPException(HTTPStatus.BAD_REQUEST, "the form ends before its last boundary")
        if not self.accepted.files:
            reasons = [f"{s.name}: {s.reason}" for s in self.accepted.skipped[:3]]
            raise UnparseableError("nothing to store: " + ("; ".join(reasons) or "no file came"))
        return self.accepted

    def close(self) -> None:
        """Drop what is under way; a second call does nothing."""
        self._file.close()

    def begin_file(self) -> None:
        """Start with an empty file."""
        self._file.close()
        self._file = self._open()

    def write(self, data: bytes | memoryview) -> None:
        """Append to the file."""
        with _full_mapped():
            self._file.write(data)

    def end_file(self, name: str) -> None:
        """Store the file if it is an instance, or its members if it is a zip."""
        with _full_mapped():
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
                    with _full_mapped():
                        file.write(chunk)
            except UnparseableError as error:
                self._skip(entry.filename, error.message)
                return
            with _full_mapped():
                file.flush()
            self._take(file, entry.filename, prefix)

    def _take(self, file: BinaryIO, name: str, prefix: bytes) -> None:
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
                path=f"{views.INPUTS}/{series}/{instance}.dcm",
                sop_instance_uid=instance,
                series_instance_uid=series,
                duplicate=stored.duplicate,
            )
        )
        if series not in self.accepted.ids:
            self.accepted.ids.append(series)

    def _store(self, file: BinaryIO) -> Stored | None:
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

    def _open(self) -> BinaryIO:
        with _full_mapped():
            return tempfile.TemporaryFile(dir=self._folder)


class _Form:
    """The parts of a multipart/form-data body, each stored when its end has come."""

    def __init__(self, upload: Upload, boundary: bytes) -> None:
        self._upload = upload
        self._parts = 0
        self._field = b""
        self._value = b""
        self._name = ""
        self.complete = False
        with _malformed_mapped():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._add_field,
                    "on_header_value": self._add_value,
                    "on_header_end": self._end_header,
                    "on_part_data": self._add_data,
                    "on_part_end": self._end,
                    "on_end": self._end_form,
                },
            )

    def feed(self, block: bytes) -> None:
        with _malformed_mapped():
            self._parser.write(block)

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            detail = f"the form has more than {PARTS_MAX} parts: split it"
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        self._name = f"part {self._parts}"
        self._upload.begin_file()

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            name = options.get(b"filename") or options.get(b"name") or b""
            self._name = name.decode("utf-8", "replace") or self._name
        self._field = self._value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._upload.write(memoryview(data)[start:end])

    def _end(self) -> None:
        self._upload.end_file(self._name)

    def _end_form(self) -> None:
        self.complete = True


def too_long(limit: int) -> HTTPException:
    """Return what is raised on an upload that is longer than the limit, in bytes."""
    detail = f"the upload is longer than {limit} bytes (http.upload_bytes_max): split it"
    return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)


@contextmanager
def _full_mapped() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise OutOfResourcesError(f"no space left for the upload: {error.strerror}") from error


@contextmanager
def _malformed_mapped() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"the form is malformed: {error}") from error


def _is_dicom(prefix: bytes) -> bool:
    return prefix[128:132] == b"DICM"


def _is_zip(prefix: bytes) -> bool:
    return prefix.startswith(_ZIP_PREFIXES) and not _is_dicom(prefix)
