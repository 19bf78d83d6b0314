"""A certificate authority for one cluster: a folder with its key and what it has signed.

A folder and the names of hosts enter, PEM files leave; ``osteon cluster ca`` calls it. It serves
the mutual TLS of the cluster and nothing else: whoever holds a certificate of this authority may
run code on every host of the cluster.
"""

import ipaddress
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from osteon.errors import ConfigError

CA_DAYS, NODE_DAYS = 3650, 825
CLOCK_SKEW = timedelta(hours=1)  # A host whose clock is behind must not refuse a new certificate.


@dataclass(frozen=True)
class Issued:
    """A host's certificate and key, as PEM files."""

    name: str
    certificate: Path
    key: Path
    expires: datetime


class Authority:
    """The authority of one folder, created there where it is not.

    Parameters
    ----------
    folder : Path
        Gets ``ca.pem``, which every host needs, and ``ca.key``, which stays where it is.
    now : datetime, optional
        When certificates begin to be valid; the current time where absent.

    Raises
    ------
    ConfigError
        The folder cannot be written, or what stands there is no authority.
    """

    def __init__(self, folder: Path, now: datetime | None = None) -> None:
        self.folder = folder
        self.certificate = folder / "ca.pem"
        self._now = now or datetime.now(UTC)
        key = folder / "ca.key"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.is_new = not key.exists() and not self.certificate.exists()
            if self.is_new:
                self._create(key)
            loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
            self._issuer = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        except OSError as error:
            raise ConfigError(
                f"{error.filename or folder}: no authority can be kept here: {error.strerror}:"
                " choose a folder that this user can write"
            ) from error
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{folder}: ca.pem or ca.key cannot be read: {error}") from error
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or (
            loaded.public_key() != self._issuer.public_key()
        ):
            raise ConfigError(f"{folder}: ca.key is not the key of ca.pem: name another folder")
        self._key = loaded

    def issue(self, names: Sequence[str], *, renew: bool = False) -> Issued:
        """Sign a certificate for one host, with a key of its own.

        Parameters
        ----------
        names : sequence of str
            DNS names and IP addresses of the host; all become Subject Alternative Names, and the
            first is the name of the files.
        renew : bool
            Whether a certificate that is there already is replaced.

        Raises
        ------
        ConfigError
            A name is none, or the host has a certificate already.
        """
        if names[0] == "ca":
            raise ConfigError("ca.pem is the authority's own: name the host otherwise")
        alternatives = [_alternative(name) for name in names]
        target, key_file = (self.folder / f"{names[0]}{suffix}" for suffix in (".pem", ".key"))
        if target.exists() and not renew:
            raise ConfigError(f"{target} is there already: --renew replaces it and its key")
        key = ec.generate_private_key(ec.SECP256R1())
        expires = min(self._now + timedelta(days=NODE_DAYS), self._issuer.not_valid_after_utc)
        certificate = (
            self._builder(names[0], key.public_key(), expires)
            .issuer_name(self._issuer.subject)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    # A host calls and is called: scheduler, workers and node all do both.
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        _write(key_file, _pem_of(key), mode=0o600)
        _write(target, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        return Issued(names[0], target, key_file, certificate.not_valid_after_utc)

    def _create(self, key_file: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        expires = self._now + timedelta(days=CA_DAYS)
        builder = self._builder("Osteon cluster CA", key.public_key(), expires)
        certificate = (
            builder.issuer_name(_subject("Osteon cluster CA"))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(key_file, _pem_of(key), mode=0o600)
        _write(self.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def _builder(
        self, name: str, public: ec.EllipticCurvePublicKey, expires: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_subject(name))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - CLOCK_SKEW)
            .not_valid_after(expires)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )


def _subject(name: str) -> x509.Name:
    # A common name holds 64 characters at most (RFC 5280 A.1); the SANs hold the whole.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _alternative(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    labels = name.split(".")
    if not name.isascii() or not all(
        0 < len(label) < 64 and label.replace("-", "").isalnum() for label in labels
    ):
        raise ConfigError(f"{name!r} is neither a host name nor an IP address")
    return x509.DNSName(name)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file that nobody else can read at any moment, where its mode says so."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
