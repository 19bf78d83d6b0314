"""The cluster's door: mutual TLS, or no cluster at all.

The settings of the cluster enter; Dask's `Security`, with encryption required, leaves, or a
`ConfigError` that says what is wrong. Node, scheduler and workers all come through here.
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import dask
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from distributed.security import Security

from osteon.config.settings import ClusterSettings
from osteon.errors import ConfigError

_REQUIRED = "distributed.comm.require-encryption"
_MEND = "write it by `osteon cluster ca`"


def security_of(cluster: ClusterSettings, now: datetime | None = None) -> Security:
    """Return the TLS of one member of the cluster, the same whether it calls or is called.

    Parameters
    ----------
    now : datetime, optional
        When the certificate must be valid; the current time where absent.

    Raises
    ------
    ConfigError
        Encryption is not required, or certificate, key and CA do not hold; the message says why.
    """
    if dask.config.get(_REQUIRED) is False:
        raise ConfigError(
            f"Dask's own configuration sets {_REQUIRED} to false, and a cluster without it runs"
            " code for everybody who reaches it: take the line out"
        )
    _check(cluster, now or datetime.now(UTC))
    certificate, key = str(cluster.certificate), str(cluster.key)
    return Security(
        require_encryption=True,
        tls_min_version=ssl.TLSVersion.TLSv1_3,
        tls_ca_file=str(cluster.ca),
        **{f"tls_{role}_cert": certificate for role in ("client", "scheduler", "worker")},
        **{f"tls_{role}_key": key for role in ("client", "scheduler", "worker")},
    )


def _check(cluster: ClusterSettings, now: datetime) -> None:
    chain = _certificates("cluster.certificate", cluster.certificate)
    authorities = _certificates("cluster.ca", cluster.ca)
    _read("cluster.key", cluster.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(cluster.certificate, cluster.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"cluster.key: {cluster.key} is not the key of {cluster.certificate}: {_MEND}"
        ) from error
    issuers = [*chain[1:], *authorities]
    if not all(any(_issued(one, by) for by in issuers) for one in chain):
        raise ConfigError(
            f"cluster.certificate: {cluster.certificate} was not signed by cluster.ca"
            f" {cluster.ca}, so no member of the cluster would accept it: {_MEND}"
        )
    for path, one in ((cluster.certificate, chain[0]), (cluster.ca, authorities[0])):
        if not one.not_valid_before_utc <= now <= one.not_valid_after_utc:
            raise ConfigError(
                f"{path} is valid from {one.not_valid_before_utc:%Y-%m-%d %H:%M} to"
                f" {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC and not now: check the clock, or"
                " renew it by `osteon cluster ca --renew`"
            )


def _certificates(key: str, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(key, path))
    except ValueError as error:
        raise ConfigError(f"{key}: {path} holds no PEM certificate: {_MEND}") from error


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}: {_MEND}") from error


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
