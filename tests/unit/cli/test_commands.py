"""Every command helps, is documented, and fails with one line and its exit code."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from osteon import errors
from osteon.cli.main import COMMANDS, cli
from osteon.cli.options import example

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
SPEAKING = {
    *(
        "list",
        "show",
        "test",
        "diff",
        "trace",
        "status",
        "verify",
        "echo",
        "send",
        "run",
        "purge",
        "shadow",
        "retry",
        "cancel",
        "reroute",
        "priority",
        "check",
        "ca",
        "watch",
    ),
}


def leaves(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from leaves(found, (*path, name))
        else:
            yield " ".join((*path, name)), found


LEAVES = dict(leaves())


def section_of(name: str) -> str:
    """Return what docs/cli.md says of a command."""
    found = re.search(
        rf"^### `osteon {re.escape(name)}( [^`]*)?`\n(.*?)(?=^##|\Z)",
        DOCUMENT.read_text(),
        re.DOTALL | re.MULTILINE,
    )
    assert found, f"docs/cli.md has no section `osteon {name}`"
    return found.group(2)


def options_of(command: click.Command) -> list[str]:
    return [
        option
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in parameter.opts
        if option != "--config"
    ]


def test_the_commands_of_the_design_are_there() -> None:
    assert set(LEAVES) == {
        *("serve", "demo", "run", "send", "echo", "watch", "trace", "status", "phantom", "shadow"),
        *("verify", "purge", "associations list"),
        *("jobs list", "jobs show", "jobs retry", "jobs reroute", "jobs cancel", "jobs priority"),
        *("config show", "config check", "config reference"),
        *("models list", "models show", "models verify", "models init"),
        *("routes list", "routes test", "routes diff"),
        *("cluster ca", "cluster scheduler", "cluster worker"),
    }


@pytest.mark.parametrize("name", LEAVES)
def test_commands_are_documented(name: str) -> None:
    section = section_of(name)
    for option in options_of(LEAVES[name]):
        assert f"`{option}" in section, f"docs/cli.md: `osteon {name}` lacks {option}"
    assert f"      osteon {name}" in section, "the section has no example"


def test_nothing_is_documented_that_is_not_there() -> None:
    documented = re.findall(r"^### `osteon ([a-z ]+?)(?: [A-Z|]+)*`$", DOCUMENT.read_text(), re.M)
    assert sorted(documented) == sorted(LEAVES)
    for name, command in LEAVES.items():
        named = re.findall(r"^- `(--[a-z-]+)|, `(--[a-z-]+)", section_of(name), re.M)
        assert {a or b for a, b in named} <= set(options_of(command)), name


@pytest.mark.parametrize("name", LEAVES)
def test_commands_have_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, [*name.split(), "--help"])
    assert result.exit_code == 0
    summary = LEAVES[name].get_short_help_str(64)
    assert len(summary) > 20
    assert not summary.endswith("...")
    assert f"Example:\n    osteon {name}" in result.output
    assert "--config PATH" in result.output


@pytest.mark.parametrize("name", [name for name in LEAVES if SPEAKING & set(name.split())])
def test_what_lists_or_shows_has_json(name: str) -> None:
    assert "--json" in options_of(LEAVES[name])


def test_every_exit_code_of_the_error_tree_is_documented() -> None:
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.OsteonError)
    }
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(), re.M)}
    assert documented == codes | {0}


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["no-such-command"], 2, "No such command"),
        (["jobs", "list", "--limit", "x"], 2, "Invalid value"),
        (["config", "show", "--config", "/nowhere.toml"], 2, "osteon: /nowhere.toml: no such file"),
        (["jobs", "list"], 2, "/data: start `osteon serve`, or name the node's configuration"),
        (["verify"], 2, "osteon: no spool in /"),
        (["models", "show", "nobody"], 8, "osteon: no model 'nobody'"),
        (["models", "verify", "nobody"], 8, "osteon: no model 'nobody'"),
        (["echo", "nobody"], 5, "osteon: no destination 'nobody'"),
        (["purge", "--older-than", "nan", "--yes"], 2, "nan is no finite number"),
        (["routes", "diff", "new.toml", "--days", "inf"], 2, "inf is no finite number"),
        (["demo", "--timeout", "nan"], 2, "nan is no finite number"),
        (["associations", "list", "--since", "noon"], 2, "'noon' is no time: write 2026-01-31 or"),
        (["echo", "10.0.0.9:0:PACS"], 2, "osteon: '10.0.0.9:0:PACS': the port is 1 to 65535"),
        (["run", ".", "-o", "out"], 5, "osteon: .: no files there"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    args: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == code
    assert says in result.stderr
    if says.startswith("osteon:"):
        assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == [], "a command that only looks has written something"


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output.startswith("osteon 0.")


def test_an_example_keeps_its_lines() -> None:
    assert example("osteon a", "osteon b") == "\b\nExample:\n  osteon a\n  osteon b"


def test_commands_other_than_those_with_models_start_without_torch() -> None:
    program = (
        "import sys\n"
        "from osteon.cli.main import COMMANDS\n"
        "from importlib import import_module\n"
        "for name in COMMANDS: import_module(f'osteon.cli.{name}')\n"
        "from osteon.cli import serve\n"
        "serve._load('receive'), serve._load('http')\n"
        "print([m for m in ('torch', 'SimpleITK', 'highdicom') if m in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_listed_commands_are_the_modules() -> None:
    assert len(set(COMMANDS)) == len(COMMANDS)
    assert {name.split()[0] for name in LEAVES} == set(COMMANDS)
