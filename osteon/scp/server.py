"""The receiver: a Storage SCP and Verification SCP that can be started and stopped.

Settings and an intake enter; a listening port, and through it durable instances, leave. The role
starts it and stops it.
"""

import errno
import logging
import threading

from pydicom import config as pydicom_config
from pynetdicom import _config
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification

from osteon.config.settings import Settings
from osteon.errors import UnavailableError
from osteon.pipeline.intake import Intake
from osteon.results.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from osteon.scp.acceptor import Acceptor
from osteon.scp.commitment import CommitmentScp, install
from osteon.scp.lanes import Lanes
from osteon.scp.listener import AssociationRequest, Listener
from osteon.scp.tls import server_context

POLL_S = 5.0  # A net: connections, and the end, wake the listener at once.
ABORT_S = 2.0  # How long the peers of a stopping node get to take their A-ABORT.
_UNCOUNTED = 1_000_000  # pynetdicom counts as open what is being turned away; the acceptor counts.
_CURES = {
    errno.EADDRINUSE: "; stop what listens there, or choose another scp.port",
    errno.EACCES: "; ports below 1024 need root or CAP_NET_BIND_SERVICE, as the unit has it",
    errno.EADDRNOTAVAIL: "; no interface of this host has this address",
}


class Receiver:
    """The DICOM side of the ``receive`` role.

    Parameters
    ----------
    settings : Settings
        Where to listen, who may call, and all limits.
    intake : Intake
        Makes instances durable.
    commitment : CommitmentScp, optional
        Storage commitment, where it is given or asked for; it starts and stops with the receiver.
    lanes : Lanes, optional
        Other processes that take the data of associations.

    Raises
    ------
    ConfigError
        A file of ``scp.tls`` cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        intake: Intake,
        commitment: CommitmentScp | None = None,
        lanes: Lanes | None = None,
    ) -> None:
        _configure_libraries()
        scp = settings.scp
        self._scp = scp
        self._tls = None if scp.tls is None else server_context(scp.tls)
        self._ae = ApplicationEntity(scp.ae_title)
        self._ae.maximum_pdu_size = scp.pdu_bytes
        self._ae.maximum_associations = _UNCOUNTED
        self._ae.acse_timeout = scp.acse_timeout_s
        self._ae.network_timeout = self._ae.dimse_timeout = scp.idle_timeout_s
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._commitment = commitment
        self._acceptor = Acceptor(settings, intake, self._ae, commitment, lanes)
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return self._scp.port

    @property
    def is_listening(self) -> bool:
        """Whether connections are accepted, and reports of storage commitment sent."""
        reports = self._commitment is None or self._commitment.is_alive
        return self._thread is not None and self._thread.is_alive() and reports

    def start(self) -> None:
        """Listen, and serve in threads of its own.

        Raises
        ------
        ConfigError
            The address cannot be listened on.
        """
        address = (self._scp.host, self._scp.port)
        try:
            self._listener = self._ae.make_server(
                address,
                contexts=[build_context(Verification)],
                server_class=Listener,
                request_handler=AssociationRequest,
                serve=self._acceptor.serve,
                request_timeout_s=self._scp.acse_timeout_s,
                tls=self._tls,
            )
        except OSError as error:
            raise UnavailableError(
                f"scp.host, scp.port: cannot listen on {address[0]} port {address[1]}:"
                f" {error.strerror}{_CURES.get(error.errno or 0, '')}"
            ) from error
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(POLL_S,), name="listener", daemon=True
        )
        self._thread.start()
        if self._commitment is not None:
            self._commitment.start()

    def stop(self, timeout_s: float) -> None:
        """Turn new peers away, let open associations end, abort what is left.

        Parameters
        ----------
        timeout_s : float
            How long open associations may go on. Aborting them takes a few seconds more at most.
        """
        if self._commitment is not None:
            self._commitment.stop(ABORT_S)
        self._acceptor.refuse_new()
        if self._listener is not None:
            self._listener.shutdown()
        try:
            self._empty(timeout_s)
        finally:
            self._acceptor.record_rejections()

    def _empty(self, timeout_s: float) -> None:
        if self._acceptor.wait_until_empty(timeout_s):
            return
        self._acceptor.abort_all()
        if not self._acceptor.wait_until_empty(ABORT_S):
            self._acceptor.cut_all()  # They do not read, or are in the middle of a PDU.
            self._acceptor.wait_until_empty(ABORT_S)


def _configure_libraries() -> None:
    """Set, here and nowhere else, what pynetdicom and pydicom keep for the whole process."""
    # The handlers that would log every message and PDU at length; 10 % of a small instance's time.
    _config.LOG_HANDLER_LEVEL = "none"
    install()
    # An invalid UID shall reach the C-STORE handler, which answers 0x0117, instead of an A-ABORT.
    _config.VALIDATORS["UI"] = lambda _: (True, "")
    # pydicom would warn of each such value; what matters is checked, and answered by a status.
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    # Tracebacks for each peer that hangs up; the acceptor says in one line how it ended.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    # An exception in a handler of ours is a fault of ours, and pynetdicom swallows it here.
    logging.getLogger("pynetdicom.events").setLevel(logging.ERROR)
