"""What a configuration names and this machine must have: folders, files, models.

Settings enter, one line per fault leaves. Called by ``config check``; nothing is created.
"""

import os
import ssl
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from osteon.config.settings import Settings, TlsSettings
from osteon.errors import ModelError
from osteon.pipeline.model import ENTRY_POINT_GROUP, list_models
from osteon.pipeline.table.connection import NETWORK_FILE_SYSTEMS, file_system_of


def faults_of(settings: Settings) -> list[str]:
    """Return what of the settings does not hold on this machine, each with its key and cure."""
    return [
        *_data_dir_faults(settings.data_dir),
        *_model_faults(settings),
        *_file_faults("http.token_file", settings.http.token_file),
        *(_tls_faults(settings.scp.tls) if settings.scp.tls else ()),
    ]


def _data_dir_faults(data_dir: Path) -> Iterator[str]:
    if data_dir.exists() and not data_dir.is_dir():
        yield f"data_dir: {data_dir} is not a folder: name one on a local disk"
        return
    existing = next(p for p in (data_dir.absolute(), *data_dir.absolute().parents) if p.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield f"data_dir: {existing} is not writable for this user: change its owner"
    kind = file_system_of(existing)
    if kind in NETWORK_FILE_SYSTEMS:
        yield f"data_dir: {data_dir} is on {kind}: name a folder on a local disk"


def _model_faults(settings: Settings) -> Iterator[str]:
    models_dir = settings.pipeline.models_dir
    if models_dir is not None and not models_dir.is_dir():
        yield f"pipeline.models_dir: {models_dir} is not a folder"
    try:
        known = {spec.name for spec in list_models(models_dir)}
    except ModelError as error:
        yield f"pipeline.models_dir: {error.message}"
        return
    known |= entry_points(group=ENTRY_POINT_GROUP).names
    for route in settings.routes:
        if route.model not in known:
            place = f"route {route.name!r}" if settings.route else "pipeline.model"
            yield f"{place}: no model {route.model!r}: known are {', '.join(sorted(known))}"


def _file_faults(key: str, path: Path | None) -> Iterator[str]:
    if path is None:
        return
    try:
        if not path.read_bytes().strip():
            yield f"{key}: {path} is empty"
    except OSError as error:
        yield f"{key}: {path} cannot be read: {error.strerror}"


def _tls_faults(tls: TlsSettings) -> Iterator[str]:
    unreadable = [
        fault
        for key in ("certificate", "key", "ca")
        for fault in _file_faults(f"scp.tls.{key}", getattr(tls, key))
    ]
    yield from unreadable
    if unreadable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (ssl.SSLError, ValueError) as error:
        yield f"scp.tls: certificate {tls.certificate} and key {tls.key} do not fit: {error}"
    try:
        context.load_verify_locations(tls.ca)
    except ssl.SSLError as error:
        yield f"scp.tls.ca: {tls.ca} is no PEM certificate: {error}"
