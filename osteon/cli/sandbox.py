"""A whole node in a folder, for a while: its own configuration, ports and processes.

A folder and a destination enter, a node that answers leaves; called by ``demo``.
Nothing of it is left running afterwards, whatever happens, though its files are kept.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from osteon.cli.toml import to_toml
from osteon.config.settings import Settings
from osteon.errors import DeliveryError, OsteonError
from osteon.pipeline.worklock import work_is_running
from osteon.results.peer import Destination
from osteon.results.scu import echo

READY_S = 60.0
STOP_S = 25.0  # The supervisor itself gives its roles 20 s.
POLL_S = 0.1
LOG_LINES = 15
QUIET_S = 1.0  # A demonstration has no patience.


class Sandbox:
    """A node of its own on free ports of loopback.

    Parameters
    ----------
    folder : Path
        Where its configuration, data and log go; it exists.
    destination : Destination
        Who gets the results.

    Attributes
    ----------
    settings : Settings
        The settings of the node.
    """

    def __init__(self, folder: Path, destination: Destination) -> None:
        self.folder = folder
        self.config = folder / "osteon.toml"
        self.log = folder / "node.log"
        scp_port, http_port = _free_ports(2)
        values = {
            "data_dir": str((folder / "node").absolute()),
            "scp": {"host": "127.0.0.1", "port": scp_port, "quiet_s": QUIET_S},
            "http": {"host": "127.0.0.1", "port": http_port},
            "pipeline": {"disk_reserve_gb": 0.2},
            "destination": [
                {
                    "name": "pacs",
                    "ae_title": destination.ae_title,
                    "host": destination.host,
                    "port": destination.port,
                }
            ],
        }
        self.config.write_text(to_toml(values), encoding="utf-8")
        self.settings = Settings.model_validate(values)

    @property
    def peer(self) -> Destination:
        """The node, as a sender calls it."""
        scp = self.settings.scp
        return Destination(scp.ae_title, scp.host, scp.port, "OSTEON-DEMO")

    def start(self) -> None:
        """Start the node and wait until it answers.

        Raises
        ------
        OsteonError
            It ended by itself, or is not ready within 60 s; nothing is left running.
        """
        # The environment of this process is not to change what the node's own file says.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OSTEON_")}
        with self.log.open("wb") as log:
            # Its standard input is a pipe from here: should this process be killed, the node sees
            # the pipe's end and stops as well.
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "osteon.cli.main", "serve", "--supervised"),
                    *("--config", str(self.config.absolute())),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        with ExitStack() as otherwise:
            otherwise.callback(self.stop)  # Ctrl-C, too, leaves no process behind.
            self._await_ready()
            otherwise.pop_all()

    def stop(self) -> None:
        """Stop the node and wait until it has ended."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def check(self) -> None:
        """Raise where the node has ended by itself.

        Raises
        ------
        OsteonError
            It has; the message ends with its last log lines.
        """
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            raise OsteonError("\n  ".join([f"the node ended with exit code {code}:", *lines]))

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        why = "it answers, and its role work does not run"
        while time.monotonic() < deadline:
            self.check()
            try:
                echo(self.peer)
            except DeliveryError as error:
                why = error.message
            else:
                if work_is_running(self.settings.data_dir):
                    return
            time.sleep(POLL_S)
        raise OsteonError(f"the node was not ready within {READY_S:g} s: {why}: see {self.log}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
