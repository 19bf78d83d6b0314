"""What ``osteon jobs`` shows and answers, on a table of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from osteon.cli.main import cli
from osteon.pipeline.table import jobs
from osteon.pipeline.table.connection import Table, open_table
from tests.unit.pipeline.table.rows import add_job


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    (tmp_path / "osteon.toml").write_text(f'data_dir = "{tmp_path}"\n[[route]]\nname = "bone"\n')
    made = open_table(tmp_path)
    yield made
    made.close()


def osteon(table: Table, *line: str) -> str:
    result = CliRunner().invoke(cli, [*line, "--config", f"{table.data_dir}/osteon.toml"])
    assert result.exit_code == 0, result.output
    return result.stdout


def column(text: str, number: int) -> list[str]:
    return [line.split()[number] for line in text.splitlines()[1:]]


def test_a_cancelled_job_is_shown_as_what_it_is(table: Table) -> None:
    for number, end in enumerate((jobs.cancel, jobs.supersede, jobs.reject), start=1):
        end(table, add_job(table, f"1.9.{number}"), "ada")
    shown = osteon(table, "jobs", "list")
    assert column(shown, 1) == ["rejected", "superseded", "cancelled"]
    assert column(osteon(table, "jobs", "list", "--state", "cancelled"), 0) == ["1"]
    (said,) = json.loads(osteon(table, "jobs", "list", "--status", "failed", "--json"))
    assert (said["status"], said["state"]) == ("failed", "cancelled")
    assert json.loads(osteon(table, "jobs", "list", "--state", "failed", "--json")) == []
    assert "now: job 1 is cancelled: cancelled by ada" in osteon(table, "trace", "1")


def test_watch_prints_one_document_of_what_list_and_status_say(table: Table) -> None:
    add_job(table)
    said = json.loads(osteon(table, "watch", "--once", "--json"))
    assert said["counts"]["waiting"] == 1
    assert said["jobs"] == json.loads(osteon(table, "jobs", "list", "--json"))
    line = ["watch", "--json", "--config", f"{table.data_dir}/osteon.toml"]
    assert CliRunner().invoke(cli, line).exit_code == 2


@pytest.mark.parametrize(
    ("line", "state", "said"),
    [
        (("cancel", "1"), "waiting", ("cancelled", "is cancelled")),
        (("retry", "1"), "cancelled", ("again", "waits to run again")),
        (("reroute", "1"), "cancelled", ("rerouted", "waits to run: route bone, model builtin:b")),
        (("priority", "1", "stat"), "waiting", ("prioritized", "is stat now")),
    ],
)
def test_what_acts_answers_in_json(
    table: Table, line: tuple[str, ...], state: str, said: tuple[str, str]
) -> None:
    job = add_job(table)
    if state == "cancelled":
        jobs.cancel(table, job, "ada")
    (answer,) = json.loads(osteon(table, "jobs", *line, "--json"))
    assert (answer["id"], answer["became"]) == ("1", said[0])
    assert answer["words"].startswith(said[1])
