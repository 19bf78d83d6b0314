"""The real parts around a test: the node itself, Orthanc as the PACS, DCMTK as the scanner."""

import json
import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.tools import free_port, require_tool, wait_until

START_S = 60.0


class _Process(ABC):
    """A program that is started for a test and surely ended after it."""

    def __init__(self, http_port: int) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.http_port = http_port
        # Without connections that are kept: the server closes idle ones, and programs die here.
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{http_port}",
            timeout=30.0,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    @abstractmethod
    def run(self) -> None:
        """Start it and wait until it is ready."""

    def start(self, command: Sequence[str], log: Path, **environment: str) -> None:
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
                start_new_session=True,
            )

    def stop(self, timeout_s: float = 25.0) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout_s)
        self.process = None

    def __enter__(self) -> Self:
        try:
            self.run()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.http.close()


class Orthanc(_Process):
    """A PACS with an empty store, on loopback."""

    def __init__(self, folder: Path, *, answers_queries: bool = False) -> None:
        super().__init__(free_port())
        program = require_tool("/usr/sbin/Orthanc")
        self.dicom_port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "orthanc.log"
        config = {
            "Name": "PACS",
            "StorageDirectory": str(folder / "store"),
            "IndexDirectory": str(folder / "store"),
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": "PACS",
            "DicomPort": self.dicom_port,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowFind": answers_queries,
            "DicomCheckCalledAet": False,
            "Plugins": [],
        }
        path = folder / "orthanc.json"
        path.write_text(json.dumps(config))
        self._command = [program, str(path)]

    def run(self) -> None:
        """Start it, or start it again, on the same store."""
        self.start(self._command, self._log)
        wait_until(self._answers, START_S)

    def find(self, **query: str) -> list[dict[str, Any]]:
        """Return the instances that match, with their main tags and Orthanc's own id."""
        answer = self.http.post(
            "/tools/find", json={"Level": "Instance", "Query": query, "Expand": True}
        )
        return list(answer.raise_for_status().json())

    def file(self, identifier: str) -> bytes:
        """Return an instance as the PACS holds it."""
        return self.http.get(f"/instances/{identifier}/file").raise_for_status().content

    def _answers(self) -> bool:
        try:
            return self.http.get("/system").status_code == 200
        except httpx.HTTPError:
            return False


class Node(_Process):
    """A node with a configuration of its own, started as a user starts it."""

    def __init__(
        self, folder: Path, *, pacs_port: int | None, quiet_s: float = 1.0, extra: str = ""
    ) -> None:
        super().__init__(free_port())
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.data_dir = folder, folder / "data"
        self.dicom_port = free_port()
        self.config = folder / "osteon.toml"
        self.log = folder / "osteon.log"
        destination = (
            f'[[destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\n'
            f"port = {pacs_port}\n"
        )
        self.config.write_text(
            f'data_dir = "{self.data_dir}"\n'
            f'[scp]\nhost = "127.0.0.1"\nport = {self.dicom_port}\nquiet_s = {quiet_s}\n'
            f"gap_wait_s = 3.0\n"
            f"[http]\nport = {self.http_port}\n"
            f"[pipeline]\ndisk_reserve_gb = 0.1\n"
            f"[delivery]\nretry_first_s = 0.5\nretry_max_s = 2.0\n"
            f"{destination if pacs_port is not None else ''}{extra}"
        )

    def run(self) -> None:
        """Start it and wait until both receiving and working answer."""
        self.start([*osteon(), "serve", "--config", str(self.config)], self.log)
        wait_until(self._ready, START_S)

    def predict(self, name: str) -> dict[str, Any]:
        """Return what it says of a job or series; {} while it does not know it, or is not up."""
        try:
            answer = self.http.get(f"/api/v1/predict/{name}")
        except httpx.TransportError:
            return {}
        if answer.status_code == 404:
            return {}
        return dict(answer.raise_for_status().json())

    def wait_for(self, name: str, *statuses: str, timeout_s: float = 120.0) -> dict[str, Any]:
        """Wait until a series has one of these statuses, and return what the node says of it."""
        deadline = time.monotonic() + timeout_s
        while True:
            said = self.predict(name)
            if said.get("status") in statuses:
                return said
            assert time.monotonic() < deadline, f"still {said} after {timeout_s} s"
            time.sleep(0.05)

    def role_pids(self) -> dict[str, int]:
        """Return the process ids of the roles."""
        assert self.process is not None
        return {role: pid for pid, role in _children(self.process.pid) if role}

    def worker_pids(self) -> list[int]:
        """Return the process ids of the workers."""
        work = self.role_pids().get("work", -1)
        return [pid for pid, _ in _children(work) if "multiprocessing.spawn" in _command(pid)]

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False


def osteon() -> list[str]:
    """Return the command line program of this virtual environment."""
    return [sys.executable, "-m", "osteon.cli.main"]


def dcmsend(folder: Path, port: int, *, calling: str = "CT1", called: str = "OSTEON") -> str:
    """Send a folder with DCMTK and return what it printed."""
    program = require_tool("/usr/bin/dcmsend")
    command = [program, "-v", "-aet", calling, "-aec", called, "127.0.0.1", str(port)]
    done = subprocess.run(
        [*command, "+sd", "+r", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _children(parent: int) -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            status = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(status[1]) == parent:
            words = _command(int(folder.name)).split("\0")
            role = words[words.index("--role") + 1] if "--role" in words else ""
            found.append((int(folder.name), role))
    return found


def _command(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_text()
    except OSError:
        return ""
