"""One process of the receiver that takes the data of some associations.

Connections of accepted associations enter by a socket from the receiver's own process; instances
leave through an intake, and for each association one report of what came and how it ended. There is
a thread for each association. When the receiver's own process is gone, this one ends at once:
whatever was acknowledged is durable, and the next receiver puts the rest in order.
"""

import gc
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog
from pydicom.uid import UID

from osteon.config.settings import Settings
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import open_table
from osteon.pipeline.table.reception import Origin
from osteon.scp.command import InvalidPduError
from osteon.scp.haul import Haul
from osteon.scp.inbox import Inbox
from osteon.scp.messages import Context
from osteon.scp.transfer import OwnTransfer, SilentError

MESSAGE_BYTES_MAX = 2**17  # 128 contexts with two UIDs each are 20 kB.
READY, STOP = b"ready", b"stop"

log = structlog.get_logger(__name__)


class Ending(StrEnum):
    """How the data of an association ended."""

    PDU = "pdu"
    SILENT = "silent"
    INVALID = "invalid"
    LOST = "lost"


@dataclass
class _Context:
    """An accepted presentation context; see `messages.Context`."""

    abstract_syntax: UID
    transfer_syntax: list[UID]


def serve(link: socket.socket, settings: Settings, prepare: Callable[[], None]) -> None:
    """Take data until the receiver says that this is all, or is gone.

    Parameters
    ----------
    link : socket.socket
        To the receiver's own process.
    settings : Settings
        Limits and where everything is.
    prepare : callable
        Called first.
    """
    # Ctrl-C and systemd tell every process; the receiver lets associations end and then tells us.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    prepare()
    _, (held,), _, _ = socket.recv_fds(link, MESSAGE_BYTES_MAX, 1)
    with (
        closing(open_table(settings.data_dir, takes_turns=True)) as table,
        closing(Intake(settings, table)) as intake,
    ):
        gc.collect()
        gc.freeze()
        link.send(READY)
        if not _serve(link, settings, intake):
            os._exit(1)  # Threads may be in the middle of an instance that nobody will hear of.
    os.close(held)


def _serve(link: socket.socket, settings: Settings, intake: Intake) -> bool:
    """Take what comes, and return whether the receiver has said that this is all."""
    while True:
        charge, descriptors, _, _ = socket.recv_fds(link, MESSAGE_BYTES_MAX, 2)
        if len(descriptors) < 2:
            return charge == STOP
        sock, report = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        arguments = (sock, report, json.loads(charge), settings, intake)
        try:
            threading.Thread(target=_take, args=arguments, name="data", daemon=True).start()
        except RuntimeError as error:  # No thread is left: the receiver sees an end without words.
            log.error("an association could not be taken", why=str(error))
            sock.close()
            report.close()


def _take(
    sock: socket.socket,
    report: socket.socket,
    charge: Mapping[str, Any],
    settings: Settings,
    intake: Intake,
) -> None:
    """Take the data of one association and report."""
    haul = Haul(intake, Origin(**charge["origin"]), settings.scp.instance_bytes_max)
    contexts: dict[int, Context] = {
        int(number): _Context(UID(abstract), [UID(transfer)])
        for number, (abstract, transfer) in charge["contexts"].items()
    }
    inbox = Inbox(sock)
    transfer = OwnTransfer(
        inbox,
        contexts,
        sock.sendall,
        haul,
        pdu_bytes_max=charge["pdu_bytes_max"],
        instance_bytes_max=settings.scp.instance_bytes_max,
        idle_s=settings.scp.idle_timeout_s,
    )
    ending, what, why = Ending.LOST, b"", ""
    with sock, report:
        try:
            while not what:
                what = transfer.step()
            ending = Ending.PDU
        except SilentError as error:
            ending, why = Ending.SILENT, str(error)
        except InvalidPduError as error:
            ending, why = Ending.INVALID, str(error)
        except OSError as error:
            why = str(error)
        finally:
            transfer.close()
            inbox.close()
            told = {
                "ending": ending,
                "what": what.hex(),
                "why": why,
                "is_storing": haul.is_storing,
                "brought": haul.brought.to_dict(),
            }
            with suppress(OSError):  # The receiver is gone, and this process goes as well.
                report.sendall(json.dumps(told).encode())
