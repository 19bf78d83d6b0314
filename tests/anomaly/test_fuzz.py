"""Malformed PDUs and data sets by the hundred: a sample of ``bench/fuzz.py``, of the same parts."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.anomaly.fuzzing import Catch, DataSetFuzzer, PduFuzzer, own_datasets
from tests.anomaly.mutations import Mutator, own_streams, real_datasets, recorded_streams
from tests.anomaly.role import Role

SEED = 7
PDUS, DATASETS = 800, 500
GROWTH_MAX = 1.5


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "stock"])
def role(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Role]:
    settings = {"OSTEON_SCP__FAST": request.param}
    with Role(tmp_path_factory.mktemp("fuzz") / "data", settings=settings).start() as role:
        yield role


def assert_unhurt(catch: Catch, count: int) -> None:
    assert catch.failures == []
    assert catch.sent >= count
    assert catch.growth < GROWTH_MAX


def test_malformed_pdus_hurt_nobody(role: Role, shared_data: Path) -> None:
    streams = own_streams() + recorded_streams(shared_data / "profuzzbench")
    catch = PduFuzzer(role, PDUS, SEED, streams).run()

    assert_unhurt(catch, PDUS)
    assert any(answer.startswith("02") for answer in catch.answers), "no association was reached"
    assert any("07" in answer for answer in catch.answers), "nothing was found malformed"


def test_malformed_data_sets_are_answered(role: Role, shared_data: Path) -> None:
    catch = DataSetFuzzer(role, DATASETS, SEED, own_datasets() + real_datasets(shared_data)).run()

    assert_unhurt(catch, DATASETS)
    assert {"0x0000", "0xc000"} <= set(catch.answers) <= {"0x0000", "0x0117", "0xa900", "0xc000"}


def test_the_same_seed_breaks_the_same(shared_data: Path) -> None:
    raw = (shared_data / "profuzzbench" / "dicom_store.raw").read_bytes()
    once, again = (Mutator(random.Random(SEED)) for _ in range(2))

    broken = [once.broken(raw) for _ in range(50)]
    assert broken == [again.broken(raw) for _ in range(50)]
    assert len(set(broken) - {raw}) > 40
