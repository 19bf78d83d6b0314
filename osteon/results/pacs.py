"""A stand-in PACS: takes instances, keeps them in a folder, and can be told to refuse.

Instances enter by C-STORE and leave as Part 10 files; called by ``osteon demo`` and by tests. It
is no archive: nothing is synced, indexed or checked.
"""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

ENDING_S = 2.0
"""How long associations that are about to end are given, when the stand-in stops."""

Respond = Callable[[str], tuple[int, str]]
"""From the SOP Instance UID to the status of the response and its Error Comment."""


def _accept(sop_instance_uid: str) -> tuple[int, str]:  # noqa: ARG001 - a Respond looks at it
    """Take every instance."""
    return 0x0000, ""  # Success, PS3.4 Table B.2-1


class StandInPacs:
    """A Storage SCP on loopback that keeps what it receives; use it as a context manager.

    Parameters
    ----------
    folder : Path
        Where the received instances go; it is made where it does not exist.
    ae_title : str
        Its AE title; callers that call it otherwise are rejected.
    port : int
        TCP port; 0 for any free one.
    respond : callable, optional
        Decides on each instance, e.g. ``lambda uid: (0xA700, "disk full")``; what it refuses
        is not kept. It may also block, to behave like a hung peer.
    associations_max : int
        More associations than this at once are rejected as transient.
    transfer_syntaxes : sequence of str, optional
        What it takes; every one that pynetdicom knows by default.

    Attributes
    ----------
    port : int
        The port it listens on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "PACS",
        port: int = 0,
        respond: Respond = _accept,
        associations_max: int = 10,
        transfer_syntaxes: list[str] | None = None,
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.port = port
        self._respond = respond
        self._ae = ApplicationEntity(ae_title=ae_title)
        self._ae.require_called_aet = True
        self._ae.maximum_associations = associations_max
        self._ae.add_supported_context(Verification)
        self._ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(
                context.abstract_syntax, transfer_syntaxes or ALL_TRANSFER_SYNTAXES
            )

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server = self._ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, _send_at_once),
                (evt.EVT_C_STORE, self._keep),
                (evt.EVT_C_FIND, self._find),
            ],
        )
        self.port = self._server.server_address[1]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening, once what is being rejected or released has ended by itself.

        To abort such an association breaks pynetdicom's state machine: an A-ABORT is for one that
        is open, state Sta6 of PS3.8 9.2.
        """
        ends = time.monotonic() + ENDING_S
        while self._is_ending() and time.monotonic() < ends:
            time.sleep(0.005)
        self._ae.shutdown()

    def _is_ending(self) -> bool:
        """Return whether an association is neither open nor over."""
        return any(
            assoc.dul.state_machine.current_state != "Sta6"
            for assoc in self._ae.active_associations
        )

    @property
    def received(self) -> list[Path]:
        """The instances received so far as Part 10 files, in order of arrival."""
        return sorted(self.folder.glob("*.dcm"))

    def _keep(self, event: evt.Event) -> Dataset:
        """Answer a C-STORE; what is accepted stands in the folder before the answer leaves."""
        status, comment = self._respond(str(event.request.AffectedSOPInstanceUID))
        if status == 0x0000:
            name = f"{time.time_ns():020d}"
            part = self.folder / f".{name}.part"
            part.write_bytes(event.encoded_dataset())
            part.replace(self.folder / f"{name}.dcm")
        response = Dataset()
        response.Status = status
        if comment:
            response.ErrorComment = comment
        return response

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Answer a C-FIND for one instance by its SOP Instance UID."""
        wanted = event.identifier.get("SOPInstanceUID")
        for path in self.received:
            meta = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
            if meta.SOPInstanceUID == wanted:
                match = Dataset()
                match.QueryRetrieveLevel = "IMAGE"
                match.SOPInstanceUID = wanted
                yield 0xFF00, match  # Pending, PS3.4 Table C.4-1


def _send_at_once(event: evt.Event) -> None:
    """Answer without waiting for the peer's acknowledgements."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
