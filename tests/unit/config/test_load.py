"""The configuration file and the environment: what is in force, and what is said to mistakes."""

import os
import re
import tempfile
from pathlib import Path

import pytest

from osteon.cli.reference import reference
from osteon.config import load
from osteon.config.load import find_config, load_settings
from osteon.errors import ConfigError
from tests.privileges import as_nobody


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """No configuration of this machine reaches a test."""
    for name in list(os.environ):
        if name.upper().startswith("OSTEON_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(load, "SYSTEM_PATH", tmp_path / "etc" / "osteon.toml")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path):
    def written(text, name="osteon.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_defaults_without_any_file():
    assert find_config() is None
    settings = load_settings()
    assert (settings.scp.port, settings.scp.quiet_s, settings.scp.gap_wait_s) == (11112, 5.0, 60.0)
    assert settings.pipeline.generations == "replace"
    assert [route.name for route in settings.routes] == ["bone"]


def test_the_first_that_is_named_wins(write, monkeypatch):
    system = write("[scp]\nport = 1", "etc/osteon.toml")
    assert find_config() == system
    write("[scp]\nport = 2")
    assert load_settings().scp.port == 2
    monkeypatch.setenv("OSTEON_CONFIG", str(write("[scp]\nport = 3", "env.toml")))
    assert load_settings().scp.port == 3
    assert load_settings(write("[scp]\nport = 4", "option.toml")).scp.port == 4


def test_the_environment_is_put_over_the_file(write, monkeypatch):
    path = write('data_dir = "a"\n[scp]\nport = 2\nae_title = "X"\n[[source]]\nae_title = "S"')
    monkeypatch.setenv("OSTEON_SCP__PORT", "3")
    monkeypatch.setenv("OSTEON_DATA_DIR", "/b")
    monkeypatch.setenv("OSTEON_PIPELINE__SLOTS", "2")
    monkeypatch.setenv("OSTEON_SOURCE", '[{"ae_title": "T", "weight": 2}]')
    settings = load_settings(path)
    assert (settings.scp.port, settings.scp.ae_title) == (3, "X")
    assert (str(settings.data_dir), settings.pipeline.slots) == ("/b", 2)
    assert [source.ae_title for source in settings.source] == ["T"]


PEER = 'ae_title = "P"\nhost = "h"\nport = 104\n'
WRONG = [
    # what is written, the key that must be named, and the cure
    ("scp = 5", "scp", "write it as a section of its own, [scp]"),
    ("[scpp]", "scpp", "did you mean 'scp'?"),
    ("[scp]\nporrt = 1", "scp.porrt", "did you mean 'port'?"),
    ("[scp]\nzzz = 1", "scp.zzz", "known here: acse_timeout_s, ae_title"),
    ("[scp]\nport = 0", "scp.port", "greater than or equal to 1, not 0"),
    ('[scp]\nport = "x"', "scp.port", "valid integer"),
    ("[scp]\nquiet_s = -1", "scp.quiet_s", "greater than or equal to 0"),
    ("[scp]\nquiet_s = nan", "scp.quiet_s", "finite number"),
    ('[scp]\nae_title = "TOO_LONG_FOR_AN_AE"', "scp.ae_title", "at most 16 characters"),
    ('[scp]\nae_title = "A\\\\B"', "scp.ae_title", "but no backslash, not"),
    ('[scp]\nae_title = "  "', "scp.ae_title", "at least 1 character"),
    ('[scp]\nhost = ""', "scp.host", "at least 1 character"),
    ('[scp.tls]\ncertificate = "c"', "scp.tls.key", "missing; add it to the section (and 1 more)"),
    ('[pipeline]\nslots = "many"', "pipeline.slots", "'auto' or input should be a valid integer"),
    ("[pipeline]\nslots = 0", "pipeline.slots", "greater than or equal to 1, not 0"),
    ("[pipeline]\ndisk_reserve_gb = inf", "pipeline.disk_reserve_gb", "finite number"),
    ('[pipeline]\ngenerations = "x"', "pipeline.generations", "'never', 'always' or 'replace'"),
    ('[log]\nlevel = "loud"', "log.level", "'debug', 'info', 'warning' or 'error'"),
    ('[[source]]\naddress = "::1"', "source[0].ae_title", "missing; add it to the section"),
    (
        '[[source]]\nae_title = "A"\naddress = "10.0.0.x"',
        "source[0].address",
        "does not appear to be an IPv4 or IPv6 network",
    ),
    ('[[source]]\nae_title = "A"\nweight = 0', "source[0].weight", "greater than 0"),
    ('[[source]]\nae_title = "A"\npriority = "now"', "source[0].priority", "'stat', 'urgent'"),
    (f'[[destination]]\nname = "a b"\n{PEER}', "destination[0].name", "a letter or a digit first"),
    (f'[[destination]]\nname = "p"\n{PEER}' * 2, "settings", "'p' is listed twice: rename one"),
    ('[[route]]\nname = "r"\n' * 2, "settings", "'r' is listed twice: rename one"),
    (
        '[pipeline]\nmodels_max = { lugns = 1 }\n[[route]]\nname = "r"\nshadow = "lungs"',
        "settings",
        "names 'lugns', a model that no route uses; did you mean 'lungs'?",
    ),
    (
        "[pipeline]\nmodels_max = { zebra = 1 }",
        "settings",
        "names 'zebra', a model that no route uses; used are builtin:bone",
    ),
    (
        '[[source]]\nae_title = "CT1"\naddress = "10.0.0.5"\n'
        '[[source]]\nae_title = "CT1"\naddress = "10.0.0.6"\nquiet_s = 9\npriority = "stat"',
        "settings",
        "source[1] is 'CT1' as another one is, but has another priority, quiet_s: of several",
    ),
    (
        '[[route]]\nname = "r"\ndestinations = ["x"]',
        "settings",
        "sends to 'x', which no [[destination]] is named",
    ),
    (
        '[[route]]\nname = "r"\nmatch = { Modalty = "CT" }',
        "settings",
        "'Modalty', which is no keyword of DICOM; did you mean 'Modality'?",
    ),
    (
        '[[route]]\nname = "r"\nmatch = { Modality = {} }',
        "route[0].match.Modality",
        "a condition needs one of equals, one_of, regex, min, max, excludes",
    ),
    (
        '[[route]]\nname = "r"\nmatch = { Modality = { equal = "CT" } }',
        "route[0].match.Modality.equal",
        "did you mean 'equals'?",
    ),
    (
        '[[route]]\nname = "r"\nmatch = { Modality = { regex = "(" } }',
        "route[0].match.Modality.regex",
        "not a regular expression: missing )",
    ),
    (
        '[[route]]\nname = "r"\nmatch = { SliceThickness = { min = 5, max = 1 } }',
        "route[0].match.SliceThickness",
        "min 5 is above max 1: no number is between",
    ),
    (
        '[[route]]\nname = "r"\nmatch = { Modality = [] }',
        "route[0].match.Modality",
        "one_of is empty",
    ),
    (
        '[[route]]\nname = "r"\nshadow = ["a", "a"]',
        "route[0].shadow",
        "a model is named twice: name each once",
    ),
    (
        "[delivery]\nretry_first_s = 60\nretry_max_s = 30",
        "delivery",
        "retry_first_s is 60 and retry_max_s 30: the first wait must not be longer",
    ),
    ('[[route]]\nname = "r"\nseries = "best"', "route[0].series", "'thinnest' or 'largest'"),
    (
        '[scp]\nport = 8080\n[http]\nhost = "10.0.0.1"',
        "settings",
        "scp.port and http.port are both 8080: choose another for one",
    ),
    ('route = "x"', "route", "write it as [[route]]"),
    ('[source]\nae_title = "A"', "source", "write it as [[source]], once for each"),
    (f'[[destination]]\nae = "x"\nname = "p"\n{PEER}', "destination[0].ae", "mean 'ae_title'?"),
    ("data_dir = 5", "data_dir", "write a path in quotes, not 5"),
    (
        '[cluster]\nscheduler = "tls://a"\ncertificate = "c"\nkey = "k"\nca = "a"',
        "cluster.scheduler",
        "write tls://HOST:PORT, not 'tls://a'",
    ),
]


@pytest.mark.parametrize(("text", "key", "cure"), WRONG, ids=[f"{w[1]}-{w[2][:20]}" for w in WRONG])
def test_a_message_names_file_key_and_cure(write, text, key, cure):
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert caught.value.message.startswith(f"{path}: {key}: ")
    assert cure in caught.value.message
    assert "\n" not in caught.value.message


def test_files_that_are_none(write, tmp_path):
    cases = {
        tmp_path
        / "absent.toml": "no such file: name an existing one with --config or OSTEON_CONFIG",
        write("x = ["): "not TOML",
        tmp_path: "cannot be read: Is a directory: name one that this user can read",
    }
    (tmp_path / "latin.toml").write_bytes(b'data_dir = "\xe4"')
    cases[tmp_path / "latin.toml"] = "cannot be read: byte 12 is no UTF-8: save it as UTF-8"
    for path, cure in cases.items():
        with pytest.raises(ConfigError, match=cure) as caught:
            load_settings(path)
        assert caught.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OSTEON_SCP__PORT", "0", "OSTEON_SCP__PORT: scp.port: input should be greater"),
        ("OSTEON_SCP__PORTT", "1", "OSTEON_SCP__PORTT: scp.portt: unknown key; did you mean"),
        ("OSTEON_SPC__PORT", "1", "OSTEON_SPC__PORT: unknown variable; did you mean OSTEON_SCP__"),
        ("OSTEON_SOURCE", "[{", "OSTEON_SOURCE: lists are written as JSON, and this is none"),
        ("OSTEON_DATADIR", "x", "OSTEON_DATADIR: unknown variable; did you mean OSTEON_DATA_DIR?"),
        ("OSTEON_SCP_PORT", "1", "unknown variable; did you mean OSTEON_SCP__PORT?"),
        ("osteon_routes", "[]", "osteon_routes: unknown variable; did you mean OSTEON_ROUTE?"),
        ("OSTEON_SOURCE", '[{"ae": 1}]', "OSTEON_SOURCE: source[0].ae"),
    ],
)
def test_a_wrong_variable_is_named_and_not_the_file(write, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        load_settings(write("[scp]\nport = 5"))
    assert message in caught.value.message
    assert "osteon.toml" not in caught.value.message


def test_a_wrong_value_of_the_file_names_the_file_though_the_environment_says_other_things(
    write, monkeypatch
):
    monkeypatch.setenv("OSTEON_SCP__PORT", "5")
    path = write("[scp]\nquiet_s = -1")
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert caught.value.message.startswith(f"{path}: scp.quiet_s")


def test_other_variables_of_the_machine_are_left_alone(monkeypatch):
    monkeypatch.setenv("OSTEON_VERSION", "1")
    # As Kubernetes sets for a service named osteon-scheduler.
    monkeypatch.setenv("OSTEON_SCHEDULER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("OSTEON_SCHEDULER_PORT", "tcp://10.0.0.1:8786")
    monkeypatch.setenv("OTHER__PORT", "1")
    assert load_settings().scp.port == 11112


def test_every_variable_of_the_reference_is_known_and_taken(monkeypatch):
    named = set(re.findall(r"`(OSTEON_[A-Z_]+)`", reference())) - {"OSTEON_CONFIG"}
    assert len(named) > 40
    assert {name for name in named if "__TLS__" not in name} <= set(load._variables())


def test_a_section_as_json_in_its_variable(monkeypatch):
    monkeypatch.setenv("OSTEON_SCP", '{"port": 5}')
    assert load_settings().scp.port == 5


@pytest.mark.parametrize("closed", ["etc", "etc/osteon.toml"])
def test_a_file_that_may_be_in_force_and_cannot_be_read_is_not_passed_over(monkeypatch, closed):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "etc" / "osteon.toml"
        path.parent.mkdir()
        path.write_text("[scp]\nport = 1")
        monkeypatch.setattr(load, "SYSTEM_PATH", path)
        monkeypatch.chdir(folder)
        with as_nobody(folder):
            (folder / closed).chmod(0)
            with pytest.raises(ConfigError) as caught:
                load_settings()
        monkeypatch.chdir("/")
    assert caught.value.message.startswith(f"{path}: cannot be read: Permission denied: name one")
