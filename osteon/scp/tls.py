"""The TLS side of the listener: three PEM files in, one context for mutual authentication out."""

import ssl
from pathlib import Path

from osteon.config.settings import TlsSettings
from osteon.errors import ConfigError


def server_context(tls: TlsSettings) -> ssl.SSLContext:
    """Build the context of a node that shows its certificate and demands the peer's.

    Raises
    ------
    ConfigError
        A file cannot be read or is no PEM file of its kind; the message names the key.

    References
    ----------
    DICOM PS3.15 B.12 (BCP 195 TLS profile), TLS 1.2 or newer
    """
    for key in ("certificate", "key", "ca"):
        _check_readable(f"scp.tls.{key}", getattr(tls, key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        # Without a password given here, OpenSSL would ask for one on the terminal and wait.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except ssl.SSLError as error:
        raise ConfigError(
            f"scp.tls.certificate, scp.tls.key: {tls.certificate} and {tls.key} are no PEM"
            f" certificate with its key without a password ({error.reason})"
        ) from error
    try:
        context.load_verify_locations(tls.ca)
    except ssl.SSLError as error:
        raise ConfigError(
            f"scp.tls.ca: {tls.ca} holds no PEM certificate ({error.reason})"
        ) from error
    return context


def _check_readable(key: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read: {error.strerror}") from error
