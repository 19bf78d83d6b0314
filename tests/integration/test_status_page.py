"""The status page in a browser: what it offers to do with a job that is over."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest

from osteon.pipeline.table import jobs, series
from osteon.pipeline.table.series import NewJob
from tests.http_parts import Served, dicom_file, http_settings, serving, zip_of

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
NO_ROUTE = NewJob("none", "", 2, "[]", "ab" * 32, rejected="no route takes it")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(http_settings(tmp_path / "data")) as made:
        yield made


def shown(served: Served, job_id: int, folder: Path) -> tuple[list[str], str]:
    """Return the words of the buttons of an open job, and of all beside them."""
    line = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
        *(f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=4000"),
        f"{served.client.base_url}/#{job_id}",
    ]
    dom = subprocess.run(line, capture_output=True, text=True, timeout=120, check=True).stdout
    pane = re.search(r'<div class="run">(.*?)</div>', dom, re.DOTALL)
    assert pane is not None, dom
    buttons = re.findall(r"<button[^>]*>(.*?)</button>", pane[1])
    return [unescape(one) for one in buttons], unescape(re.sub(r"<[^>]+>", " ", pane[1]))


def receive(served: Served, count: int, new: NewJob) -> int:
    members = {str(n): dicom_file(n) for n in range(1, count + 1)}
    served.client.post("/api/v1/files", content=zip_of(members))
    (row,) = served.table.rows("SELECT * FROM series")
    return series.complete(served.table, row, "complete", [new])[0]


def test_a_failed_job_is_run_again(served: Served, tmp_path: Path) -> None:
    job_id = receive(served, 2, NewJob("bone", "builtin:bone", 2, "[]", "ab" * 32))
    jobs.fail(served.table, jobs.get(served.table, job_id), "the worker process died")
    assert shown(served, job_id, tmp_path)[0] == ["Run again"]


def test_a_series_that_no_route_took_is_run_with_one_that_takes_it(
    served: Served, tmp_path: Path
) -> None:
    job_id = receive(served, 2, NO_ROUTE)
    assert shown(served, job_id, tmp_path)[0] == ["Run with route bone"]


def test_of_a_series_that_no_route_takes_it_says_why(served: Served, tmp_path: Path) -> None:
    buttons, words = shown(served, receive(served, 1, NO_ROUTE), tmp_path)
    assert buttons == []
    assert "No present route takes its series" in words
    assert "instances is 1, below 2" in words
