"""The cluster's certificate authority, and the door that lets only its certificates in."""

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dask
import pytest

from osteon.config.settings import ClusterSettings
from osteon.errors import ConfigError
from osteon.pipeline.clusters.certificates import CA_DAYS, NODE_DAYS, Authority
from osteon.pipeline.clusters.clustertls import security_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki") / "new" / "pki"
    authority = Authority(folder)
    authority.issue(["gpu1", "gpu1.example.org", "127.0.0.1"])
    authority.issue(["gpu2"])
    Authority(folder.parent / "stranger").issue(["gpu1"])
    return folder


def _settings(pki: Path, **files: Path) -> ClusterSettings:
    given = {"certificate": pki / "gpu1.pem", "key": pki / "gpu1.key", "ca": pki / "ca.pem"}
    return ClusterSettings.model_validate({"scheduler": "tls://gpu1:8786"} | given | files)


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """Let two sides meet; raise what the client sees."""
    near, far = socket.socketpair()
    near.settimeout(10)
    far.settimeout(10)

    def serve() -> None:
        with far:
            try:
                with server.wrap_socket(far, server_side=True) as tls:
                    tls.sendall(b"welcome")
            except ssl.SSLError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with near, client.wrap_socket(near, server_hostname=name) as tls:
            assert tls.recv(16) == b"welcome"
    finally:
        thread.join(10)


def _side(pki: Path, host: str, purpose: ssl.Purpose) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=str(pki / "ca.pem"))
    context.load_cert_chain(pki / f"{host}.pem", pki / f"{host}.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize("name", ["gpu1", "gpu1.example.org", "127.0.0.1"])
def test_two_hosts_know_each_other_by_every_name(pki: Path, name: str) -> None:
    server = _side(pki, "gpu1", ssl.Purpose.CLIENT_AUTH)
    _handshake(server, _side(pki, "gpu2", ssl.Purpose.SERVER_AUTH), name)


def test_a_host_is_not_taken_for_another(pki: Path) -> None:
    server = _side(pki, "gpu1", ssl.Purpose.CLIENT_AUTH)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _handshake(server, _side(pki, "gpu2", ssl.Purpose.SERVER_AUTH), "gpu2")


def test_a_certificate_of_another_authority_is_not_heard(pki: Path) -> None:
    server = _side(pki, "gpu1", ssl.Purpose.CLIENT_AUTH)
    client = _side(pki.parent / "stranger", "gpu1", ssl.Purpose.SERVER_AUTH)
    client.load_verify_locations(pki / "ca.pem")
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown ca"):
        _handshake(server, client, "gpu1")


def test_keys_are_for_their_owner_alone(pki: Path) -> None:
    for key in pki.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_an_authority_is_kept_and_a_certificate_is_replaced_only_when_asked(tmp_path: Path) -> None:
    first = Authority(tmp_path)
    issued = first.issue(["gpu1"])
    ca, key = first.certificate.read_bytes(), issued.key.read_bytes()

    again = Authority(tmp_path)
    assert first.is_new
    assert not again.is_new
    with pytest.raises(ConfigError, match="--renew"):
        again.issue(["gpu1"])
    again.issue(["gpu1"], renew=True)
    assert again.certificate.read_bytes() == ca
    assert issued.key.read_bytes() != key
    security_of(_settings(tmp_path))


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    Authority(tmp_path, NOW)
    late = Authority(tmp_path, NOW + timedelta(days=CA_DAYS - 10))
    assert late.issue(["gpu1"]).expires == NOW + timedelta(days=CA_DAYS)


@pytest.mark.parametrize("name", ["", "../gpu1", "gpu 1", "gpu1/x", "ü", ".", "a" * 64, "ca"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        Authority(tmp_path).issue([name])
    assert {path.name for path in tmp_path.iterdir()} == {"ca.pem", "ca.key"}


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, pki: Path) -> None:
    (tmp_path / "ca.pem").write_bytes((pki / "ca.pem").read_bytes())
    with pytest.raises(ConfigError, match="no authority"):
        Authority(tmp_path)
    (tmp_path / "ca.key").write_bytes((pki / "gpu1.key").read_bytes())
    with pytest.raises(ConfigError, match="not the key"):
        Authority(tmp_path)
    (tmp_path / "ca.key").write_text("none")
    with pytest.raises(ConfigError, match="cannot be read"):
        Authority(tmp_path)


def test_the_door_requires_encryption(pki: Path) -> None:
    security = security_of(_settings(pki))
    assert security.require_encryption
    assert security.tls_min_version is ssl.TLSVersion.TLSv1_3
    for role in ("client", "scheduler", "worker"):
        context = security.get_connection_args(role)["ssl_context"]
        assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("key", "file", "says"),
    [
        ("certificate", "absent.pem", "cannot be read"),
        ("certificate", "gpu2.pem", "not the key of"),
        ("certificate", "gpu1.key", "holds no PEM certificate"),
        ("certificate", "ca.pem", "not the key of"),
        ("key", "absent.key", "cannot be read"),
        ("key", "gpu2.key", "not the key of"),
        ("ca", "absent.pem", "cannot be read"),
        ("ca", "../stranger/ca.pem", "was not signed by"),
        ("ca", "gpu1.key", "holds no PEM certificate"),
    ],
)
def test_the_door_stays_shut_and_says_why(pki: Path, key: str, file: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        security_of(_settings(pki, **{key: pki / file}))
    assert "osteon cluster ca" in caught.value.message


@pytest.mark.parametrize("days", [-1, NODE_DAYS + 1])
def test_a_certificate_that_is_not_valid_now_is_refused(pki: Path, days: int) -> None:
    at = datetime.now(UTC) + timedelta(days=days)
    with pytest.raises(ConfigError, match="--renew"):
        security_of(_settings(pki), at)


def test_dask_must_not_be_told_to_do_without_encryption(pki: Path) -> None:
    with (
        dask.config.set({"distributed.comm.require-encryption": False}),
        pytest.raises(ConfigError, match="require-encryption"),
    ):
        security_of(_settings(pki))
