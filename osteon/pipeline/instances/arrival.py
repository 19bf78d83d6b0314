"""One instance on its way from a sender to the disk.

The bytes of a data set enter in order, as they come; a `Sealed` instance leaves, whose data is
synced and which only lacks its name and its row. Intake begins it; the receiver and the HTTP upload
feed it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from osteon.errors import InvalidUIDError, MismatchError, OutOfResourcesError
from osteon.pipeline.instances.digest import DIGEST_BYTES
from osteon.pipeline.instances.drafts import Draft
from osteon.pipeline.instances.index import Header, HeaderReader
from osteon.pipeline.instances.part10 import FileMeta, encode_header
from osteon.pipeline.instances.spool import unwritable

SPACE_CHECK_BYTES = 64 * 2**20  # How far one instance may grow between two looks at the disk.


@dataclass(frozen=True)
class Stored:
    """What became of an instance.

    Attributes
    ----------
    duplicate : bool
        The same bytes were held already; nothing was kept and no work follows.
    """

    sop_instance_uid: str
    series_instance_uid: str
    path: str
    duplicate: bool


@dataclass(frozen=True)
class Sealed:
    """An instance whose bytes are on the disk, in a draft."""

    meta: FileMeta
    header: Header
    digest: str
    draft: Draft


class Arrival:
    """Take the bytes of one data set; leaving the block drops what was not finished.

    Parameters
    ----------
    meta : FileMeta
        What the sender says of the instance.
    draft : Draft
        Where it is written.
    refusal : callable
        Says why nothing more can be accepted, or None.
    commit : callable
        Makes a sealed instance visible and puts it on record.

    Raises
    ------
    InvalidUIDError
        A value of the File Meta Information is not ASCII.
    OutOfResourcesError
        The disk is full or fails.
    """

    def __init__(
        self,
        meta: FileMeta,
        draft: Draft,
        refusal: Callable[[], str | None],
        commit: Callable[[Sealed], Stored],
    ) -> None:
        self._meta = meta
        self._draft = draft
        self._refusal = refusal
        self._commit = commit
        self._reader = HeaderReader(meta.transfer_syntax_uid)
        self._header: Header | None = None
        self._unchecked = 0
        try:
            header = encode_header(meta)
            draft.write(header)
            draft.hash_from_here()
            self._digest_at = len(header) - DIGEST_BYTES
        except UnicodeEncodeError as error:
            draft.discard()
            raise InvalidUIDError(f"not ASCII: {error.object!r} (PS3.5 6.1)") from error
        except OSError as error:
            draft.discard()
            raise unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def write(self, part: bytes | memoryview) -> None:
        """Take the next bytes of the data set; their memory may be used again afterwards.

        Raises
        ------
        ReceptionError
            As `Intake.store`; nothing more can be written then.
        """
        try:
            self._draft.write(part)
        except OSError as error:
            raise unwritable(error) from error
        self._took(part)

    def room(self, count: int) -> memoryview:
        """Return where the next bytes shall be put: room for at most so many, at least for one.

        Raises
        ------
        OutOfResourcesError
            There is no memory.
        """
        try:
            return self._draft.room(count)
        except OSError as error:
            raise unwritable(error) from error

    def filled(self, part: memoryview) -> None:
        """Take the next bytes, which were put where `room` said; errors as in `write`."""
        try:
            self._draft.filled(len(part))
        except OSError as error:
            raise unwritable(error) from error
        self._took(part)

    def _took(self, part: bytes | memoryview) -> None:
        header = self._reader.feed(part)
        if header is not None:
            self._header = header
            self._check(header)
        self._unchecked += len(part)
        if self._unchecked > SPACE_CHECK_BYTES:
            self._unchecked = 0
            refusal = self._refusal()
            if refusal is not None:
                raise OutOfResourcesError(refusal)

    def finish(self) -> Stored:
        """Take the end of the data set; the instance is durable and on record afterwards.

        Raises
        ------
        ReceptionError
            As `Intake.store`.
        TableError
            The job table refused.
        """
        if self._header is None:
            self._header = self._reader.finish()
            self._check(self._header)
        self._reader.end()
        try:
            digest = self._draft.digest()
            # After a crash, a draft that names the hash of its data set is known to be whole.
            self._draft.overwrite(self._digest_at, digest)
            self._draft.sync()
        except OSError as error:
            raise unwritable(error) from error
        return self._commit(Sealed(self._meta, self._header, digest.hex(), self._draft))

    def drop(self) -> None:
        """Forget it, unless it is stored; a second call does nothing."""
        self._draft.discard()

    def _check(self, header: Header) -> None:
        named = (self._meta.sop_class_uid, self._meta.sop_instance_uid)
        if (header.sop_class_uid, header.sop_instance_uid) != named:
            raise MismatchError(
                f"the command names {' '.join(named)}, the data set"
                f" {header.sop_class_uid} {header.sop_instance_uid}"
            )
