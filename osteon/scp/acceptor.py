"""The association acceptor: who is let in, what is answered, and how each association ended.

Connections with an A-ASSOCIATE-RQ enter from the listener; instances leave through the intake, and
one row and one log line for each association. Each runs in threads of its own, so whatever one
peer does, the others do not notice.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import (
    A_ABORT,
    A_P_ABORT,
    SOPClassCommonExtendedNegotiation,
)
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from osteon.config.settings import Settings
from osteon.errors import OsteonError
from osteon.pipeline.intake import Intake
from osteon.results.commitment import PUSH_MODEL
from osteon.scp.access import (
    Rejection,
    check_titles,
    congested,
    is_source,
    malformed,
    too_many,
)
from osteon.scp.association import build_association, introduce
from osteon.scp.commitment import CommitmentScp
from osteon.scp.contexts import STORAGE_SERVICE_CLASS, is_storage, supported_contexts
from osteon.scp.direct import DirectAssociation
from osteon.scp.haul import Haul
from osteon.scp.inbox import Inbox
from osteon.scp.lanes import Lanes
from osteon.scp.listener import AssociationRequest
from osteon.scp.messages import Context
from osteon.scp.rejections import Rejections
from osteon.scp.store import OUT_OF_RESOURCES, status_of, store_instance
from osteon.scp.transfer import OwnTransfer, Transfer
from osteon.scp.transport import wake

RELEASED, NODE_STOPS = "released", "aborted: the node stops"

log = structlog.get_logger(__name__)


@dataclass
class _Visit:
    """One connection that asked for an association, and what came over it."""

    sock: socket.socket
    address: str
    opened: float = field(default_factory=time.monotonic)
    accepted: bool = False
    outcome: str = ""
    haul: Haul | None = None  # None until it is accepted.


class Acceptor:
    """Serve associations until it is told to stop.

    Parameters
    ----------
    settings : Settings
        Who may call, and all limits.
    intake : Intake
        Makes instances durable and keeps the association log.
    ae : ApplicationEntity
        What this node says of itself, and its time-outs.
    commitment : CommitmentScp, optional
        Storage commitment, where it is given or asked for.
    lanes : Lanes, optional
        Other processes that take the data of associations; this one does where absent.
    """

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        ae: ApplicationEntity,
        commitment: CommitmentScp | None = None,
        lanes: Lanes | None = None,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._ae = ae
        self._commitment = commitment
        self._lanes = lanes
        self._stopping = False
        self._visits: dict[Association, _Visit] = {}
        self._changed = threading.Condition()
        self._rejections = Rejections(intake.record_rejections)
        self._handlers = (
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_SOP_COMMON, self._on_common_extended),
            (evt.EVT_ACSE_RECV, self._on_received),
            (evt.EVT_ACSE_SENT, self._on_sent),
            (evt.EVT_C_STORE, self._on_store),
            *(() if commitment is None else commitment.handlers),
        )

    def serve(self, request: AssociationRequest, sock: socket.socket, first_pdu: bytes) -> None:
        """Serve one association, from its A-ASSOCIATE-RQ to its end."""
        visit = _Visit(sock, request.remote.address)
        # Requests of storage commitment are rare, and served by pynetdicom's own messages.
        asks = self._commitment is not None and PUSH_MODEL.encode() in first_pdu
        fast = self._settings.scp.fast and not asks
        serve = self._serve_directly if fast else self._serve_by_pynetdicom
        serve(request, visit, first_pdu)

    def _serve_directly(self, request: AssociationRequest, visit: _Visit, first_pdu: bytes) -> None:
        def begin(
            inbox: Inbox,
            contexts: Mapping[int, Context],
            pdu_bytes_max: int,
            send: Callable[[bytes], None],
        ) -> Transfer:
            """Begin to take the data of the accepted association."""
            assert visit.haul is not None  # Else it is not accepted.
            # What TLS has read ahead, and its keys, are here alone.
            if self._lanes is not None and not isinstance(visit.sock, ssl.SSLSocket):
                return self._lanes.begin(visit.sock, contexts, visit.haul, pdu_bytes_max)
            scp = self._settings.scp
            return OwnTransfer(
                inbox,
                contexts,
                send,
                visit.haul,
                pdu_bytes_max=pdu_bytes_max,
                instance_bytes_max=scp.instance_bytes_max,
                idle_s=scp.idle_timeout_s,
            )

        assoc = DirectAssociation(self._ae, visit.sock, begin)
        handlers = [h for h in self._handlers if h[0] is not evt.EVT_C_STORE]
        introduce(assoc, local=request.local, remote=request.remote, handlers=handlers)
        with self._visiting(assoc, visit):
            assoc.serve(first_pdu)

    def _serve_by_pynetdicom(
        self, request: AssociationRequest, visit: _Visit, first_pdu: bytes
    ) -> None:
        assoc = build_association(
            self._ae,
            visit.sock,
            first_pdu,
            local=request.local,
            remote=request.remote,
            instance_bytes_max=self._settings.scp.instance_bytes_max,
            handlers=self._handlers,
        )
        with self._visiting(assoc, visit):
            assoc.start()
            assoc.join()  # The idle time-out and `abort_all` end it.
            assoc.dul.join(self._settings.scp.acse_timeout_s)  # It may still send a rejection.
            if visit.haul is not None:
                visit.haul.is_storing = assoc.dimse.message is not None

    @contextmanager
    def _visiting(self, assoc: Association, visit: _Visit) -> Iterator[None]:
        with self._changed:
            self._visits[assoc] = visit
        try:
            yield
        finally:
            self._leave(assoc, visit)

    def refuse_new(self) -> None:
        """Turn every further association away for now."""
        self._stopping = True

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until no association is open, and return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._visits, timeout_s)

    def record_rejections(self) -> None:
        """Put on record who was rejected of late, instead of in a moment."""
        self._rejections.flush()

    def abort_all(self) -> None:
        """Send an A-ABORT to every peer."""
        for assoc in self._open():
            assoc.abort(block=False)

    def cut_all(self) -> None:
        """End the connection of every peer."""
        for visit in self._open().values():
            wake(visit.sock)

    def _open(self) -> dict[Association, _Visit]:
        with self._changed:
            return dict(self._visits)

    def _on_requested(self, event: Any) -> None:
        assoc, visit = event.assoc, self._visits[event.assoc]
        calling = assoc.requestor.primitive.calling_ae_title.strip()
        called = assoc.requestor.primitive.called_ae_title.strip()
        if all(cx.abstract_syntax and cx.transfer_syntax for cx in _proposed(event)):
            rejection = self._admit(visit, calling, called)
        else:
            rejection = malformed("a proposed presentation context lacks a syntax")
        if rejection is None:
            # Until this line no context is supported, so a fault above lets nobody in.
            serves = self._commitment is not None
            assoc.acceptor.supported_contexts = supported_contexts(
                ((cx.abstract_syntax, cx.transfer_syntax) for cx in _proposed(event)),
                storage=is_source(self._settings, calling, visit.address),
                commitment=serves and self._settings.scp.commitment,
                reports=serves and self._settings.hears(calling),
            )
            return
        log.info(
            "association rejected",
            calling_ae_title=calling,
            called_ae_title=called,
            address=visit.address,
            answer=rejection.triple,
            why=rejection.why,
        )
        assoc.acse.send_reject(*rejection.triple)
        answer = ",".join(map(str, rejection.triple))
        self._rejections.note(calling, called, visit.address, answer, rejection.why, at=time.time())

    def _admit(self, visit: _Visit, calling: str, called: str) -> Rejection | None:
        rejection = check_titles(self._settings, calling, called, visit.address)
        if rejection is not None:
            return rejection
        with self._changed:
            addresses = [other.address for other in self._visits.values() if other.accepted]
            rejection = too_many(self._settings, addresses, visit.address)
            if rejection is not None:
                return rejection
            visit.accepted = True
        try:
            refusal = "the node stops" if self._stopping else self._intake.refusal()
            if refusal is None:
                origin = self._intake.open_association(calling, called, visit.address)
                visit.haul = Haul(self._intake, origin, self._settings.scp.instance_bytes_max)
                return None
        except (OsteonError, OSError) as error:
            refusal = str(error)
        visit.accepted = False
        return congested(refusal)

    def _on_common_extended(self, event: Any) -> dict[str, SOPClassCommonExtendedNegotiation]:
        """Tell pynetdicom of private, retired and new SOP classes that they are storage.

        As if the peer had said so itself (PS3.7 D.3.3.6); nothing of it is sent.
        """
        items = {}
        for uid in {cx.abstract_syntax for cx in _proposed(event)}:
            if is_storage(uid) and uid_to_service_class(uid) is not StorageServiceClass:
                item = SOPClassCommonExtendedNegotiation()
                item.sop_class_uid, item.service_class_uid = uid, STORAGE_SERVICE_CLASS
                items[uid] = item
        return items

    def _on_received(self, event: Any) -> None:
        if isinstance(event.primitive, A_ABORT):
            self._note(event.assoc, "aborted by the peer")
        elif isinstance(event.primitive, A_P_ABORT):
            broken = event.primitive.provider_reason != 0
            self._note(event.assoc, "aborted: invalid PDU" if broken else "connection lost")

    def _on_sent(self, event: Any) -> None:
        if isinstance(event.primitive, A_ABORT):
            idle_s = self._settings.scp.idle_timeout_s
            why = f"silent for {idle_s:g} s" if event.assoc.dul.idle_timer_expired() else "request"
            self._note(event.assoc, NODE_STOPS if self._stopping else f"aborted: {why}")

    def _note(self, assoc: Association, outcome: str) -> None:
        visit = self._visits[assoc]
        visit.outcome = visit.outcome or outcome

    def _on_store(self, event: Any) -> Dataset:
        haul = self._visits[event.assoc].haul
        if haul is None:
            return status_of(OUT_OF_RESOURCES, "the association is not on record")
        bytes_max = self._settings.scp.instance_bytes_max
        answer = store_instance(event, haul.origin, self._intake, bytes_max)
        haul.count(answer)
        return status_of(answer.status, answer.comment)

    def _leave(self, assoc: Association, visit: _Visit) -> None:
        try:
            if visit.haul is not None:
                self._record(visit, RELEASED if assoc.is_released else visit.outcome, visit.haul)
        finally:
            if self._commitment is not None:
                self._commitment.left(assoc)
            with self._changed:
                del self._visits[assoc]
                self._changed.notify_all()

    def _record(self, visit: _Visit, outcome: str, haul: Haul) -> None:
        outcome = outcome or "connection lost"
        # Some peers never release, so that an end between two instances says nothing.
        amid = haul.is_storing and outcome != RELEASED
        cut = amid or outcome == NODE_STOPS
        outcome += " in the middle of an instance" if amid else ""
        origin, brought = haul.origin, haul.brought
        log.info(
            "association ended",
            calling_ae_title=origin.calling_ae_title,
            called_ae_title=origin.called_ae_title,
            address=visit.address,
            outcome=outcome,
            stored=brought.stored,
            duplicates=brought.duplicates,
            refused=brought.refused,
            seconds=round(time.monotonic() - visit.opened, 3),
        )
        try:
            self._intake.close_association(origin, outcome, cut=cut, brought=brought)
        except OsteonError as error:
            log.warning("association not closed in the table", why=str(error))


def _proposed(event: Any) -> Iterable[Any]:
    return event.assoc.requestor.primitive.presentation_context_definition_list or ()
