"""``osteon serve``: the node, or one of its roles.

Settings enter, and the process is the node until SIGTERM or SIGINT. The composition of the roles
stands here: each loads its own room and no other.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

import click
import structlog

from osteon.cli.logging import configure_logging
from osteon.cli.options import chosen_config, config_option, example, settings_in_force
from osteon.cli.supervisor import STOP_S, Supervisor, command_of
from osteon.config.load import find_config
from osteon.config.settings import Settings

ROLES = ("receive", "work", "http")
_STDIN = 0

Role = Callable[[Settings, threading.Event], None]


@click.command(
    name="serve",
    epilog=example("osteon serve --config /etc/osteon/osteon.toml", "osteon serve --role receive"),
)
@config_option
@click.option("--role", type=click.Choice(ROLES), help="Run this role alone, in this process.")
@click.option("--supervised", is_flag=True, hidden=True, help="Stop at the end of stdin.")
def command(role: str | None, supervised: bool) -> None:
    """Run the node: receive, work and http, until SIGTERM or Ctrl-C."""
    settings = settings_in_force()
    configure_logging(settings.log, role or "serve")
    if role is not None:
        _run_role(role, settings, supervised=supervised)
        return
    found = find_config(chosen_config())
    structlog.get_logger(__name__).info(
        "node starts",
        config="defaults" if found is None else str(found),
        data_dir=str(settings.data_dir.absolute()),
        dicom=f"{settings.scp.ae_title}@{settings.scp.host}:{settings.scp.port}",
        http=f"http://{settings.http.host}:{settings.http.port}/",
    )
    if supervised:
        _follow_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    config = None if found is None else str(found)
    Supervisor({role: command_of(role, config) for role in ROLES}).run()


def _run_role(role: str, settings: Settings, *, supervised: bool) -> None:
    stop = threading.Event()

    def note(number: int, _: FrameType | None) -> None:
        """Ask for the end."""
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # A second one ends the process at once.

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    if supervised:
        _follow_parent(stop.set)
    _load(role)(settings, stop)


def _follow_parent(stop: Callable[[], object]) -> None:
    """Stop when the parent's end of standard input is closed, and end by force if need be."""

    def follow() -> None:
        """End this role when its supervisor closes the pipe, or dies."""
        while os.read(_STDIN, 1):
            pass
        stop()
        time.sleep(STOP_S + 5)  # Nobody else is left who would end a role that does not stop.
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _load(role: str) -> Role:
    # Only the room of this role is loaded: the receiver and the API must never load torch.
    if role == "receive":
        from osteon.scp.role import run_receive  # noqa: PLC0415 - see above

        return lambda settings, stop: run_receive(
            settings, stop, partial(configure_logging, settings.log, role)
        )
    if role == "work":
        from osteon.pipeline.role import run_work  # noqa: PLC0415 - see above

        return run_work
    from osteon.http.role import run_http  # noqa: PLC0415 - see above

    return run_http
