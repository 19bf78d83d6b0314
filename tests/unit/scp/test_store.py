"""Which status each fault becomes; the faults are raised by an intake that always fails."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from osteon.errors import (
    InvalidUIDError,
    MismatchError,
    OutOfResourcesError,
    ReceptionError,
    StaleTransition,
    TableError,
    UnparseableError,
)
from osteon.pipeline.table.reception import Origin
from osteon.scp.store import status_of, store_instance

ORIGIN = Origin("CT1", "OSTEON", "10.0.0.5", 1)


class FailingIntake:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def store(self, *_: Any, **__: Any) -> Any:
        raise self.error


def event(dataset: bytes = b"\0" * 10) -> Any:
    request = SimpleNamespace(
        DataSet=BytesIO(dataset), AffectedSOPClassUID="1.2", AffectedSOPInstanceUID="1.2.3"
    )
    return SimpleNamespace(request=request, context=SimpleNamespace(transfer_syntax="1.2"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OutOfResourcesError("disk reserve reached"), 0xA700),
        (MismatchError("other UID"), 0xA900),
        (UnparseableError("no data set"), 0xC000),
        (InvalidUIDError("no UID"), 0x0117),
        (TableError("locked"), 0xA700),
        (StaleTransition("moved"), 0xA700),
        (ReceptionError("the disk failed"), 0xA700),
        (OSError(5, "Input/output error"), 0xA700),
        (ZeroDivisionError("a bug"), 0xA700),
        (MemoryError(), 0xA700),
    ],
)
def test_every_fault_is_answered_by_a_status_that_fits(error: Exception, status: int) -> None:
    with capture_logs() as logs:
        answer = store_instance(event(), ORIGIN, FailingIntake(error), 100)  # type: ignore[arg-type]

    assert answer.stored is None
    assert answer.status == status
    refused = [line for line in logs if line["event"] == "instance refused"]
    assert len(refused) == 1
    assert refused[0]["status"] == f"{status:#06x}"
    assert refused[0]["sop_instance_uid"] == "1.2.3"


def test_a_fault_that_nobody_foresaw_leaves_its_traceback_in_the_log() -> None:
    with capture_logs() as logs:
        store_instance(event(), ORIGIN, FailingIntake(ZeroDivisionError("a bug")), 100)  # type: ignore[arg-type]

    assert [line["event"] for line in logs if line.get("exc_info")] == [
        "an instance could not be stored"
    ]


def test_a_data_set_over_the_limit_is_out_of_resources() -> None:
    with capture_logs():
        answer = store_instance(event(bytes(101)), ORIGIN, FailingIntake(AssertionError()), 100)  # type: ignore[arg-type]

    assert answer.status == 0xA700
    assert answer.comment == "the data set is longer than 100 bytes"


def test_the_error_comment_fits_a_long_string() -> None:
    comment = status_of(0xC000, "Größe \\ 日本\n" + "x" * 100).ErrorComment

    assert comment.startswith("Gr??e ? ???xxx")
    assert len(comment) == 64


def test_success_has_no_comment() -> None:
    assert "ErrorComment" not in status_of(0x0000)
