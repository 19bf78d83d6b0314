"""Every limit that the pages state is the one that the code has."""

import re
from pathlib import Path

import click
import pytest

from osteon.cli import send, supervisor
from osteon.config.settings import Settings
from osteon.http import archive, body, form, role, upload
from osteon.pipeline import commitment, completeness, observer, proof, rebuild, worklock
from osteon.pipeline.clusters import certificates
from osteon.pipeline.images import geometry
from osteon.pipeline.table import associations, shadow
from osteon.pipeline.workers import evidencecache
from osteon.results import commitment as requests
from osteon.scp import listener
from tests.unit.cli.test_commands import LEAVES, section_of

DOCS = Path(__file__).parents[2] / "docs"
DEFAULTS = Settings.model_validate({})
MIB = 2**20

# The page, the words around the numbers, and the numbers.
LIMITS = [
    ("http", r"entries of a zip, parts of a form \| ([\d,]+) \|", archive.ENTRIES_MAX),
    ("http", r"entries of a zip, parts of a form \| ([\d,]+) \|", form.PARTS_MAX),
    ("http", r"a zip, inflated \| (\d+) × `http.upload_bytes_max`", upload.INFLATED_TIMES_MAX),
    ("http", r"and (\d+) × its own size", archive.RATIO_MAX),
    ("http", r"where that is over (\d+) MiB", archive.RATIO_FREE_BYTES / MIB),
    ("http", r"silence in the middle of an upload \| (\d+) s", body.SILENCE_MAX_S),
    ("http", r"a connection without a request \| (\d+) s", role.REQUEST_WAIT_S),
    ("http", r"connections \| (\d+) \|", role.CONNECTIONS_MAX),
    ("operations", r"Connections that ask for none have (\d+) places", listener.PENDING_MAX),
    ("operations", r"have \d+ places and (\d+) s", DEFAULTS.scp.acse_timeout_s),
    ("operations", r"exit code 11 after (\d+) s", worklock.LOCK_WAIT_S),
    ("operations", r"judged as it is after (\d+) minutes", completeness.RETURN_WAIT_S / 60),
    ("operations", r"compared until\s+(\d+) MiB", commitment.HASHED_BYTES_MAX / MIB),
    ("operations", r"At most ([\d,]+) instances may be asked", requests.REFERENCES_MAX),
    ("operations", r"and ([\d,]+) requests for", commitment.WAITING_MAX),
    ("operations", r"requests for ([\d,]+) instances", commitment.INSTANCES_MAX),
    ("operations", r"not report within (\d+) s", proof.REPORT_WAIT_S[proof.Proof.AUTO]),
    ("operations", r"tried again after (\d+) s", proof.REPORT_WAIT_S[proof.Proof.COMMITMENT]),
    ("operations", r"At most ([\d,]+) shadows are unfinished", shadow.OPEN_MAX),
    ("cli", r"after\s+([\d.]+) s first", supervisor.BACKOFF_FIRST_S),
    ("cli", r"first and at most (\d+) s", supervisor.BACKOFF_MAX_S),
    ("cli", r"At the end they have\s+(\d+) s", supervisor.STOP_S),
    ("cli", r"the latest ([\d,]+) are kept", associations.REJECTIONS_MAX),
    ("cli", r"without a row that is younger than (\d+) s", rebuild.SETTLED_S),
    ("input", r"are not between 1 and ([\d,]+) voxels", geometry.VOXELS_MAX),
    ("input", r"a slice may be ([\d.]+) mm off the regular grid", geometry.POSITION_TOLERANCE_MM),
    ("input", r"corner of the image by ([\d.]+) mm", geometry.CORNER_TOLERANCE_MM),
    ("input", r"no distance of CT pixels: ([\d.]+) to 100 mm", geometry.PIXEL_SPACING_MM_MIN),
    ("input", r"CT pixels: 0.001 to (\d+) mm", geometry.PIXEL_SPACING_MM_MAX),
    ("architecture", r"reads every (\d+) ms", observer.POLL_S * 1000),
    ("architecture", r"longer than (\d+) ms a slice", evidencecache.WORTH_S * 1000),
    ("cluster", r"valid for (\d+) days", certificates.NODE_DAYS),
]


@pytest.mark.parametrize(("page", "words", "limit"), LIMITS, ids=[limit[1] for limit in LIMITS])
def test_a_page_states_the_limit_of_the_code(page: str, words: str, limit: float) -> None:
    found = re.search(words, (DOCS / f"{page}.md").read_text())
    assert found, f"docs/{page}.md does not say it any more"
    assert float(found[1].replace(",", "")) == pytest.approx(limit)


def test_limits_that_are_told_in_words() -> None:
    operations = (DOCS / "operations.md").read_text()
    assert "it is tried for a week" in operations
    assert DEFAULTS.delivery.give_up_s == 7 * 86400
    assert re.search(r"and for an hour not\s+asked for commitment again", operations)
    assert proof.SILENT_S == 3600
    assert "three times in all" in operations
    assert DEFAULTS.pipeline.attempts_max == 3
    assert "after three refusals in a row" in section_of("send")
    assert send.REFUSALS_MAX == 3
    page = (DOCS / "input.md").read_text()
    assert "at least three slices" in page
    assert geometry.SLICES_MIN == 3
    assert "or a fifth of a slice" in page
    assert geometry.POSITION_TOLERANCE_SLICES == 0.2
    assert "at most five of them" in page
    assert geometry.NAMED_MAX == 5
    assert "or beyond a kilometre" in page
    assert geometry.COORDINATE_MM_MAX == 1e6


@pytest.mark.parametrize("name", LEAVES)
def test_defaults_of_options_are_documented(name: str) -> None:
    bullets = re.findall(r"^- .*?(?=^- |^$|\Z)", section_of(name), re.M | re.S)
    for option in LEAVES[name].params:
        if not isinstance(option, click.Option) or isinstance(option.default, bool):
            continue
        if isinstance(option.default, int | float) and option.default:
            (bullet,) = (one for one in bullets if f"`{option.opts[0]} " in one)
            assert f"{option.default:g}" in re.findall(r"\d+", bullet), option.opts[0]
