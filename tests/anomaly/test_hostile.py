"""Peers that mean harm, slow ones and bombs; and honest ones that come all at once.

The receive role is a process of its own, so that its threads and its memory are nobody else's.
``bench/pressure.py`` prints the same figures.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.anomaly.bombs import BOMB_KIB_MAX, BOMB_S_MAX, BOMBS, cost
from tests.anomaly.pressure import (
    ECHO_S_MAX,
    HONEST,
    HONEST_INSTANCES,
    HONEST_S_MAX,
    SLOW,
    THREADS_MAX,
    Slowed,
    echo,
    served,
    slowed,
    tls_of,
)
from tests.anomaly.role import Role
from tests.anomaly.sender import Factory, send_all

SLOW_S = float(os.environ.get("HOSTILE_S", "5"))  # Longer at night.


@pytest.fixture
def role(tmp_path: Path) -> Iterator[Role]:
    with Role(tmp_path / "data").start() as role:
        yield role


def assert_unhurt(found: Slowed) -> None:
    assert len(found.echo_s) > 20
    assert found.echo_p99_s < ECHO_S_MAX
    assert found.threads < THREADS_MAX


@pytest.mark.parametrize(("first", "rest"), SLOW.values(), ids=SLOW)
def test_slow_peers_slow_nobody_down(role: Role, first: bytes, rest: bytes) -> None:
    assert_unhurt(slowed(role, first, rest, seconds=SLOW_S))


def test_peers_that_are_silent_where_tls_is_spoken_slow_nobody_down(tmp_path: Path) -> None:
    settings, tls = tls_of(tmp_path)
    with Role(tmp_path / "data", settings=settings).start() as role:
        assert_unhurt(slowed(role, b"", b"", seconds=SLOW_S, tls=tls))


def test_honest_peers_are_served_all_at_once(role: Role) -> None:
    found = served(role)

    assert found.ledger.statuses == {0x0000: HONEST_INSTANCES * HONEST}
    assert not found.ledger.rejections
    assert found.p99_s < HONEST_S_MAX
    assert found.broken == []


@pytest.fixture(scope="module")
def bombed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    with Role(tmp_path_factory.mktemp("bombed") / "data").start() as role:
        send_all(role.port, [Factory("1.2.826.0.8").series(20)])
        yield role


@pytest.mark.parametrize("throw", BOMBS)
def test_a_bomb_costs_little(bombed: Role, throw: Callable[[int], None]) -> None:
    took_s, grew_kib = cost(bombed, throw)

    assert grew_kib < BOMB_KIB_MAX
    assert took_s < BOMB_S_MAX
    assert echo(bombed.port) < ECHO_S_MAX
