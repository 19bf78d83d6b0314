"""Every way in which Osteon can fail, and what each failure means to the outside.

Entered by every module; imports nothing. A foreign exception is mapped to one of these once,
where its library lives.

    OsteonError
    ├── ConfigError              a setting is wrong; nothing was started
    │   └── UnavailableError     a port, lock or folder cannot be had now; starting again may help
    ├── ReceptionError           an instance was not taken
    │   ├── OutOfResourcesError  disk reserve, full disk, full table, backlog: try again later
    │   ├── MismatchError        the data set's UIDs differ from the command's
    │   ├── UnparseableError     the bytes are no DICOM data set
    │   └── InvalidUIDError      a UID breaks the rules of PS3.5 9.1
    ├── TableError               the job table refused
    │   ├── StaleTransition      the row was no longer in the state it should leave
    │   ├── NotRunnableError     the job cannot run again as it is, or no route takes its series
    │   └── NotFoundError        no such job, series or file
    ├── VolumeError              the series is not one volume, or its pixels are damaged
    ├── StageError               a stage failed; another attempt may succeed
    │   ├── ModelError           a model folder is wrong; another attempt changes nothing
    │   └── WorkerLostError      the worker died, hung or ran out of memory
    ├── EncodingError            a result would not be a valid instance; it is never sent
    └── DeliveryError            a destination did not take a result; it is tried again
        └── DeliveryRefusedError the destination refused it for good
"""

from typing import ClassVar


class OsteonError(Exception):
    """Root of the tree: one message that says what was wrong, with what, and what to do.

    Attributes
    ----------
    retryable : bool
        Whether the same request may succeed later without a change.
    dimse_status : int
        The C-STORE response status (PS3.4 Table B.2-1).
    http_status : int
        The HTTP status of the problem details document (RFC 9457).
    exit_code : int
        The exit code of the command line.
    """

    retryable: ClassVar[bool] = False
    dimse_status: ClassVar[int] = 0xC000  # Cannot understand, PS3.4 Table B.2-1
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    @property
    def message(self) -> str:
        """The message as given, for people."""
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigError(OsteonError):
    """A setting is wrong: the message names file, key and cure."""

    exit_code = 2


class UnavailableError(ConfigError):
    """A port, a lock or a folder cannot be had now: starting again later may succeed."""

    retryable = True
    exit_code = 11


class ReceptionError(OsteonError):
    """An instance was not taken; the sender still owns it."""

    http_status = 422
    exit_code = 3


class OutOfResourcesError(ReceptionError):
    """The disk reserve is reached, the disk or table is full, or the backlog is at its limit."""

    retryable = True
    dimse_status = 0xA700  # Out of resources, PS3.4 Table B.2-1
    http_status = 507


class MismatchError(ReceptionError):
    """SOP Class or Instance UID of the data set differs from the command's."""

    dimse_status = 0xA900  # Data set does not match SOP Class, PS3.4 Table B.2-1


class UnparseableError(ReceptionError):
    """The bytes are not a DICOM data set."""

    dimse_status = 0xC000  # Cannot understand, PS3.4 Table B.2-1


class InvalidUIDError(ReceptionError):
    """A UID has characters or a length that PS3.5 9.1 does not allow."""

    dimse_status = 0x0117  # Invalid SOP Instance, PS3.7 Annex C.5.6


class TableError(OsteonError):
    """The job table refused."""

    retryable = True
    dimse_status = 0xA700  # Out of resources, PS3.4 Table B.2-1
    http_status = 503
    exit_code = 4


class StaleTransition(TableError):  # noqa: N818 - it is an event, not a fault
    """The row had already left the state that this update wanted to leave."""

    http_status = 409


class NotRunnableError(TableError):
    """The job cannot run again as it is: the message says why, and what can be asked instead."""

    retryable = False
    http_status = 409


class NotFoundError(TableError):
    """No job, series or file has this name."""

    retryable = False
    http_status = 404
    exit_code = 5


class VolumeError(OsteonError):
    """The series is not one volume: the message says which slices and why."""

    http_status = 422
    exit_code = 6


class StageError(OsteonError):
    """A stage failed; another attempt may succeed."""

    retryable = True
    exit_code = 7


class ModelError(StageError):
    """A model's folder, digest or output is wrong; another attempt changes nothing."""

    retryable = False
    exit_code = 8


class WorkerLostError(StageError):
    """The worker process died, ran past its deadline or ran out of memory.

    Parameters
    ----------
    counts : bool
        Whether it counts as a failure of its job: not where another one was the cause.
    """

    def __init__(self, message: str, *, counts: bool = True) -> None:
        super().__init__(message)
        self.counts = counts


class EncodingError(OsteonError):
    """The result would not be a valid instance, so it is quarantined and never sent."""

    exit_code = 9


class DeliveryError(OsteonError):
    """A destination could not be reached or did not take a result; it is tried again."""

    retryable = True
    http_status = 502
    exit_code = 10


class DeliveryRefusedError(DeliveryError):
    """The destination refused the result for good; trying again blindly is of no use."""

    retryable = False
