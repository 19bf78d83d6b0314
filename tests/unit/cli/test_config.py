"""Configuration as the command line shows, checks and explains it."""

import json
import tempfile
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from osteon.cli import checks
from osteon.cli.main import cli
from osteon.cli.reference import reference
from osteon.cli.toml import to_toml
from osteon.config.load import load_settings
from osteon.config.settings import Settings
from tests.privileges import as_nobody

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"
CONFIG = """\
data_dir = "{folder}/data"
[scp]
ae_title = "BONES"
port = 11113
[[source]]
ae_title = "CT1"
address = "10.0.0.0/24"
[[destination]]
name = "pacs"
ae_title = "PACS"
host = "10.0.0.9"
port = 104
[[route]]
name = "bone"
destinations = ["pacs"]
match = {{ Modality = "CT", ImageType = {{ excludes = "LOCALIZER" }} }}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "osteon.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    return result.exit_code, result.output


def test_the_shown_configuration_loads_as_itself(config: Path, tmp_path: Path) -> None:
    code, out = run("config", "show", "--config", config)
    assert code == 0
    again = tmp_path / "again.toml"
    again.write_text(out)
    assert load_settings(again) == load_settings(config)


def test_json_and_toml_say_the_same(config: Path) -> None:
    _, as_json = run("config", "show", "--json", "--config", config)
    _, as_toml = run("config", "show", "--config", config)
    shown = json.loads(as_json)
    assert Settings.model_validate(shown) == Settings.model_validate(tomllib.loads(as_toml))
    assert shown["scp"]["ae_title"] == "BONES"


@pytest.mark.parametrize(
    "values",
    [
        {"a": 'quote " backslash \\ newline \n del \x7f é'},
        {"a": {"b c": {"d": [1, 2.5, True, "x"]}}, "e": False},
        {"list": [{"x": 1, "in": {"y": 2}}, {"x": None}]},
        {"match": {"Modality": {"equals": "CT", "min": None}}},
    ],
)
def test_toml_is_read_back_as_written(values: dict[str, object]) -> None:
    def without_none(value: object) -> object:
        if isinstance(value, dict):
            return {k: without_none(v) for k, v in value.items() if v is not None}
        return [without_none(v) for v in value] if isinstance(value, list) else value

    assert tomllib.loads(to_toml(values)) == without_none(values)


@pytest.mark.parametrize("order", ["before", "behind"])
def test_config_stands_before_or_behind_the_command(config: Path, order: str) -> None:
    option = ("--config", config)
    args = (*option, "config", "show") if order == "before" else ("config", "show", *option)
    assert 'ae_title = "BONES"' in run(*args)[1]


def test_the_config_behind_the_command_wins(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[scp]\nae_title = "OTHER"\n')
    _, out = run("--config", other, "config", "show", "--config", config)
    assert 'ae_title = "BONES"' in out


def test_a_good_configuration_is_ok(config: Path) -> None:
    assert run("config", "check", "--config", config) == (0, "OK\n")


def test_an_unknown_key_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "osteon.toml"
    path.write_text("[scp]\nae_titel = 'X'\n")
    code, out = run("config", "show", "--config", path)
    assert code == 2
    assert out.startswith(f"osteon: {path}: scp.ae_titel: unknown key; did you mean 'ae_title'?")
    assert out.count("\n") == 1


def test_check_names_every_fault_of_the_file_and_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "osteon.toml"
    path.write_text(
        "[scp]\nae_titel = 'X'\nport = 0\n"
        "[pipeline]\nslots = 'many'\n"
        "[[route]]\nname = 'r'\nshadow = 'builtin:bone'\nmatch = { Modality = { regex = '(' } }\n"
    )
    monkeypatch.setenv("OSTEON_HTTP__PORT", "x")
    monkeypatch.setenv("OSTEON_SPC__PORT", "1")
    code, out = run("config", "check", "--config", path)
    assert code == 2
    assert out.splitlines() == [
        "OSTEON_SPC__PORT: unknown variable; did you mean OSTEON_SCP__…?",
        f"{path}: scp.port: input should be greater than or equal to 1, not 0",
        f"{path}: scp.ae_titel: unknown key; did you mean 'ae_title'?",
        f"{path}: route[0].shadow: 'builtin:bone' is the route's own model: it cannot be its own"
        " shadow",
        f"{path}: route[0].match.Modality.regex: not a regular expression: missing ), unterminated"
        " subpattern at position 0, not '('",
        f"{path}: pipeline.slots: input should be 'auto' or input should be a valid integer,"
        " unable to parse string as an integer, not 'many'",
        "OSTEON_HTTP__PORT: http.port: input should be a valid integer, unable to parse string as"
        " an integer, not 'x'",
        "osteon: 7 of the settings are wrong: nothing would start",
    ]


def test_check_names_every_disagreement_between_sections(tmp_path: Path) -> None:
    path = tmp_path / "osteon.toml"
    route = "[[route]]\nname = 'r'\ndestinations = ['x', 'y']\nmatch = { Modalty = 'CT' }\n"
    path.write_text(route * 2)
    code, out = run("config", "check", "--config", path)
    assert code == 2
    lines = out.splitlines()
    assert lines[0] == f"{path}: settings: route 'r' is listed twice: rename one"
    assert sum("did you mean 'Modality'?" in line for line in lines) == 2
    assert sum("sends to 'y', which no [[destination]] is named" in line for line in lines) == 2
    assert lines[-1] == "osteon: 7 of the settings are wrong: nothing would start"


def test_check_answers_in_json(tmp_path: Path) -> None:
    path = tmp_path / "osteon.toml"
    line = ["config", "check", "--config", str(path), "--json"]
    for text, faults in (
        (f'data_dir = "{tmp_path}/data"\n', []),
        ("[http]\nport = 0\n", [f"{path}: http.port: input should be greater than or equal to 1"]),
        (f'data_dir = "{path}"\n', [f"data_dir: {path} is not a folder"]),
    ):
        path.write_text(text)
        result = CliRunner().invoke(cli, line)
        said = json.loads(result.stdout)
        assert (said["file"], said["ok"]) == (str(path), not faults)
        assert [one.startswith(f) for one, f in zip(said["faults"], faults, strict=True)] == [
            True for _ in faults
        ]
        assert result.exit_code == (2 if faults else 0)


def test_check_warns_of_gpus_that_stay_idle(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "visible_gpus", lambda: ("0", "1", "2"))
    assert run("config", "check", "--config", config) == (0, "OK\n")  # auto: a slot each
    monkeypatch.setenv("OSTEON_PIPELINE__SLOTS", "1")
    code, out = run("config", "check", "--config", config)
    warning, last = out.splitlines()
    assert (code, last) == (0, "OK")
    assert warning.startswith(
        "warning: pipeline.slots: GPUs 1, 2 stay idle: pipeline.slots gives 1"
    )
    said = json.loads(run("config", "check", "--config", config, "--json")[1])
    assert (said["ok"], said["faults"]) == (True, [])
    assert f"warning: {said['warnings'][0]}" == warning


def test_check_names_every_fault_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    (tmp_path / "token").write_text("\n")
    (tmp_path / "pem").write_text("no certificate")
    path = tmp_path / "osteon.toml"
    path.write_text(
        f'data_dir = "{tmp_path}/data"\n'
        f'[pipeline]\nmodel = "nobody"\nmodels_dir = "{tmp_path}/none"\n'
        f'[http]\ntoken_file = "{tmp_path}/token"\n'
        + "[scp.tls]\n"
        + "".join(f'{key} = "{tmp_path}/pem"\n' for key in ("certificate", "key", "ca"))
    )
    code, out = run("config", "check", "--config", path)
    assert code == 2
    for fault in (
        f"data_dir: {tmp_path}/data is not a folder",
        f"pipeline.models_dir: {tmp_path}/none is not a folder",
        "pipeline.model: no model 'nobody'",
        f"http.token_file: {tmp_path}/token is empty",
        "scp.tls: certificate",
        "scp.tls.ca:",
        "osteon: 6 of the settings",
    ):
        assert fault in out


def test_check_looks_at_the_files_of_the_cluster_and_of_every_peer(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("no certificate")
    files = "".join(f'{key} = "{tmp_path}/{{}}"\n' for key in ("certificate", "key", "ca"))
    path = tmp_path / "osteon.toml"
    path.write_text(
        f'data_dir = "{tmp_path}/data"\n'
        f'[cluster]\nscheduler = "tls://gpu:8786"\nshared_data_dir = "{tmp_path}/none"\n'
        + files.format("absent", "pem", "pem")
        + '[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "h"\nport = 104\n'
        + "[destination.tls]\n"
        + files.format("pem", "pem", "gone")
        + '[[route]]\nname = "r"\nshadow = "nobody"\n'
    )
    code, out = run("config", "check", "--config", path)
    assert code == 2
    for fault in (
        f"cluster.certificate: {tmp_path}/absent cannot be read: No such file or directory",
        f"cluster.shared_data_dir: {tmp_path}/none is not a folder",
        f"destination 'pacs' tls.ca: {tmp_path}/gone cannot be read",
        "route 'r': no model 'nobody' in this installation; known: builtin:bone",
        "osteon: 4 of the settings do not hold",
    ):
        assert fault in out
    path.write_text(path.read_text().replace("/absent", "/pem"))
    assert (
        f"cluster.certificate: {tmp_path}/pem holds no PEM certificate"
        in (run("config", "check", "--config", path)[1])
    )


def test_check_says_that_the_data_folder_is_not_writable() -> None:
    run("config", "check")  # What it imports may be readable for root alone.
    with tempfile.TemporaryDirectory() as folder, as_nobody(Path(folder)):
        locked = Path(folder) / "locked"
        locked.mkdir(0o500)
        path = Path(folder) / "osteon.toml"
        path.write_text(f'data_dir = "{locked}/data"\n')
        assert "is not writable" in run("config", "check", "--config", path)[1]
        path.write_text(f'data_dir = "{locked}/data/deeper"\n')
        locked.chmod(0)
        code, out = run("config", "check", "--config", path)
        assert (code, out.splitlines()[0]) == (
            2,
            f"data_dir: {locked}/data/deeper cannot be looked at by this user: change its owner",
        )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("status", 11),
        ("jobs list", 11),
        ("trace 1", 11),
        ("verify", 11),
        ("purge --older-than 1", 11),
    ],
)
def test_a_data_folder_that_this_user_may_not_read(command: str, code: int) -> None:
    args = command.split()
    run(*args)  # What it imports may be readable for root alone.
    with tempfile.TemporaryDirectory() as folder, as_nobody(Path(folder)):
        data = Path(folder) / "data"
        data.mkdir(0)
        path = Path(folder) / "osteon.toml"
        path.write_text(f'data_dir = "{data}"\n')
        said = "osteon: data_dir: {} cannot be read by this user: run this as the user that"
        found, out = run(*args, "--config", path)
    assert (found, out.count("\n")) == (code, 1)
    assert out.startswith(said.format(data))


def test_check_says_that_the_reserve_is_larger_than_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "osteon.toml"
    path.write_text(f'data_dir = "{tmp_path}"\n[pipeline]\ndisk_reserve_gb = 1e9\n')
    code, out = run("config", "check", "--config", path)
    assert code == 2
    assert out.startswith(f"pipeline.disk_reserve_gb: the disk of {tmp_path} has ")


@pytest.mark.parametrize("content", ["data_dir = ", None])
def test_check_answers_in_json_of_a_file_that_cannot_be_read(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "osteon.toml"
    if content is not None:
        path.write_text(content)
    result = CliRunner().invoke(cli, ["config", "check", "--json", "--config", str(path)])
    said = json.loads(result.stdout)
    assert (said["file"], said["ok"], len(said["faults"])) == (str(path), False, 1)
    assert said["faults"][0].startswith(f"{path}: ")
    assert result.exit_code == 2


def test_the_committed_reference_is_what_the_schema_prints() -> None:
    assert DOCUMENT.read_text() == reference(), "run `make docs`"


@pytest.mark.parametrize(
    "row",
    [
        "| `port` | integer ≥ 1, ≤ 65535 | `11112` | TCP port to listen on. | `OSTEON_SCP__PORT` |",
        "| `ca` | path | required | PEM file with the CA that signed the peers' certificates."
        " | `OSTEON_SCP__TLS__CA` |",
        "| `excludes` | text or list of text | none | None of the values is one of these. |",
        "## `[[destination]]`",
    ],
)
def test_the_reference_has_type_limits_default_meaning_and_variable(row: str) -> None:
    assert row in reference().splitlines()
