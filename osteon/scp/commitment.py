"""Storage commitment (PS3.4 J): requests in, reports out on the association that they came by.

N-ACTION requests enter from the acceptor's associations and are on record before they are answered.
A requester that stays on the association gets its report there; one that leaves gets it from
``reporter.py``, on an association of its own. Destinations that this node itself has asked for
commitment report here, too; what they say goes on record for the delivery.
"""

import itertools
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import structlog
from pynetdicom import evt, sop_class
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class_n import StorageCommitmentServiceClass

from osteon.config.settings import Settings
from osteon.errors import (
    DeliveryError,
    NotFoundError,
    OsteonError,
    OutOfResourcesError,
    StaleTransition,
    UnparseableError,
)
from osteon.pipeline.commitment import Commitments
from osteon.pipeline.intake import Intake
from osteon.pipeline.proof import record
from osteon.pipeline.table import commitments
from osteon.pipeline.table.connection import Row, Table
from osteon.results.commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REQUEST_STORAGE_COMMITMENT,
    check_answer,
    decode_report,
    decode_request,
    encode_report,
)
from osteon.scp.access import is_source
from osteon.scp.contexts import is_storage
from osteon.scp.reporter import Reporter

# A requester that wants its report on a new association has released this one by then.
STAYS_S = 1.0
LOOK_S = 0.01
# While a report may still go out on the association, the reporter leaves it alone.
OWN_ASSOCIATION_S = 20.0
SUCCESS = 0x0000
# Statuses of an N-ACTION response, PS3.7 10.1.4.1.10.
PROCESSING_FAILURE = 0x0110
NO_SUCH_SOP_INSTANCE = 0x0112
INVALID_ARGUMENT_VALUE = 0x0115
SOP_CLASS_NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION = 0x0123
NOT_AUTHORIZED = 0x0124
RESOURCE_LIMITATION = 0x0213

EVT_ANSWERED = evt.NotificationEvent("EVT_ANSWERED", "An N-ACTION response was sent")

log = structlog.get_logger(__name__)


class AnsweredFirst(StorageCommitmentServiceClass):  # type: ignore[misc] # pynetdicom is not typed
    """The service class of pynetdicom, which also tells when an N-ACTION has been answered."""

    def SCP(self, req: Any, context: PresentationContext) -> None:  # noqa: N802 - pynetdicom's name
        """Serve one request, in the association's own thread."""
        super().SCP(req, context)
        if isinstance(req, N_ACTION) and self.assoc.is_established:
            evt.trigger(self.assoc, EVT_ANSWERED, {"context": context})


def install() -> None:
    """Let pynetdicom serve storage commitment by `AnsweredFirst`, in the whole process."""
    sop_class._SERVICE_CLASSES[PUSH_MODEL] = AnsweredFirst  # noqa: SLF001 - register_uid takes no class of others


@dataclass
class _Asked:
    """What was asked on one association: not yet reported, and reported without an answer yet."""

    waiting: list[int] = field(default_factory=list)
    sent: dict[int, Row] = field(default_factory=dict)
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))


class CommitmentScp:
    """The Storage Commitment service of the receiver.

    Parameters
    ----------
    settings : Settings
        Where requesters hear reports, and how often they are tried.
    table : Table
        A connection that nobody else uses.
    intake : Intake
        Says whether there is space.
    """

    def __init__(self, settings: Settings, table: Table, intake: Intake) -> None:
        self._settings = settings
        self._commitments = Commitments(table, is_storage)
        self._intake = intake
        self._asked: dict[Association, _Asked] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._reporter = Reporter(settings, self._commitments, self._stop)

    @property
    def handlers(self) -> Sequence[tuple[Any, Any]]:
        """What the acceptor binds to every association."""
        return (
            (evt.EVT_N_ACTION, self._on_action),
            (EVT_ANSWERED, self._on_answered),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_DIMSE_RECV, self._on_message),
        )

    @property
    def is_alive(self) -> bool:
        """Whether reports are sent, where they are to be."""
        return self._reporter.is_alive() or not self._settings.scp.commitment

    def start(self) -> None:
        """Report what is due, in a thread of its own."""
        if self._settings.scp.commitment:
            self._reporter.start()

    def stop(self, timeout_s: float) -> None:
        """Send no more reports; what is unreported is so after the next start."""
        self._stop.set()
        self._reporter.wake()
        if self._reporter.ident is not None:
            self._reporter.join(timeout_s)

    def left(self, assoc: Association) -> None:
        """Let the reporter take over what was not reported on an association that is over."""
        with self._lock:
            asked = self._asked.pop(assoc, None)
        if asked is None:
            return
        try:
            for commitment_id in {*asked.waiting, *(row["id"] for row in asked.sent.values())}:
                commitments.hasten(self._commitments.table, commitment_id)
        except OsteonError as error:
            log.warning("report of storage commitment put off", why=error.message)
        self._reporter.wake()

    def _on_action(self, event: Any) -> tuple[int, None]:
        request, status, why = event.request, SUCCESS, ""
        try:
            if event.context.abstract_syntax != PUSH_MODEL:
                status = SOP_CLASS_NOT_SUPPORTED
            elif not self._may_ask(event.assoc.requestor):
                status = NOT_AUTHORIZED
            elif request.ActionTypeID != REQUEST_STORAGE_COMMITMENT:
                status = NO_SUCH_ACTION
            elif request.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
                status = NO_SUCH_SOP_INSTANCE
            else:
                self._accept(event)
        except UnparseableError as error:
            status, why = INVALID_ARGUMENT_VALUE, error.message
        except OutOfResourcesError as error:
            status, why = RESOURCE_LIMITATION, error.message
        except (OsteonError, OSError) as error:
            status, why = PROCESSING_FAILURE, str(error)
        if status != SUCCESS:
            calling = event.assoc.requestor.primitive.calling_ae_title.strip()
            log.warning(
                "storage commitment refused",
                calling_ae_title=calling,
                status=f"{status:#06x}",
                why=why,
            )
        return status, None

    def _may_ask(self, caller: Any) -> bool:
        calling = caller.primitive.calling_ae_title.strip()
        address = str(caller.address_info.address)
        return self._settings.scp.commitment and is_source(self._settings, calling, address)

    def _on_report(self, event: Any) -> tuple[int, None]:
        """Record what a destination says of an instance that it was asked for."""
        information = event.request.EventInformation
        calling = event.assoc.requestor.primitive.calling_ae_title.strip()
        try:
            if event.context.abstract_syntax != PUSH_MODEL:
                return SOP_CLASS_NOT_SUPPORTED, None
            raw = b"" if information is None else information.getvalue()
            report = decode_report(raw, str(event.context.transfer_syntax))
            record(self._commitments.table, report)
        except (UnparseableError, NotFoundError) as error:
            log.warning("report refused", calling_ae_title=calling, why=error.message)
            return INVALID_ARGUMENT_VALUE, None
        except OsteonError as error:
            log.warning("report not on record", calling_ae_title=calling, why=error.message)
            return PROCESSING_FAILURE, None
        log.info("storage commitment heard", calling_ae_title=calling, failed=len(report.failed))
        return SUCCESS, None

    def _accept(self, event: Any) -> None:
        """Put a request on record."""
        refusal = self._intake.refusal()
        if refusal is not None:
            raise OutOfResourcesError(refusal)
        information = event.request.ActionInformation
        raw = b"" if information is None else information.getvalue()
        transaction_uid, references = decode_request(raw, str(event.context.transfer_syntax))
        caller = event.assoc.requestor
        commitment_id = self._commitments.accept(
            transaction_uid,
            references,
            ae_title=caller.primitive.calling_ae_title.strip(),
            address=str(caller.address_info.address),
            called_ae_title=caller.primitive.called_ae_title.strip(),
            due_in_s=OWN_ASSOCIATION_S,
        )
        with self._lock:
            waiting = self._asked.setdefault(event.assoc, _Asked()).waiting
            if commitment_id not in waiting:
                waiting.append(commitment_id)

    def _on_answered(self, event: Any) -> None:
        """Report on the same association, unless the peer goes on or leaves.

        Runs in the association's thread, so that nothing gets between the parts of a message.
        """
        asked = self._asked.get(event.assoc)
        if asked is None:
            return
        deadline = time.monotonic() + STAYS_S
        while time.monotonic() < deadline:
            if self._stop.is_set() or _goes_on(event.assoc):
                return
            time.sleep(LOOK_S)
        try:
            while asked.waiting and not _goes_on(event.assoc):
                self._report(event.assoc, event.context, asked, asked.waiting[0])
                asked.waiting.pop(0)
        except OsteonError as error:
            log.warning("report of storage commitment put off", why=error.message)

    def _report(
        self, assoc: Association, context: PresentationContext, asked: _Asked, commitment_id: int
    ) -> None:
        table = self._commitments.table
        row = commitments.get(table, commitment_id)
        if row is None:
            return
        commitments.claim(table, row, table.clock() + OWN_ASSOCIATION_S)
        report = self._commitments.judge(row)
        syntax = context.transfer_syntax[0]
        request = N_EVENT_REPORT()
        request.MessageID = next(asked.numbers)
        request.AffectedSOPClassUID = PUSH_MODEL
        request.AffectedSOPInstanceUID = PUSH_MODEL_INSTANCE
        request.EventTypeID = report.event_type
        request.EventInformation = BytesIO(
            encode(encode_report(report), syntax.is_implicit_VR, syntax.is_little_endian)
        )
        asked.sent[request.MessageID] = row
        assoc.dimse.send_msg(request, context.context_id)

    def _on_message(self, event: Any) -> None:
        """Look for the answer to a report among all that comes; in the upper layer's thread."""
        if not isinstance(event.message, N_EVENT_REPORT_RSP):
            return
        command = event.message.command_set
        asked = self._asked.get(event.assoc)
        number = command.get("MessageIDBeingRespondedTo")
        row = None if asked is None else asked.sent.pop(number, None)
        if row is None:
            return
        table = self._commitments.table
        try:
            check_answer(row["ae_title"], int(command.get("Status", PROCESSING_FAILURE)))
            with suppress(StaleTransition):  # The reporter was faster.
                commitments.report(table, row, "heard on the association that asked")
                log.info("storage commitment reported", ae_title=row["ae_title"])
        except DeliveryError as error:
            log.warning("report of storage commitment not heard", why=error.message)
            with suppress(OsteonError):  # It is due again in any case.
                commitments.hasten(table, row["id"])
            self._reporter.wake()
        except OsteonError as error:
            log.warning("report of storage commitment not on record", why=error.message)


def _goes_on(assoc: Association) -> bool:
    """Whether the peer has sent something more: a request, a release, an abort; or is gone."""
    return (
        assoc.dimse.peek_msg() != (None, None)
        or assoc.dul.peek_next_pdu() is not None
        or not assoc.dul.is_alive()
    )
