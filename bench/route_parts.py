"""What the benchmarks of the route share: a node, an Orthanc, and how to wait for either.

Folders and ports enter; running programs, and what they say over HTTP or in their log, leave.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import raw_scu
from receivers import HOST, ORTHANC, free_port

START_S, RESULT_S, POLL_S = 60.0, 300.0, 0.02
Found = TypeVar("Found")


class Pacs:
    """An Orthanc on loopback: its ports, and what it says over REST."""

    def __init__(self, dicom: int, http: int) -> None:
        self.dicom = dicom
        self.address = f"http://{HOST}:{http}"

    def segmentations(self) -> list[str]:
        """Return the Segmentations that it holds."""
        query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
        return list(json.loads(get(f"{self.address}/tools/find", json.dumps(query).encode())))

    def stable_series(self) -> str:
        """Return the series that has become stable, or ""."""
        changes = json.loads(get(f"{self.address}/changes?limit=100000"))["Changes"]
        stable = [c["ID"] for c in changes if c["ChangeType"] == "StableSeries"]
        return stable[0] if stable else ""


@contextmanager
def orthanc(folder: Path, quiet_s: float) -> Iterator[Pacs]:
    """Run an empty Orthanc whose series are stable after the quiet time."""
    folder.mkdir(parents=True)
    pacs = Pacs(free_port(), http := free_port())
    settings = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": http,
        "DicomPort": pacs.dicom,
        "DicomAet": "PACS",
        "DicomAlwaysAllowFind": True,
        "StableAge": round(quiet_s),
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    # Nagle's algorithm would cost the peer more than all else.
    command = ["/usr/bin/env", "TCP_NODELAY=1", ORTHANC, str(folder / "orthanc.json")]
    with program(command, folder / "orthanc.log"):
        wait_for(lambda: get(f"{pacs.address}/system"), START_S)
        yield pacs


class Node:
    """A node in a folder of its own.

    Parameters
    ----------
    pipeline : mapping
        Keys of ``[pipeline]``.
    pacs_port : int, optional
        Where results go; they are kept here where it is absent.
    environment : mapping, optional
        What its processes find in their environment beside ours.
    extra : str
        More sections of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quiet_s: float,
        pipeline: Mapping[str, Any] | None = None,
        pacs_port: int | None = None,
        environment: Mapping[str, str] | None = None,
        extra: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.data_dir = folder, folder / "data"
        self.dicom, self.http = free_port(), free_port()
        self.environment = {**os.environ, **(environment or {})}
        pipeline = {"disk_reserve_gb": 0.1, **(pipeline or {})}
        lines = [f"{key} = {json.dumps(value)}" for key, value in pipeline.items()]
        destination = (
            f'[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "{HOST}"\n'
            f"port = {pacs_port}\n"
        )
        self.config = folder / "osteon.toml"
        self.config.write_text(
            f'data_dir = "{self.data_dir}"\n'
            f'[scp]\nhost = "{HOST}"\nport = {self.dicom}\nquiet_s = {quiet_s}\n'
            f'[http]\nport = {self.http}\n[log]\nformat = "json"\n[pipeline]\n'
            + "\n".join(lines)
            + "\n"
            + (destination if pacs_port else "")
            + extra
        )

    @contextmanager
    def serving(self, role: str | None = None) -> Iterator[None]:
        """Run all of it, or one role, for a while."""
        command = [sys.executable, "-m", "osteon.cli.main", "serve", "--config", str(self.config)]
        command += ["--role", role] if role else []
        with program(command, self.folder / f"{role or 'node'}.log", self.environment):
            if role is None:
                wait_for(lambda: get(f"http://{HOST}:{self.http}/readyz"), START_S)
            yield

    def events(self, role: str | None = None) -> list[dict[str, Any]]:
        """Return what it has logged."""
        lines = (self.folder / f"{role or 'node'}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def predict(self, name: str) -> dict[str, Any]:
        """Return what it says of a job or series; nothing while it is not known."""
        said = get(f"http://{HOST}:{self.http}/api/v1/predict/{name}")
        return dict(json.loads(said)) if said else {}


@contextmanager
def program(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a program for a while and surely end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def send(folder: Path, port: int, called: str) -> float:
    """Send a folder on one association; return the time of the last acknowledgement."""
    report = raw_scu.send((HOST, port), called, raw_scu.load(folder))
    assert set(report.statuses) == {"0x0000"}, report.statuses
    return time.perf_counter()


def get(address: str, body: bytes | None = None) -> bytes:
    """Return what an address answers, or nothing while nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=30) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


def wait_for(ask: Callable[[], Found], timeout_s: float) -> Found:
    """Ask until there is an answer."""
    deadline = time.monotonic() + timeout_s
    while not (found := ask()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {timeout_s:g} s")
        time.sleep(POLL_S)
    return found
