"""A folder of files as series: what belongs together, what is passed over, and why."""

import errno
import shutil
import tempfile
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner

from osteon.cli import folder as reader
from osteon.cli.folder import read_folder
from osteon.cli.main import cli
from osteon.cli.routes import _ask
from osteon.cli.send import sendable
from osteon.config.settings import Settings
from osteon.errors import NotFoundError, UnavailableError
from osteon.pipeline.phantoms.phantom import write_phantom
from osteon.results.pacs import StandInPacs
from tests.privileges import as_nobody


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series of 4 slices, a text file and a copy."""
    folder = tmp_path_factory.mktemp("folder")
    for seed in (1, 2):
        write_phantom(folder / str(seed), seed=seed, slices=4, rows=64, columns=64)
    (folder / "notes.txt").write_text("no DICOM")
    first = next((folder / "1" / "dicom").iterdir())
    shutil.copy(first, folder / "1" / "dicom" / "zz-copy.dcm")
    return folder


def test_files_are_sorted_into_series(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    found, skipped = read_folder(folder, lambda done, total: seen.append((done, total)))
    assert [len(series.instances) for series in found] == [4, 4]
    assert len({series.series_instance_uid for series in found}) == 2
    numbers = [instance.header.instance_number for instance in found[0].instances]
    assert numbers == sorted(numbers)
    reasons = {one.path.name: one.why for one in skipped}
    assert reasons["notes.txt"].startswith("not a DICOM file")
    assert reasons["zz-copy.dcm"].startswith("the same SOP Instance UID as")
    assert seen[-1] == (14, 14)


def test_an_input_set_is_its_contents_and_not_its_names(folder: Path, tmp_path: Path) -> None:
    found, _ = read_folder(folder / "1" / "dicom")
    for number, path in enumerate(reversed(found[0].paths)):
        shutil.copy(path, tmp_path / f"{number}.bin")
    again, _ = read_folder(tmp_path)
    assert again[0].input_sha256 == found[0].input_sha256
    other, _ = read_folder(folder / "2" / "dicom")
    assert other[0].input_sha256 != found[0].input_sha256


def test_one_file_is_a_folder_of_one(folder: Path) -> None:
    found, _ = read_folder(next((folder / "2" / "dicom").iterdir()))
    assert len(found[0].instances) == 1


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no files there"):
        read_folder(tmp_path)


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over() -> None:
    with tempfile.TemporaryDirectory() as name:
        closed = Path(name) / "closed"
        write_phantom(closed, slices=4, rows=64, columns=64)
        (Path(name) / "notes.txt").write_text("no DICOM")
        with as_nobody(Path(name)):
            closed.chmod(0)
            with pytest.raises(UnavailableError) as caught:
                read_folder(Path(name))
            closed.chmod(0o700)
    assert caught.value.message.startswith(f"{closed} cannot be looked into: Permission denied")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["send", "{}", "--to", "h:1:A"], 5, "no DICOM instance there: nothing was sent"),
        (["routes", "test", "{}"], 5, "no DICOM series there"),
        (["run", "{}", "-o", "{}/out"], 6, "no CT series there"),
        (["demo", "--ct", "{}", "--out", "{}/demo"], 5, "no CT series there"),
        (["routes", "test", "{}", "--called", "WRONG"], 5, "this node does not answer to 'WRONG'"),
    ],
)
def test_a_folder_without_images_is_an_error(
    args: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no DICOM")
    result = CliRunner().invoke(cli, [arg.format(tmp_path) for arg in args])
    assert result.exit_code == code
    assert says in result.stderr


def test_a_file_that_cannot_be_read_is_told_and_no_success() -> None:
    with tempfile.TemporaryDirectory() as name, StandInPacs(Path(name) / "pacs") as pacs:
        ct = write_phantom(Path(name), slices=4, rows=64, columns=64).dicom
        send = ["send", str(ct), "--to", f"127.0.0.1:{pacs.port}:PACS"]
        assert CliRunner().invoke(cli, send).exit_code == 0
        last = max(ct.iterdir())
        with as_nobody(Path(name)):
            last.chmod(0)
            result = CliRunner().invoke(cli, send)
    assert result.exit_code == 11
    assert result.stderr == f"osteon: left out, since it could not be read: {last}\n"
    assert f"skipped {last}: cannot be read: Permission denied" in result.stdout


def test_a_result_that_lacks_what_could_not_be_read_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ct = write_phantom(tmp_path / "ct", slices=8, rows=64, columns=64).dicom
    last, read = max(ct.iterdir()), reader._read

    def refuse(path: Path) -> reader.Instance:
        if path == last:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(reader, "_read", refuse)
    result = CliRunner().invoke(cli, ["run", str(ct), "-o", str(tmp_path / "out")])
    assert result.exit_code == 11
    assert f"osteon: left out, since it could not be read: {last}\n" in result.stderr
    assert (tmp_path / "out" / "seg.dcm").is_file()


def test_only_instances_are_sent(folder: Path) -> None:
    good, skipped = sendable([folder / "notes.txt", *(folder / "1" / "dicom").iterdir()])
    assert len(good) == 5
    assert [one.path.name for one in skipped] == ["notes.txt"]


def test_a_route_for_the_largest_series_leaves_the_others(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "1" / "dicom", tmp_path / "four")
    (tmp_path / "three").mkdir()
    for path in sorted((folder / "2" / "dicom").iterdir())[:3]:
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID = read_folder(folder / "1")[0][0].first.study_instance_uid
        ds.save_as(tmp_path / "three" / path.name)
    found, _ = read_folder(tmp_path)
    route = {"name": "one", "series": "largest", "match": {"Modality": "CT"}}
    answers = _ask(Settings.model_validate({"route": [route]}), found, "OSTEON")
    taken = {answer["instances"]: answer["routes"][0] for answer in answers}
    assert taken[4]["taken"]
    assert not taken[3]["taken"]
    assert taken[3]["why"] == f"the largest series of its study is {found[0].series_instance_uid}"


def test_the_condition_that_decides_is_named(folder: Path) -> None:
    found, _ = read_folder(folder / "1")
    settings = Settings.model_validate(
        {"route": [{"name": "mr", "match": {"Modality": "MR"}}, {"name": "any"}]}
    )
    (answer,) = _ask(settings, found, "OSTEON")
    assert answer["routes"] == [
        {"route": "mr", "taken": False, "why": "Modality is CT, not MR"},
        {"route": "any", "taken": True, "why": "no condition"},
    ]
