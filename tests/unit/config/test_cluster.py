"""The section [cluster]: refused without TLS, and useless without its extra."""

import sys
from pathlib import Path

import pytest

from osteon.config.extras import load_extra
from osteon.config.load import load_settings
from osteon.errors import ConfigError

FILES = 'certificate = "a.pem"\nkey = "a.key"\nca = "ca.pem"\n'


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (f'scheduler = "tcp://gpu:8786"\n{FILES}', "write tls://HOST:PORT"),
        (f'scheduler = "gpu:8786"\n{FILES}', "write tls://HOST:PORT"),
        (f'scheduler = "tls://gpu"\n{FILES}', "cluster.scheduler"),
        (f'scheduler = "tls://gpu:x"\n{FILES}', "cluster.scheduler"),
        (FILES, "cluster.scheduler: missing"),
        ('scheduler = "tls://gpu:8786"\n', "certificate, key, ca missing.*osteon cluster ca"),
        (
            f'scheduler = "tls://gpu:8786"\n{FILES}'.replace('"ca.pem"', '""'),
            "ca missing.*mutual TLS",
        ),
        (f'scheduler = "tls://gpu:8786"\n{FILES}input = "copy"\n', "cluster.input"),
    ],
)
def test_what_is_not_secure_or_not_whole_is_refused(
    tmp_path: Path, section: str, says: str
) -> None:
    (tmp_path / "osteon.toml").write_text(f"[cluster]\n{section}")
    with pytest.raises(ConfigError, match=says):
        load_settings(tmp_path / "osteon.toml")


@pytest.mark.parametrize("address", ["tls://10.0.0.1:8786", "tls://gpu-1.lan:1", "tls://[::1]:99"])
def test_a_whole_section_is_taken(tmp_path: Path, address: str) -> None:
    (tmp_path / "osteon.toml").write_text(f'[cluster]\nscheduler = "{address}"\n{FILES}')
    cluster = load_settings(tmp_path / "osteon.toml").cluster
    assert cluster is not None
    assert (cluster.scheduler, cluster.input) == (address, "value")


def test_without_the_extra_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [
        name for name in sys.modules if name.startswith("osteon.pipeline.clusters.cluster")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"\[cluster\].*pip install 'osteon\[cluster\]'"):
        load_extra("osteon.pipeline.clusters.cluster", "cluster", "[cluster]")
