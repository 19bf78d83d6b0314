"""Routes on a node's own record: a study of many series, and a configuration tried before it is."""

import json
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom import dcmread

from osteon.cli.main import cli
from osteon.config.load import load_settings
from osteon.pipeline.phantoms.phantom import write_phantom
from osteon.pipeline.table import views
from tests.anomaly import series_changes
from tests.pipeline_parts import HandClock, Node, ThreadEngine, store_slices

DAY_S = 86400.0
IN_FORCE = """\
data_dir = "{folder}/data"
[scp]
ae_title = "OSTEON"
[pipeline]
disk_reserve_gb = 0
ahead = false
[[source]]
ae_title = "CT1"
[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
deliver = false
[[destination]]
name = "archive"
ae_title = "ARC"
host = "127.0.0.1"
port = 105
deliver = false
"""
BONE = '[[route]]\nname = "bone"\nmatch = {{ Modality = "CT", instances = {{ min = {n} }} }}\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "osteon.toml"
    path.write_text(IN_FORCE.format(folder=tmp_path) + BONE.format(n=3))
    return path


@pytest.fixture
def node(config: Path) -> Iterator[Node]:
    """A node that took three series within the week, and one before it."""
    settings = load_settings(config)
    made = Node(settings.data_dir, settings, ThreadEngine(), HandClock(time.time() - 20 * DAY_S))
    receive(made, "1.2.1", range(1, 5), "1.9.1", age_s=19 * DAY_S)
    receive(made, "1.2.2", range(1, 5), "1.9.2", age_s=2 * DAY_S)
    receive(made, "1.2.3", range(1, 3), "1.9.3", age_s=2 * DAY_S)
    receive(made, "1.2.4", range(1, 9), "1.9.3", age_s=1 * DAY_S)
    yield made
    made.close()


def receive(node: Node, series: str, numbers: range, study: str, *, age_s: float) -> None:
    node.clock.now = time.time() - age_s
    origin = node.intake.open_association("CT1", "OSTEON", "10.0.0.5")
    store_slices(node.intake, numbers, series=series, study=study, origin=origin)
    node.clock.advance(5.0)
    node.tick_until(lambda: views.predict(node.table, series)["status"] != "receiving")


def diff(config: Path, text: str, *options: str) -> tuple[int, str, str]:
    new = config.with_name("new.toml")
    new.write_text(text)
    line = ["routes", "diff", str(new), "--config", str(config), *options]
    result = CliRunner().invoke(cli, line)
    return result.exit_code, result.stdout, result.stderr


def changes(config: Path, text: str) -> dict[str, dict[str, Any]]:
    _, out, _ = diff(config, text, "--json")
    return {d["series_instance_uid"]: d for d in json.loads(out)["differences"]}


@pytest.mark.usefixtures("node")
def test_the_same_configuration_changes_nothing(config: Path) -> None:
    code, out, _ = diff(config, config.read_text(), "--exit-code")
    assert code == 0
    assert out == (
        "3 series of the last 7 days: 3 as before, 0 newly taken, 0 no longer taken,"
        " 0 taken otherwise\n"
    )


@pytest.mark.usefixtures("node")
def test_each_change_says_what_was_and_what_would_be(config: Path) -> None:
    before, _ = config.read_text().split("[[route]]")
    code, out, err = diff(config, before + BONE.format(n=5))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("1.2.2: CT, 4 instances, accession number none, 20")
    assert lines[1:] == [
        "  was       bone: builtin:bone, routine, to nobody",
        "  would be  not taken: bone: instances is 4, below 5",
        "3 series of the last 7 days: 2 as before, 0 newly taken, 1 no longer taken,"
        " 0 taken otherwise",
    ]


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("route", "key", "was", "would_be"),
    [
        ('model = "other"', "model", "builtin:bone", "other"),
        ('priority = "stat"', "priority", "routine", "stat"),
        ('destinations = ["pacs", "archive"]', "destinations", [], ["pacs", "archive"]),
        ('shadow = "other"', "shadow", [], ["other"]),
    ],
)
def test_a_series_that_is_taken_otherwise(
    config: Path, route: str, key: str, was: object, would_be: object
) -> None:
    found = changes(config, f"{config.read_text()}{route}\n")
    assert set(found) == {"1.2.2", "1.2.4"}
    assert {d["change"] for d in found.values()} == {"other"}
    (old,), (new,) = found["1.2.2"]["was"]["jobs"], found["1.2.2"]["would_be"]["jobs"]
    assert (old[key], new[key]) == (was, would_be)
    assert {k for k in old if old[k] != new[k]} == {key}


@pytest.mark.usefixtures("node")
def test_a_series_that_no_route_took_would_be_taken(config: Path) -> None:
    before, _ = config.read_text().split("[[route]]")
    found = changes(config, before + BONE.format(n=2))
    assert {uid: d["change"] for uid, d in found.items()} == {"1.2.3": "gained"}
    assert found["1.2.3"]["was"] == {"jobs": [], "why": "bone: instances is 2, below 3"}


@pytest.mark.usefixtures("node")
def test_the_study_decides_for_a_route_that_takes_one_of_it(config: Path) -> None:
    found = changes(config, f'{config.read_text()}series = "largest"\n')
    assert found == {}
    before, _ = config.read_text().split("[[route]]")
    found = changes(config, f'{before}{BONE.format(n=2)}series = "largest"\n')
    assert found == {}, "1.2.3 meets the conditions now, but 1.2.4 of its study is larger"


@pytest.mark.usefixtures("node")
@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('ae_title = "CT1"', 'ae_title = "CT2"', "no [[source]] allows 'CT1' from 10.0.0.5"),
        (
            'ae_title = "CT1"',
            'ae_title = "CT1"\naddress = "10.1.0.0/16"',
            "no [[source]] allows 'CT1' from 10.0.0.5",
        ),
        ('ae_title = "OSTEON"', 'ae_title = "BONES"', "this node does not answer to 'OSTEON'"),
    ],
)
def test_a_sender_that_would_not_be_let_in(config: Path, old: str, new: str, why: str) -> None:
    found = changes(config, config.read_text().replace(old, new))
    assert {uid: d["would_be"] for uid, d in found.items()} == {
        uid: {"jobs": [], "why": why} for uid in ("1.2.2", "1.2.4")
    }


@pytest.mark.usefixtures("node")
def test_days_and_the_exit_code(config: Path) -> None:
    text = config.read_text() + 'model = "other"\n'
    code, out, err = diff(config, text, "--days", "30", "--exit-code")
    assert code == 1
    assert out.splitlines()[-1].startswith("4 series of the last 30 days: 1 as before")
    assert err.endswith("new.toml would decide 3 series otherwise\n")
    assert diff(config, text, "--days", "0")[0] == 2


@pytest.mark.usefixtures("node")
def test_a_new_configuration_with_a_bad_pattern_is_refused_before_anything_is_compared(
    config: Path,
) -> None:
    text = config.read_text().replace("Modality", 'SeriesDescription = { regex = "(" }, Modality')
    code, out, err = diff(config, text)
    assert (code, out) == (2, "")
    assert "route[0].match.SeriesDescription.regex: not a regular expression" in err


@pytest.fixture(scope="module")
def multiframes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 3 mm slices as single frames, legacy converted, and as Enhanced CT of 1 mm."""
    folder = tmp_path_factory.mktemp("study")
    write_phantom(folder / "single", slices=4, rows=32, columns=32, spacing_mm=(3.0, 1.0, 1.0))
    singles = [dcmread(path) for path in sorted((folder / "single" / "dicom").iterdir())]
    thinner = deepcopy(singles)
    for number, ds in enumerate(thinner):
        ds.SliceThickness, ds.SeriesInstanceUID = "1", "2.25.910"
        ds.ImagePositionPatient[2] = float(number)
    (folder / "multi").mkdir()
    series_changes.write(
        [*series_changes.legacy_converted(singles), *series_changes.enhanced()(thinner)],
        folder / "multi",
    )
    return folder


def test_a_multi_frame_ct_meets_conditions_by_what_its_frames_say(
    config: Path, multiframes: Path
) -> None:
    text = config.read_text().replace(
        "match = {", "match = { SliceThickness = { max = 2.0 }, PixelSpacing = { max = 1.0 },"
    )
    config.write_text(text)
    says = _tested(config, multiframes)
    assert says[2] == (True, "every condition holds")
    assert says[:2] == [(False, "SliceThickness is 3, above 2")] * 2


def test_the_thinnest_of_a_study_may_be_a_multi_frame_one(config: Path, multiframes: Path) -> None:
    config.write_text(f'{config.read_text()}series = "thinnest"\n')
    says = _tested(config, multiframes)
    assert says[2] == (True, "every condition holds")
    assert says[0][1] == says[1][1] == "the thinnest series of its study is 2.25.910"


def _tested(config: Path, folder: Path) -> list[tuple[bool, str]]:
    """What `osteon routes test` says: of the single frames, the converted, and the enhanced."""
    line = ["routes", "test", str(folder), "--json", "--config", str(config)]
    answers = json.loads(CliRunner().invoke(cli, line).stdout)["series"]
    by_uid = {answer["series_instance_uid"]: answer["routes"][0] for answer in answers}
    (single,) = set(by_uid) - {"2.25.900", "2.25.910"}
    order = (single, "2.25.900", "2.25.910")
    return [(by_uid[uid]["taken"], by_uid[uid]["why"]) for uid in order]


def test_a_study_of_six_reconstructions_is_one_job(config: Path) -> None:
    config.write_text(f'{config.read_text()}series = "thinnest"\n')
    settings = load_settings(config)
    node = Node(settings.data_dir, settings, ThreadEngine())
    kernels = ["Br40", "Br64", "Br40", "Br64", "Br40", "Br64"]
    thickness_mm = [5, 5, 1.5, 1.5, 0.75, 0.6]
    for number, (kernel, thickness) in enumerate(zip(kernels, thickness_mm, strict=True), 1):
        store_slices(
            node.intake,
            range(1, 5),
            series=f"1.2.{number}",
            ConvolutionKernel=kernel,
            SliceThickness=thickness,
        )
    node.clock.advance(5.0)
    node.tick_until(lambda: len(node.jobs()) == 6 and node.job(6)["state"] == "done")
    ran = {request.job_id for request in node.engine.requests}
    assert len(ran) == 1
    for number in range(1, 6):
        said = views.predict(node.table, f"1.2.{number}")
        assert said["status"] == "rejected"
        assert said["reason"] == "bone: the thinnest series of its study is 1.2.6"
    assert views.predict(node.table, "1.2.6")["id"] == str(ran.pop())
    node.close()
