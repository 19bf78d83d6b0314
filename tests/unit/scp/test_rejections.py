"""Rejections are gathered: however fast somebody knocks, little is written."""

from structlog.testing import capture_logs

from osteon.errors import OutOfResourcesError
from osteon.pipeline.table.associations import REJECTIONS_MAX, Rejected
from osteon.scp.rejections import Rejections
from tests.tools import wait_until

CALLER = ("CT1", "OSTEON", "10.0.0.5", "1,1,3")


def test_what_is_alike_becomes_one() -> None:
    batches: list[list[Rejected]] = []
    rejections = Rejections(batches.append, pause_s=60)  # type: ignore[arg-type]
    for at in (1.0, 2.0, 3.0):
        rejections.note(*CALLER, f"why {at}", at)
    rejections.note("CT2", *CALLER[1:], "why", 4.0)
    rejections.flush()
    rejections.flush()
    assert batches == [
        [
            Rejected(*CALLER, "why 3.0", 1.0, 3.0, 3),
            Rejected("CT2", *CALLER[1:], "why", 4.0, 4.0, 1),
        ]
    ]


def test_they_are_on_record_after_a_pause() -> None:
    batches: list[list[Rejected]] = []
    rejections = Rejections(batches.append, pause_s=0.01)  # type: ignore[arg-type]
    for count in (1, 2):
        rejections.note(*CALLER, "why", 1.0)
        wait_until(lambda: len(batches) == count, timeout_s=5)  # noqa: B023 - waits within the loop


def test_no_more_are_held_than_are_kept() -> None:
    batches: list[list[Rejected]] = []
    rejections = Rejections(batches.append, pause_s=60)  # type: ignore[arg-type]
    for number in range(REJECTIONS_MAX + 10):
        rejections.note(f"X{number}", *CALLER[1:], "why", 1.0)
    rejections.note("X0", *CALLER[1:], "why", 2.0)
    rejections.flush()
    assert len(batches[0]) == REJECTIONS_MAX
    assert batches[0][0].times == 2


def test_a_full_disk_is_logged_and_not_in_the_way() -> None:
    def fail(_: object) -> None:
        raise OutOfResourcesError("the disk is full")

    rejections = Rejections(fail, pause_s=60)
    rejections.note(*CALLER, "why", 1.0)
    with capture_logs() as logs:
        rejections.flush()
    assert [line["why"] for line in logs] == ["the disk is full"]
