"""The role ``http``: serve the application until told to stop.

Settings enter; it returns when told to stop. ``osteon serve`` and the systemd unit call it.
"""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import structlog
import uvicorn

from osteon.config.settings import HttpSettings, Settings
from osteon.errors import UnavailableError
from osteon.http.app import create_app
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table

GRACE_S = 5
CONNECTIONS_MAX = 256
REQUEST_WAIT_S = 15.0  # Until a connection has sent the head of a request.
log = structlog.get_logger(__name__)


def run_http(settings: Settings, stop: threading.Event) -> None:
    """Serve the HTTP API and the status page until told to stop.

    Parameters
    ----------
    stop : threading.Event
        When it is set, running calls have 5 s to end.

    Raises
    ------
    UnavailableError
        The address cannot be listened on, or the token file is wrong.
    """
    with (
        closing(open_table(settings.data_dir)) as table,
        closing(open_table(settings.data_dir)) as intake_table,
        closing(Intake(settings, intake_table, "http")) as intake,
    ):
        app = create_app(settings, table, intake)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_graceful_shutdown=GRACE_S,
        )
        with closing(_listen(settings.http)) as sock:
            log.info("http started", host=settings.http.host, port=sock.getsockname()[1])
            _Server(config, stop).run(sockets=[sock])
    log.info("http stopped")


class _Server(uvicorn.Server):
    """A server that an event stops, and that lets no silent connection stay."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._stop = stop
        self._silent: dict[tuple[object, object], float] = {}

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process, which sets the event."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Look, ten times a second, whether to stop; once a second, who is silent."""
        if counter % 10 == 0:
            self._close_silent(time.monotonic())
        return await super().on_tick(counter) or self._stop.is_set()

    def _close_silent(self, now: float) -> None:
        silent: dict[tuple[object, object], float] = {}
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is None or cycle.response_complete:
                since = self._silent.get((connection, cycle), now)
                silent[connection, cycle] = since
                if now - since > REQUEST_WAIT_S and connection.transport is not None:
                    connection.transport.abort()
        self._silent = silent


def _listen(settings: HttpSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        sock = socket.create_server((settings.host, settings.port), family=family, backlog=128)
    except OSError as error:
        raise UnavailableError(
            f"http: {settings.host}:{settings.port} cannot be listened on: {error.strerror}:"
            " choose another http.host or http.port"
        ) from error
    # Head and body leave in two pieces; Nagle would hold the second for the peer's delayed ACK of
    # 40 ms. asyncio asks the sockets' protocol before it sets this, and accept() does not tell it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
