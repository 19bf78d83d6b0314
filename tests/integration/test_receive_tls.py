"""Mutual TLS: only peers with a certificate of the CA are heard."""

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dicom_peer import (
    AbortedError,
    Node,
    RawPeer,
    both_ways,  # noqa: F401 - runs the module twice
    ct_slice,
    encoded,
    loopback_settings,
    running_node,
)
from tests.tools import require_tool


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, certificates of node and peer that it signed, and one that it did not."""
    folder = tmp_path_factory.mktemp("pem")
    openssl = require_tool("/usr/bin/openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "stranger"):
        run(*f"req -x509 -newkey rsa:2048 -nodes -subj /CN={name} -days 2".split(),
            "-keyout", f"{name}.key", "-out", f"{name}.pem")  # fmt: skip
    for name in ("node", "peer"):
        run(*f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key".split(),
            "-out", f"{name}.csr")  # fmt: skip
        run(*f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 2 -out {name}.pem".split())
    return folder


@pytest.fixture
def node(tmp_path: Path, pem: Path) -> Iterator[Node]:
    tls = {"certificate": pem / "node.pem", "key": pem / "node.key", "ca": pem / "ca.pem"}
    with running_node(loopback_settings(tmp_path, tls=tls)) as node:
        yield node


def _client(pem: Path, certificate: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(pem / "ca.pem")
    if certificate is not None:
        context.load_cert_chain(pem / f"{certificate}.pem", pem / f"{certificate}.key")
    return context


def test_a_peer_with_a_certificate_of_the_ca_is_heard(node: Node, pem: Path) -> None:
    ds = ct_slice(rows=512)

    with RawPeer(node.port, tls=_client(pem, "peer")) as peer:
        assert peer.send_ct(ds) == (0x0000, "")
        assert peer.send_ct(ct_slice(2)) == (0x0000, "")
        peer.release()

    assert encoded(ds) in node.datasets()


@pytest.mark.parametrize("certificate", ["stranger", None])
def test_a_peer_without_one_is_not(node: Node, pem: Path, certificate: str | None) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, AbortedError)):
        RawPeer(node.port, tls=_client(pem, certificate))


def test_a_peer_that_speaks_no_tls_is_not(node: Node) -> None:
    with pytest.raises((ConnectionError, AbortedError)):
        RawPeer(node.port)


def test_a_handshake_that_nobody_continues_stops_nobody_else(node: Node, pem: Path) -> None:
    silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(20)]

    with RawPeer(node.port, tls=_client(pem, "peer"), timeout_s=2) as peer:
        assert peer.send_ct(ct_slice()) == (0x0000, "")

    for sock in silent:
        sock.close()


def test_dcmtk_is_heard(node: Node, pem: Path) -> None:
    echoscu = require_tool("/usr/bin/echoscu")
    keys = ["+tls", pem / "peer.key", pem / "peer.pem", "+cf", pem / "ca.pem"]

    subprocess.run(
        [echoscu, *keys, "-aec", "OSTEON", "127.0.0.1", str(node.port)], check=True, timeout=20
    )
