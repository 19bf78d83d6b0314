"""What README.md and docs/operations.md hand out: commands, configurations and units that hold."""

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from osteon.cli.main import cli
from osteon.config.load import load_settings
from tests.tools import require_tool

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/operations.md")}
KINDS = {".service", ".target", ".timer"}
UNITS = sorted(path for path in (ROOT / "systemd").iterdir() if path.suffix in KINDS)


def _commands() -> Iterator[str]:
    """Yield every command line of osteon that the pages and the units hold."""
    for page in PAGES.values():
        yield from re.findall(r"^ +(?:/opt/osteon/bin/)?(osteon [^#\n]*?)(?: +#.*)?$", page, re.M)
        yield from re.findall(r"`(osteon [^`…]+)`", page)
    for unit in UNITS:
        yield from re.findall(r"^ExecStart=\S*/(osteon .*)$", unit.read_text(), re.M)


@pytest.mark.parametrize("line", sorted(set(_commands())))
def test_commands_exist_with_their_options(line: str) -> None:
    words = shlex.split(line.replace("DAYS", "30").replace("%i", "0"))[1:]
    command: click.Command = cli
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None
        command = found
    whole = any(word.startswith("-") or word.isupper() for word in words)
    command.make_context("osteon", words, resilient_parsing=not whole)


def _blocks(page: str) -> Iterator[str]:
    """Yield the indented blocks that are TOML."""
    for block in re.findall(r"(?:^(?: {4,}\S.*)?\n)+", page, re.M):
        text = textwrap.dedent(block.strip("\n"))
        sections = re.search(r"^(\[\[?[a-z.]+\]\]?)$", text, re.M)
        if sections:
            start = re.search(r"^(# osteon\.toml|data_dir|\[)", text, re.M)
            assert start is not None
            yield text[start.start() :]


@pytest.mark.parametrize("name", PAGES)
def test_configurations_load(name: str, tmp_path: Path) -> None:
    blocks = list(_blocks(PAGES[name]))
    assert blocks
    for block in blocks:
        (tmp_path / "osteon.toml").write_text(block)
        assert load_settings(tmp_path / "osteon.toml").model_fields_set


def test_the_example_of_the_units_loads() -> None:
    settings = load_settings(ROOT / "systemd" / "osteon.toml")
    assert str(settings.data_dir) == "/var/lib/osteon"


def test_units_hold(tmp_path: Path) -> None:
    """As systemd reads them, with a program that is there in the place of ours."""
    systemd_analyze = require_tool("/usr/bin/systemd-analyze")
    for unit in UNITS:
        text = unit.read_text().replace("/opt/osteon/bin/osteon", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    names = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        [systemd_analyze, "verify", "--man=no", *names],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    ours = [line for line in done.stderr.splitlines() if "osteon" in line]
    assert ours == []


def test_files_that_are_installed_are_there() -> None:
    named = re.findall(r"(?<![/\w])systemd/[\w.*@-]+", PAGES["docs/operations.md"])
    assert len(named) >= 5
    for pattern in named:
        assert list(ROOT.glob(pattern)), pattern
