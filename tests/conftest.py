"""Fixtures of the whole suite."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CT series, which a user's checkout does not have."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real CT series are not at {SHARED_DATA}")
    return SHARED_DATA
