"""What commands print: aligned, whole, and nothing that steers a terminal."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest
import structlog

from osteon.cli.logging import configure_logging
from osteon.cli.output import (
    local_time,
    printable,
    progress,
    rich_table,
    write_json,
    write_skipped,
    write_table,
    writing_to,
)
from osteon.config.settings import LogSettings
from osteon.errors import ConfigError


def test_what_peers_name_cannot_steer_a_terminal() -> None:
    assert printable("CT\x1b[2J\n1") == "CT�[2J�1"
    assert printable("Größe 骨") == "Größe 骨"
    assert printable(None) == ""


def test_a_table_in_a_pipe_is_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("id", "reason"), [(1, "x" * 200), (22, "")])
    assert capsys.readouterr().out == f"id  reason\n1   {'x' * 200}\n22\n"


def test_an_empty_table_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("id", "reason"), [])
    assert capsys.readouterr().out == "id  reason\n"


def test_a_table_at_a_terminal_takes_nothing_as_markup() -> None:
    cells = list(rich_table(("a",), [("[red]x[/red]",)]).columns[0].cells)
    assert [str(cell) for cell in cells] == ["[red]x[/red]"]


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"path": Path("x"), "name": "é"})
    assert json.loads(capsys.readouterr().out) == {"path": "x", "name": "é"}


def test_progress_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sending", 10) as bar:
        bar.show(5, what="half")
    assert capsys.readouterr() == ("", "")


def test_of_many_skipped_files_ten_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_skipped([(Path(f"{i}.txt"), "not DICOM") for i in range(12)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "skipped 0.txt: not DICOM"
    assert lines[10:] == ["skipped 2 more files: see --json"]


def test_a_full_or_locked_disk_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"), writing_to(tmp_path / "file"):
        (tmp_path / "file" / "folder").mkdir()


def test_times_are_local_and_absent_ones_empty() -> None:
    assert local_time(None) == ""
    assert len(local_time("2025-01-02T03:04:05.678+00:00")) == len("2025-01-02 03:04:05")


@pytest.fixture
def _logging_restored() -> object:
    root, quiet = logging.getLogger(), logging.getLogger("pynetdicom")
    before = root.handlers[:], root.level, quiet.level
    hook = sys.excepthook
    yield
    root.handlers, root.level = before[0], before[1]
    quiet.setLevel(before[2])
    sys.excepthook = hook
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.usefixtures("_logging_restored")
def test_every_event_is_one_json_object_with_its_role() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(level="info", format="json"), "work", stream)
    structlog.get_logger("a").info("stage finished", job=1)
    structlog.get_logger("a").debug("not asked for")
    logging.getLogger("some.library").warning("from %s", "outside")
    logging.getLogger("pynetdicom.ae").info("chatter")
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["stage finished", "from outside"]
    assert [event["level"] for event in events] == ["info", "warning"]
    assert {event["role"] for event in events} == {"work"}
    assert events[0]["job"] == 1
    assert events[0]["timestamp"].endswith("Z")


@pytest.mark.usefixtures("_logging_restored")
def test_a_traceback_is_part_of_its_event() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(level="info", format="json"), "work", stream)
    try:
        raise ValueError("wrong")
    except ValueError:
        structlog.get_logger("a").exception("failed")
    (event,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert "ValueError: wrong" in event["exception"]


@pytest.mark.usefixtures("_logging_restored")
def test_people_read_lines_of_text() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(level="warning"), "http", stream)
    structlog.get_logger("a").warning("disk reserve reached", free_gb=1)
    line = stream.getvalue()
    assert "warning" in line
    assert "disk reserve reached" in line
    assert "free_gb=1" in line
    assert "\x1b" not in line
