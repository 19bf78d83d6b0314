"""The ``receive`` role: the composition of table, intake and receiver in one process.

Settings and an event enter; ``osteon serve`` calls it and sets the event when it is told to stop.
Nothing here loads torch or decodes a pixel.
"""

import gc
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing

import structlog

from osteon.config.settings import Settings
from osteon.errors import OsteonError
from osteon.pipeline.instances.spool import SPOOL
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.table.listening import begin_listening, end_listening, newest_association
from osteon.pipeline.worklock import LISTENING, hold
from osteon.scp.commitment import CommitmentScp
from osteon.scp.lanes import Lanes, lanes_of
from osteon.scp.server import Receiver

DRAIN_S = 12.0  # The supervisor kills a role 20 s after it told it to stop.
WATCH_S = 1.0

log = structlog.get_logger(__name__)


def _nothing() -> None:
    """Prepare nothing."""


def run_receive(
    settings: Settings, stop: threading.Event, prepare: Callable[[], None] = _nothing
) -> None:
    """Receive until told to stop, then let open associations end.

    Parameters
    ----------
    prepare : callable
        Called in each further process that takes data, before anything else; it can be pickled.

    Raises
    ------
    ConfigError
        The data directory, the address or a TLS file cannot be used.
    UnavailableError
        Another process receives into this data directory, or one of its own does not start.
    OsteonError
        The listener or a process that takes data has died; whoever supervises starts the role
        again.
    """
    with ExitStack() as stack:
        table = stack.enter_context(closing(open_table(settings.data_dir)))
        # A second receiver could not tell the associations of the first from a killed one's.
        held = hold(settings.data_dir, stop, SPOOL)
        stack.callback(os.close, held)
        newest = newest_association(table)
        wanted = settings.scp.commitment or any(
            settings.hears(d.ae_title) for d in settings.destination
        )
        intake = stack.enter_context(closing(Intake(settings, table)))
        commitment = None
        if wanted:
            commitments = stack.enter_context(closing(open_table(settings.data_dir)))
            commitment = CommitmentScp(settings, commitments, intake)
        count = lanes_of(settings)
        lanes = None
        if count:
            lanes = stack.enter_context(closing(Lanes(settings, count, held, prepare)))
        receiver = Receiver(settings, intake, commitment, lanes)
        listening_since = table.clock()
        receiver.start()
        # From now on silence tells something; before, of a sender that was cut off, it did not.
        left_open = begin_listening(table, listening_since, newest, "lost: the receiver was killed")
        stack.callback(os.close, hold(settings.data_dir, stop, LISTENING))
        # What was loaded until now is never garbage; looking at it took 6 % of an instance's time.
        gc.collect()
        gc.freeze()
        try:
            log.info(
                "receiver listens",
                ae_title=settings.scp.ae_title,
                host=settings.scp.host,
                port=receiver.port,
                tls=settings.scp.tls is not None,
                processes=count or 1,
                left_open=left_open,
            )
            while not stop.wait(WATCH_S):
                if not receiver.is_listening:
                    raise OsteonError("the listener has died: see the log above")
                if lanes is not None and not lanes.are_alive:
                    raise OsteonError("a process that takes data has died: see the log above")
        finally:
            receiver.stop(DRAIN_S if stop.is_set() else 0.0)
            if stop.is_set():
                end_listening(table)
            log.info("receiver stopped")
