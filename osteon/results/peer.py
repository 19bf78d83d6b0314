"""An association to a destination: how it is called, and what is meant when it does not answer.

A `Destination` enters, an established association leaves; ``scu.py`` and ``commitment.py`` send
over it. Every wait has a deadline, and an association that missed one is never used again.
"""

import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import UID
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from osteon.config.settings import TlsSettings
from osteon.errors import DeliveryError, DeliveryRefusedError
from osteon.results.turnstile import mend
from osteon.results.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

CONNECT_S = ASSOCIATE_S = 5.0


@dataclass(frozen=True)
class Destination:
    """A peer that takes instances: where it is, and how both sides call themselves."""

    ae_title: str
    host: str
    port: int
    calling_ae_title: str = "OSTEON"
    tls: TlsSettings | None = None

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"


class NotOfferedError(DeliveryRefusedError):
    """The destination offers none of the services that were asked for."""


@contextlib.contextmanager
def associate(
    destination: Destination,
    contexts: list[PresentationContext],
    dimse_s: float,
    *,
    negotiation: Sequence[Any] = (),
    handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
) -> Iterator[Association]:
    """Hold an association; release it at the end, abort it where anything went wrong.

    Parameters
    ----------
    destination : Destination
        The peer.
    contexts : list of PresentationContext
        What is proposed.
    dimse_s : float
        Deadline for each answer, in seconds.
    negotiation : sequence
        Items of extended negotiation, such as roles (PS3.7 D.3.3).
    handlers : sequence of (event, callable)
        Bound to the association.

    Raises
    ------
    DeliveryError
        The peer cannot be reached.
    NotOfferedError
        The peer accepts none of the contexts.
    """
    ae = ApplicationEntity(ae_title=destination.calling_ae_title)
    ae.connection_timeout, ae.acse_timeout = CONNECT_S, ASSOCIATE_S
    ae.dimse_timeout = ae.network_timeout = dimse_s
    ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    _quieten()
    try:
        assoc = ae.associate(
            destination.host,
            destination.port,
            contexts,
            destination.ae_title,
            ext_neg=list(negotiation),
            tls_args=_tls_of(destination),
            evt_handlers=[(evt.EVT_CONN_OPEN, _prepare, [dimse_s]), *handlers],
        )
    except (OSError, ValueError) as error:
        raise DeliveryError(f"{destination} cannot be reached: {error}") from error
    if not assoc.is_established:
        raise _refusal(assoc, destination)
    try:
        yield assoc
        assoc.release()
    finally:
        if not assoc.is_released:
            assoc.abort()


def _refusal(assoc: Association, destination: Destination) -> DeliveryError:
    """Say why there is no association (PS3.8 Table 9-21)."""
    if assoc.is_rejected:
        answer = assoc.acceptor.primitive
        message = (
            f"{destination} rejected the association: {answer.result_str}, {answer.reason_str}"
        )
        # Even a permanent rejection is mended over there: it does not know our AE title yet.
        return DeliveryError(message)
    if assoc.rejected_contexts:
        names = sorted({UID(context.abstract_syntax).name for context in assoc.rejected_contexts})
        return NotOfferedError(f"{destination} does not take {', '.join(names[:3])}")
    return DeliveryError(
        f"{destination} cannot be reached: no connection or no answer within {ASSOCIATE_S:g} s"
    )


def _tls_of(destination: Destination) -> tuple[ssl.SSLContext, str] | None:
    """Mutual TLS (PS3.15 B.12), or None where the destination has none."""
    if destination.tls is None:
        return None
    context = ssl.create_default_context(cafile=destination.tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(destination.tls.certificate, destination.tls.key)
    return context, destination.host


def _prepare(event: evt.Event, send_s: float) -> None:
    """Send every PDU at once, give up on a peer that stops reading, and lose no answer."""
    mend(event.assoc)
    sock = event.assoc.dul.socket.socket
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    deadline = struct.pack("ll", int(send_s), int(send_s % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, deadline)


def _quieten() -> None:
    """Let pynetdicom send files from the disk and log nothing, unless someone asked it to."""
    _config.STORE_SEND_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    logger = logging.getLogger("pynetdicom")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
