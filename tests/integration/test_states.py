"""The pipeline's promises under whatever happens; `make bench-states` plays 10,000 examples."""

from collections.abc import Iterator

import pytest
import structlog
from hypothesis.errors import FlakyFailure

from tests.breakage import MUTATIONS, examine


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of failures are played; none is news."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.reset_defaults()


def test_promises_hold_whatever_happens() -> None:
    examine(100)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_what_is_broken_on_purpose_is_found(mutation: str) -> None:
    # A thread that sends does so at its own pace: what it led to may not come about again.
    with pytest.raises((AssertionError, FlakyFailure)):
        examine(2000, mutation)
