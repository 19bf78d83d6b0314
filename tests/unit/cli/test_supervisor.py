"""The supervisor with real processes: it restarts, stops, gives up, and leaves no orphan."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.tools import wait_until

# A role that notes its process id and lives until its standard input ends.
ROLE = (
    "import os, sys, pathlib\n"
    "folder = pathlib.Path(sys.argv[1])\n"
    "(folder / str(os.getpid())).touch()\n"
    "os.read(0, 1)\n"
)
SUPERVISOR = (
    "import sys\n"
    "from osteon.cli.supervisor import Supervisor\n"
    "from osteon.errors import ConfigError\n"
    "roles = {str(i): [sys.executable, '-S', '-c', code, sys.argv[1]]"
    " for i, code in enumerate(sys.argv[2:])}\n"
    "try:\n"
    "    Supervisor(roles).run()\n"
    "except ConfigError as error:\n"
    "    print(error.message)\n"
    "    sys.exit(2)\n"
)


class Running:
    def __init__(self, folder: Path, *roles: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(folder), *roles],
            stdout=subprocess.PIPE,
            text=True,
        )

    def pids(self) -> set[int]:
        return {int(file.name) for file in self.folder.iterdir()}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[Running] = []

    def run(*roles: str) -> Running:
        started.append(Running(tmp_path, *roles))
        return started[-1]

    yield run
    for running in started:
        running.process.kill()
        running.process.communicate(timeout=10)


def test_a_signal_stops_all_roles(start) -> None:
    running = start(ROLE, ROLE)
    pids = wait_until(lambda: len(running.pids()) == 2 and running.pids())
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert not any(map(psutil.pid_exists, pids))


def test_a_dead_role_is_restarted_and_the_others_are_left_alone(start) -> None:
    running = start(ROLE, ROLE)
    first, other = wait_until(lambda: len(running.pids()) == 2 and sorted(running.pids()))
    os.kill(first, signal.SIGKILL)
    pids = wait_until(lambda: len(running.pids()) == 3 and running.pids(), timeout_s=5)
    (third,) = pids - {first, other}
    assert psutil.pid_exists(third)
    assert psutil.pid_exists(other)
    assert running.process.poll() is None


def test_roles_stop_within_a_second_of_their_supervisors_kill(start) -> None:
    running = start(ROLE, ROLE)
    pids = wait_until(lambda: len(running.pids()) == 2 and running.pids())
    running.process.kill()
    wait_until(lambda: not any(_runs(pid) for pid in pids), timeout_s=1)


def test_a_wrong_configuration_ends_the_node(start) -> None:
    running = start(ROLE, "import sys; sys.exit(2)")
    out, _ = running.process.communicate(timeout=10)
    assert running.process.returncode == 2
    assert "the role 1 does not start" in out
    assert not any(_runs(pid) for pid in running.pids())


def test_a_second_signal_kills_a_role_that_does_not_stop(start) -> None:
    deaf = "import signal; signal.signal(15, signal.SIG_IGN)\n" + ROLE.replace(
        "os.read(0, 1)", "signal.pause()"
    )
    running = start(deaf)
    (pid,) = wait_until(running.pids)
    running.process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(0.5)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(5) == 0
    assert not _runs(pid)


def test_the_supervisor_sleeps_while_nothing_happens(start) -> None:
    running = start(ROLE)
    wait_until(running.pids)
    process = psutil.Process(running.process.pid)
    before = process.cpu_times()
    switches = process.num_ctx_switches().voluntary
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(1)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system <= 0.01
    assert process.num_ctx_switches().voluntary - switches <= 5


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_ctrl_c_at_the_terminal_reaches_the_supervisor_alone(start) -> None:
    running = start(ROLE)
    (pid,) = wait_until(running.pids)
    assert os.getpgid(pid) != os.getpgid(running.process.pid)
