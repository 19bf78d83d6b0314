"""Send instances by C-STORE as fast as the peer answers, and time only that.

    raw_scu.py HOST PORT CALLED_AE_TITLE FOLDER [--associations N] [--nagle] [--seconds S] …

A folder of Part 10 files enters, one JSON object leaves. All PDUs are encoded before the clock
starts, one thread serves all associations, and each of them is stop-and-wait, as the Standard's
default is (PS3.7 D.3.3.3): the figures are the receiver's. ``receive.py`` calls `send` and `echo`.
"""

import argparse
import collections
import json
import selectors
import socket
import ssl
import statistics
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pdus
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage

CONNECT_S, RECEIVE_BYTES = 10.0, 65536
ECHO = [(pdus.VERIFICATION, pdus.IMPLICIT)]


@dataclass(frozen=True)
class Instance:
    """What a C-STORE-RQ needs of one file."""

    sop_class_uid: str
    transfer_syntax_uid: str
    sop_instance_uid: str
    dataset: bytes

    def renamed(self, old: str, new: str) -> "Instance":
        """The same instance with other UIDs of the same length; only the header is looked at."""
        head = self.dataset[:4096].replace(old.encode(), new.encode())
        uid = self.sop_instance_uid.replace(old, new)
        return replace(self, sop_instance_uid=uid, dataset=head + self.dataset[4096:])


@dataclass
class Report:
    """What one run came to."""

    associations: int
    seconds: float = 0.0
    sent_bytes: int = 0
    acks_s: list[float] = field(default_factory=list)
    statuses: collections.Counter[str] = field(default_factory=collections.Counter)

    def figures(self) -> dict[str, object]:
        """Rates and quantiles, for JSON."""
        acks_ms = sorted(1000 * ack_s for ack_s in self.acks_s)
        return {
            "associations": self.associations,
            "instances": len(acks_ms),
            "seconds": round(self.seconds, 4),
            "instances_per_s": round(len(acks_ms) / self.seconds, 3),
            "mb_per_s": round(self.sent_bytes / self.seconds / 1e6, 3),
            "ack_ms_p50": round(statistics.median(acks_ms), 3),
            "ack_ms_p99": round(acks_ms[int(0.99 * (len(acks_ms) - 1) + 0.5)], 3),
            "statuses": dict(self.statuses),
        }


def load(folder: Path) -> list[Instance]:
    """Read every Part 10 file under a folder."""
    instances = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        if raw[128:132] != b"DICM":
            continue
        meta = read_file_meta_info(path)
        if meta.MediaStorageSOPClassUID == MediaStorageDirectoryStorage:
            continue
        start = 144 + struct.unpack_from("<I", raw, 140)[0]
        sop_class_uid = str(meta.MediaStorageSOPClassUID)
        names = (sop_class_uid, str(meta.TransferSyntaxUID), str(meta.MediaStorageSOPInstanceUID))
        instances.append(Instance(*names, raw[start:]))
    return instances


class Association:
    """One open association, its messages, and when the last of them was sent.

    It is released as soon as it has nothing more to send: others may wait for its place.
    """

    def __init__(
        self,
        address: tuple[str, int],
        called: str,
        contexts: Sequence[tuple[str, str]],
        nagle: bool,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.sock = socket.create_connection(address, timeout=CONNECT_S)
        self.contexts = {context: 2 * at + 1 for at, context in enumerate(contexts)}
        self.messages: Iterator[bytes] = iter(())
        self.unsent = memoryview(b"")
        self.sent_at = 0.0
        self._received = bytearray()
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not nagle)
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock)
            self.sock.sendall(pdus.associate_request(called, self.contexts))
            self.pdu_bytes_max = pdus.accepted_pdu_bytes(*self.receive(), self.contexts)
        except BaseException:
            self.sock.close()
            raise

    def encode(self, instances: Iterable[Instance]) -> None:
        """Turn instances into the bytes that will be sent."""
        self.messages = iter([self._message(*named) for named in enumerate(instances, 1)])

    def next_message(self) -> bool:
        """Start the next message; False where there is none."""
        message = next(self.messages, b"")
        self.unsent, self.sent_at = memoryview(message), time.perf_counter()
        return bool(message)

    def send_some(self) -> bool:
        """Send what the socket takes now; True when the message is out."""
        try:
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            return False
        return True

    def receive_some(self) -> tuple[int, bytes] | None:
        """Read what is there; the PDU where it is whole."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except ssl.SSLWantReadError:  # It was a matter of TLS alone.
            return None
        if not data:
            raise ConnectionError("the peer closed the connection")
        self._received += data
        return self._whole_pdu()

    def receive(self) -> tuple[int, bytes]:
        """Wait for one PDU."""
        pdu = None
        while pdu is None:
            pdu = self.receive_some()
        return pdu

    def ask_release(self) -> None:
        """Send an A-RELEASE-RQ."""
        self.sock.sendall(pdus.RELEASE)

    def release(self) -> None:
        """Release it, and wait for the answer."""
        self.ask_release()
        while self.receive()[0] != pdus.A_RELEASE_RP:
            pass
        self.sock.close()

    def _whole_pdu(self) -> tuple[int, bytes] | None:
        if len(self._received) < pdus.PDU.size:
            return None
        kind, length = pdus.PDU.unpack_from(self._received)
        if len(self._received) < pdus.PDU.size + length:
            return None
        body = bytes(self._received[pdus.PDU.size : pdus.PDU.size + length])
        del self._received[: pdus.PDU.size + length]
        return kind, body

    def _message(self, number: int, instance: Instance) -> bytes:
        context_id = self.contexts[instance.sop_class_uid, instance.transfer_syntax_uid]
        uids = instance.sop_class_uid, instance.sop_instance_uid
        command = pdus.store_request(context_id, number, *uids)
        return b"".join([command, *pdus.data_set(context_id, instance.dataset, self.pdu_bytes_max)])


@contextmanager
def associated(
    address: tuple[str, int],
    called: str,
    contexts: Sequence[tuple[str, str]],
    *,
    count: int = 1,
    nagle: bool = False,
    tls: ssl.SSLContext | None = None,
) -> Iterator[list[Association]]:
    """Open associations; they are released at the end, or cut where something went wrong."""
    opened: list[Association] = []
    try:
        for _ in range(count):
            assoc = Association(address, called, contexts, nagle, tls)
            opened.append(assoc)
        yield opened
        for assoc in opened:
            if assoc.sock.fileno() >= 0:
                assoc.release()
    finally:
        for assoc in opened:
            assoc.sock.close()


def send(
    address: tuple[str, int],
    called: str,
    instances: Sequence[Instance],
    *,
    associations: int = 1,
    nagle: bool = False,
    tls: ssl.SSLContext | None = None,
    seconds: float = float("inf"),
    deadline_s: float = 120.0,
) -> Report:
    """Send instances over so many associations, each its share.

    Parameters
    ----------
    tls : ssl.SSLContext, optional
        Of a client with a certificate.
    seconds : float
        After this long no further message is started.
    deadline_s : float
        After this long the run has failed.

    Raises
    ------
    OSError
        The peer refused, aborted, closed a connection or did not answer in time.
    """
    contexts = sorted({(i.sop_class_uid, i.transfer_syntax_uid) for i in instances})
    report = Report(associations)
    with associated(address, called, contexts, count=associations, nagle=nagle, tls=tls) as opened:
        for at, assoc in enumerate(opened):
            assoc.encode(instances[at::associations])
            assoc.sock.setblocking(False)
        _Loop(report, seconds).run(opened, deadline_s)
    return report


def echo(assoc: Association, count: int, seconds: float) -> list[float]:
    """Send C-ECHO-RQs one after the other on an open association; how long each took, in s."""
    context_id = assoc.contexts[ECHO[0]]
    took_s: list[float] = []
    started = time.perf_counter()
    for number in range(1, count + 1):
        message = pdus.echo_request(context_id, number)
        sent_at = time.perf_counter()
        assoc.sock.sendall(message)
        pdus.status(assoc.receive())
        took_s.append(time.perf_counter() - sent_at)
        if time.perf_counter() - started > seconds:
            break
    return took_s


class _Loop:
    """Serves all associations until each has sent its messages and is released."""

    def __init__(self, report: Report, seconds: float) -> None:
        self._report = report
        self._seconds = seconds
        self._selector = selectors.DefaultSelector()
        self._started = self._last = 0.0

    def run(self, opened: Sequence[Association], deadline_s: float) -> None:
        with self._selector:
            self._started = self._last = time.perf_counter()
            for assoc in opened:
                self._selector.register(assoc.sock, selectors.EVENT_READ, assoc)
                self._go_on(assoc)
            while self._selector.get_map():
                left_s = self._started + deadline_s - time.perf_counter()
                ready = self._selector.select(left_s) if left_s > 0 else []
                if not ready:
                    raise TimeoutError(f"{len(self._report.acks_s)} answers in {deadline_s:g} s")
                for key, events in ready:
                    self._serve(key.data, events)
        self._report.seconds = self._last - self._started

    def _serve(self, assoc: Association, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            if assoc.send_some():
                self._selector.modify(assoc.sock, selectors.EVENT_READ, assoc)
            return
        pdu = assoc.receive_some()
        if pdu is None:
            return
        if pdu[0] == pdus.A_RELEASE_RP:
            self._selector.unregister(assoc.sock)
            assoc.sock.close()
            return
        self._last = time.perf_counter()
        self._report.acks_s.append(self._last - assoc.sent_at)
        self._report.statuses[f"{pdus.status(pdu):#06x}"] += 1
        self._go_on(assoc)

    def _go_on(self, assoc: Association) -> None:
        """Start the next message, where there is one and time is left."""
        if time.perf_counter() - self._started >= self._seconds or not assoc.next_message():
            assoc.ask_release()
            return
        self._report.sent_bytes += len(assoc.unsent)
        if not assoc.send_some():
            self._selector.modify(assoc.sock, selectors.EVENT_WRITE, assoc)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("called_ae_title")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--associations", type=int, default=1)
    parser.add_argument("--nagle", action="store_true", help="as modalities send by default")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no more then")
    parser.add_argument("--deadline", type=float, default=120.0, help="the run has failed then")
    args = parser.parse_args()
    report = send(
        (args.host, args.port),
        args.called_ae_title,
        load(args.folder),
        associations=args.associations,
        nagle=args.nagle,
        seconds=args.seconds,
        deadline_s=args.deadline,
    )
    print(json.dumps(report.figures()))


if __name__ == "__main__":
    main()
