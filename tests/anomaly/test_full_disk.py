"""A disk that is full: every instance is kept or refused, and service comes back with the space."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.anomaly.evidence import broken_promises, left_behind
from tests.anomaly.role import Role
from tests.anomaly.sender import (
    CONGESTED,
    OUT_OF_RESOURCES,
    SUCCESS,
    Factory,
    send_all,
    wait_until_served,
)
from tests.anomaly.smalldisk import (
    FULL_FIRST,
    RESUMES_S,
    NoMountError,
    SmallDisk,
    fill_and_free,
    send_until_full,
    small_disk,
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(tmp_path / "disk") as disk:
            yield disk
    except NoMountError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("rows", FULL_FIRST.values(), ids=FULL_FIRST)
def test_service_comes_back_with_the_space(disk: SmallDisk, rows: int) -> None:
    with Role(disk.mount / "data").start(disk.enter) as role:
        found = fill_and_free(role, disk, rows)

    assert found.refused > 0
    assert found.ledger.acknowledged
    assert set(found.ledger.statuses) == {SUCCESS, OUT_OF_RESOURCES}
    assert found.resumes_s < RESUMES_S
    assert found.left == []


def test_what_was_acknowledged_survives_kill_9_on_a_full_disk(disk: SmallDisk) -> None:
    with Role(disk.mount / "data") as role:
        ledger, refused = send_until_full(role.start(disk.enter), disk, 64)
        role.kill()
        disk.free()
        role.start(disk.enter)

        assert broken_promises(disk.copied(), ledger.acknowledged) == []
        assert left_behind(disk.copied()) == []
        ledger.add(send_all(role.port, [refused]))
        assert broken_promises(disk.copied(), ledger.acknowledged) == []
        assert ledger.unexpected() == []


def test_new_associations_wait_while_the_reserve_is_reached(disk: SmallDisk) -> None:
    reserve = {"OSTEON_PIPELINE__DISK_RESERVE_GB": "0.003"}
    factory = Factory("1.2.826.0.4")
    with Role(disk.mount / "data", settings=reserve).start(disk.enter) as role:
        disk.fill(2 * 10**6)
        senders = send_all(role.port, [factory.series(2)])
        assert [sender.rejection for sender in senders] == [CONGESTED]

        disk.free()
        wait_until_served(role.port, factory.series(1)[0], RESUMES_S)
