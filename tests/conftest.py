"""Fixtures of the whole suite, and the rule that nothing is skipped where everything is there."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from osteon.pipeline.intake import Intake

# A busy machine is no fault of what is tested; what hangs is ended by the limit of every test.
hypothesis.settings.register_profile("osteon", deadline=None)
hypothesis.settings.load_profile("osteon")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NOTHING_SKIPS = os.environ.get("CI") == "true"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CT series, which a user's checkout does not have."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real CT series are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _intakes_end_with_their_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test has left open: a keeper of drafts goes on until its rows are synced."""
    opened: list[Intake] = []
    begin = Intake.__init__

    def noted(self: Intake, *args: Any, **settings: Any) -> None:
        begin(self, *args, **settings)
        opened.append(self)

    monkeypatch.setattr(Intake, "__init__", noted)
    yield
    for intake in opened:
        intake.close()


@pytest.fixture(scope="session")
def gpu() -> None:
    """A GPU, which the machine of CI does not have."""
    import torch  # noqa: PLC0415 - it takes seconds to load, and most tests do without

    if not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI, where all is installed but a GPU."""
    report = yield
    needs_gpu = "gpu" in getattr(item, "fixturenames", ())
    if NOTHING_SKIPS and report.skipped and not needs_gpu and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may skip: {report.longreprtext}"
    return report
