"""The three PEM files of mutual TLS."""

import ssl
import subprocess
from pathlib import Path

import pytest

from osteon.config.settings import TlsSettings
from osteon.errors import ConfigError
from osteon.scp.tls import server_context
from tests.tools import require_tool


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pem")
    openssl = require_tool("/usr/bin/openssl")
    for name, extra in (("node", ["-nodes"]), ("locked", ["-passout", "pass:secret"])):
        out = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"]
        request = ["req", "-x509", "-newkey", "rsa:2048", "-subj", f"/CN={name}", "-days", "2"]
        subprocess.run([openssl, *request, *out, *extra], check=True, capture_output=True)
    (folder / "text").write_text("no PEM")
    return folder


def settings(pem: Path, **other: str) -> TlsSettings:
    names = {"certificate": "node.pem", "key": "node.key", "ca": "node.pem", **other}
    return TlsSettings.model_validate({key: pem / name for key, name in names.items()})


def test_both_sides_must_show_a_certificate(pem: Path) -> None:
    context = server_context(settings(pem))

    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("key", ["certificate", "key", "ca"])
def test_a_file_that_is_absent_is_named_with_its_key(pem: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"scp\.tls\.{key}: .*absent.* cannot be read"):
        server_context(settings(pem, **{key: "absent"}))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("certificate", "text"),
        ("certificate", "locked.pem"),  # another key's
        ("key", "text"),
        ("key", "locked.key"),  # with a password, which nobody is asked for
        ("ca", "text"),
    ],
)
def test_a_file_of_another_kind_is_named_with_its_key(pem: Path, key: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"scp\.tls\.{key}.*{name}"):
        server_context(settings(pem, **{key: name}))
