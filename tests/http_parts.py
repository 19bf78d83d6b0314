"""Parts for tests of HTTP: DICOM files, zips, and the real server on a free port."""

import io
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from osteon.config.settings import Settings
from osteon.http.role import run_http
from osteon.pipeline.instances.part10 import FileMeta, encode_header
from osteon.pipeline.table.connection import Table, open_table
from tests.pipeline_parts import SERIES, ct_slice
from tests.tools import free_port, wait_until

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


def dicom_file(number: int = 1, *, series: str = SERIES, sop_class: str = CT_IMAGE) -> bytes:
    """A small CT slice as a Part 10 file."""
    meta = FileMeta(sop_class, f"{series}.{number}", EXPLICIT)
    return encode_header(meta) + ct_slice(number, series=series)


def zip_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def http_settings(data_dir: Path, **http: object) -> Settings:
    """Settings of a node whose ports are free and whose disk reserve is nothing."""
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "scp": {"host": "127.0.0.1", "port": free_port()},
            "http": {"port": free_port(), **http},
            "pipeline": {"disk_reserve_gb": 0},
        }
    )


@dataclass(frozen=True)
class Served:
    """A server that runs, a client that talks to it, and its table."""

    settings: Settings
    client: httpx.Client
    table: Table


@contextmanager
def serving(settings: Settings, headers: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Run the role ``http`` in a thread."""
    stop = threading.Event()
    table = open_table(settings.data_dir)
    thread = threading.Thread(target=run_http, args=(settings, stop), name="http")
    thread.start()
    url = f"http://127.0.0.1:{settings.http.port}"
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=20) as client:
            wait_until(lambda: _answers(client) or not thread.is_alive())
            yield Served(settings, client, table)
    finally:
        stop.set()
        thread.join(15)
        table.close()
    assert not thread.is_alive(), "the server did not stop"


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").is_success
    except httpx.TransportError:
        return False
