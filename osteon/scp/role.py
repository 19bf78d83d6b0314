"""The ``receive`` role: the composition of table, intake and receiver in one process.

Settings and an event enter; ``osteon serve`` calls it and sets the event when it is told to stop.
Nothing here loads torch or decodes a pixel.
"""

import threading

import structlog

from osteon.config.settings import Settings
from osteon.errors import OsteonError
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table
from osteon.scp.commitment import CommitmentScp
from osteon.scp.server import Receiver

DRAIN_S = 12.0  # The supervisor kills a role 20 s after it told it to stop.
WATCH_S = 1.0

log = structlog.get_logger(__name__)


def run_receive(settings: Settings, stop: threading.Event) -> None:
    """Receive until told to stop, then let open associations end.

    Raises
    ------
    ConfigError
        The data directory, the address or a TLS file cannot be used.
    OsteonError
        The listener has died; whoever supervises starts the role again.
    """
    table = open_table(settings.data_dir)
    wanted = settings.scp.commitment or any(
        settings.hears(d.ae_title) for d in settings.destination
    )
    commitments = open_table(settings.data_dir) if wanted else None
    try:
        intake = Intake(settings, table)
        commitment = None if commitments is None else CommitmentScp(settings, commitments, intake)
        receiver = Receiver(settings, intake, commitment)
        receiver.start()
        try:
            log.info(
                "receiver listens",
                ae_title=settings.scp.ae_title,
                host=settings.scp.host,
                port=receiver.port,
                tls=settings.scp.tls is not None,
            )
            while not stop.wait(WATCH_S):
                if not receiver.is_listening:
                    raise OsteonError("the listener has died: see the log above")
        finally:
            receiver.stop(DRAIN_S if stop.is_set() else 0.0)
            log.info("receiver stopped")
    finally:
        if commitments is not None:
            commitments.close()
        table.close()
