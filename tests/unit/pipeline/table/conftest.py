"""Fixtures of the table's tests."""

import pytest

from osteon.pipeline.table.connection import open_table
from tests.pipeline_parts import HandClock


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def table(tmp_path, clock):
    opened = open_table(tmp_path / "data", clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def other(table, clock):
    """A second connection, as another process has one."""
    opened = open_table(table.data_dir, clock=clock)
    yield opened
    opened.close()
