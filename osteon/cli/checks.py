"""What a configuration names and this machine must have: folders, files, models.

Settings enter, one line per fault or warning leaves. Called by ``config check``; nothing is
created.
"""

import os
import shutil
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

from osteon.config.extras import load_extra
from osteon.config.settings import ClusterSettings, Settings, TlsSettings
from osteon.errors import ConfigError, OsteonError
from osteon.pipeline.intake import GIGABYTE
from osteon.pipeline.models.model import list_models, load_model, spec_of
from osteon.pipeline.role import idle_gpus
from osteon.pipeline.table.connection import NETWORK_FILE_SYSTEMS, file_system_of
from osteon.pipeline.workers.devices import visible_gpus


def faults_of(settings: Settings) -> list[str]:
    """Return what of the settings does not hold on this machine, each with its key and cure."""
    doors: list[tuple[str, TlsSettings | None]] = [("scp.tls", settings.scp.tls)]
    doors += [(f"source {s.ae_title!r} tls", s.tls) for s in settings.source]
    doors += [(f"destination {d.name!r} tls", d.tls) for d in settings.destination]
    return [
        *_data_dir_faults(settings),
        *_model_faults(settings),
        *_file_faults("http.token_file", settings.http.token_file),
        *(fault for key, tls in doors if tls is not None for fault in _tls_faults(key, tls)),
        *(_cluster_faults(settings.cluster) if settings.cluster is not None else ()),
    ]


def warnings_of(settings: Settings, gpus: Sequence[str] | None = None) -> list[str]:
    """Return what holds on this machine and is hardly meant, each with its key and cure.

    Parameters
    ----------
    gpus : sequence of str, optional
        What there are to hand out; what this process sees where absent.
    """
    idle = idle_gpus(settings, visible_gpus() if gpus is None else gpus)
    return [f"pipeline.slots: {idle}"] if idle else []


def _data_dir_faults(settings: Settings) -> Iterator[str]:
    data_dir = settings.data_dir
    try:
        existing = next(
            p for p in (data_dir.absolute(), *data_dir.absolute().parents) if p.exists()
        )
    except PermissionError as error:
        yield f"data_dir: {error.filename} cannot be looked at by this user: change its owner"
        return
    if not existing.is_dir():
        yield f"data_dir: {existing} is not a folder: name one on a local disk"
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield f"data_dir: {existing} is not writable for this user: change its owner"
    kind = file_system_of(existing)
    if kind in NETWORK_FILE_SYSTEMS:
        yield f"data_dir: {data_dir} is on {kind}: name a folder on a local disk"
    size = shutil.disk_usage(existing).total
    if size <= settings.pipeline.disk_reserve_gb * GIGABYTE:
        yield (
            f"pipeline.disk_reserve_gb: the disk of {data_dir} has {size / GIGABYTE:.1f} GB in all:"
            " nothing would be accepted, so name a larger disk or a smaller reserve"
        )


def _model_faults(settings: Settings) -> Iterator[str]:
    models_dir = settings.pipeline.models_dir
    if models_dir is not None and not models_dir.is_dir():
        yield f"pipeline.models_dir: {models_dir} is not a folder"
    _, broken = list_models(models_dir)
    for error in broken:
        yield f"pipeline.models_dir: {error.message}"
    named: dict[str, str] = {}
    for route in settings.routes:
        place = f"route {route.name!r}" if settings.route else "pipeline.model"
        for model in (route.model, *route.shadow):
            named.setdefault(model, place)
    told = {error.message for error in broken}
    for model, place in named.items():
        try:
            # Whether a package's model can be made, its own code alone knows.
            if spec_of(model, models_dir) is None:
                load_model(model, models_dir)
        except OsteonError as error:
            if error.message not in told:
                yield f"{place}: {error.message}"


def _file_faults(key: str, path: Path | None) -> Iterator[str]:
    if path is None:
        return
    try:
        if not path.read_bytes().strip():
            yield f"{key}: {path} is empty"
    except OSError as error:
        yield f"{key}: {path} cannot be read: {error.strerror}"


def _tls_faults(place: str, tls: TlsSettings) -> Iterator[str]:
    unreadable = [
        fault
        for key in ("certificate", "key", "ca")
        for fault in _file_faults(f"{place}.{key}", getattr(tls, key))
    ]
    yield from unreadable
    if unreadable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except (ssl.SSLError, ValueError) as error:
        yield f"{place}: certificate {tls.certificate} and key {tls.key} do not fit: {error}"
    try:
        context.load_verify_locations(tls.ca)
    except ssl.SSLError as error:
        yield f"{place}.ca: {tls.ca} is no PEM certificate: {error}"


def _cluster_faults(cluster: ClusterSettings) -> Iterator[str]:
    unreadable = [
        fault
        for key in ("certificate", "key", "ca")
        for fault in _file_faults(f"cluster.{key}", getattr(cluster, key))
    ]
    yield from unreadable
    shared = cluster.shared_data_dir
    if shared is not None and not shared.is_dir():
        yield f"cluster.shared_data_dir: {shared} is not a folder: mount the node's data_dir there"
    if unreadable:
        return
    try:
        load_extra("osteon.pipeline.clusters.clustertls", "cluster", "[cluster]").security_of(
            cluster
        )
    except ConfigError as error:
        yield error.message
