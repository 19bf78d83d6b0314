"""A real cluster on this host: scheduler and workers, each a process with a certificate."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

from osteon.config.settings import ClusterSettings
from tests.tools import free_port, wait_until

START_S = 40.0
STOP_S = 15.0
UP_S = 3.0


def osteon(*arguments: str) -> list[str]:
    """Return a command line of the program of this virtual environment."""
    return [sys.executable, "-m", "osteon.cli.main", *arguments]


class Cluster:
    """A scheduler and its workers, set up by the three commands that a user types."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pki = folder / "pki"
        self.port = free_port()
        self.environment: dict[str, str] = {}  # What its processes find beside ours.
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.issue("node", "gpu1", "gpu2")

    def issue(self, *hosts: str) -> None:
        """Issue certificates; every configuration calls the scheduler on loopback."""
        names = [word for host in hosts for word in ("--name", f"{host},127.0.0.1")]
        command = osteon("cluster", "ca", str(self.pki), *names, "--port", str(self.port))
        subprocess.run(command, check=True, capture_output=True, timeout=START_S)
        for host in hosts:
            config = self.pki / f"{host}.toml"
            config.write_text(config.read_text().replace("tls://node:", "tls://127.0.0.1:"))

    def settings(self, **values: object) -> ClusterSettings:
        """Return the section of the node."""
        files = {"certificate": "node.pem", "key": "node.key", "ca": "ca.pem"}
        given = {name: self.pki / file for name, file in files.items()}
        address = f"tls://127.0.0.1:{self.port}"
        return ClusterSettings.model_validate({"scheduler": address} | given | values)

    def start_scheduler(self) -> None:
        """Start the scheduler, or start it again, and wait until it listens."""
        self._start("scheduler", "node", "--host", "127.0.0.1")
        wait_until(lambda: "cluster scheduler started" in self.log("scheduler"), START_S)

    def start_worker(self, host: str, *options: str) -> None:
        """Start a worker; it joins by itself."""
        self._start("worker", host, "--name", host, *options)

    def log(self, name: str) -> str:
        """Return what a process has written since it was started last."""
        return (self.folder / f"{name}.log").read_text()

    def kill_scheduler(self) -> None:
        """Kill -9 it."""
        self._processes["scheduler"].kill()
        self._processes.pop("scheduler").wait(STOP_S)

    def process(self, name: str) -> psutil.Process:
        """Return the process that the command started: the scheduler, or a worker's nanny."""
        return psutil.Process(self._processes[name].pid)

    def worker(self, host: str) -> psutil.Process:
        """Return the process that runs the stages of a host, below its nanny."""

        def running() -> psutil.Process | None:
            for child in self.process(host).children():
                with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if "spawn_main" in " ".join(child.cmdline()):
                        return child
            return None

        found = wait_until(running, START_S)
        assert found is not None
        return found

    def hang(self, host: str) -> None:
        """Stop the process that runs the stages of a host, which then never ends one."""
        process = self.worker(host)
        # Its nanny has heard by then that it is up; before, it would wait for that.
        wait_until(lambda: time.time() - process.create_time() > UP_S, START_S)
        process.suspend()
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, STOP_S)

    def stop(self) -> None:
        """End everything."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(STOP_S)

    def _start(self, kind: str, host: str, *options: str) -> None:
        config = str(self.pki / f"{host}.toml")
        name = kind if kind == "scheduler" else host
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                osteon("cluster", kind, "--config", config, *options),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
                env=os.environ | self.environment,
            )
