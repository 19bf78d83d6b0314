"""DICOM peers for tests: a receiver on loopback, and SCUs from well-behaved to hostile."""

import os
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Self

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from osteon.config.settings import Settings
from osteon.pipeline.instances.part10 import decode_header
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import Table, open_table
from osteon.scp.lanes import Lanes, lanes_of
from osteon.scp.server import Receiver
from tests.tools import free_port

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT = str(ExplicitVRLittleEndian)
_PDU = struct.Struct(">BxI")
_fast, _processes = [True], [1]


@pytest.fixture(params=["fast", "stock"], autouse=True)
def both_ways(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways of data through the receiver; a module that imports this runs twice."""
    _fast[0] = request.param == "fast"
    yield request.param
    _fast[0] = True


@pytest.fixture(params=["fast", "stock", "lanes"], autouse=True)
def every_way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every way of data through the receiver; a module that imports this runs three times."""
    _fast[0], _processes[0] = request.param != "stock", 2 if request.param == "lanes" else 1
    yield request.param
    _fast[0], _processes[0] = True, 1


def loopback_settings(data_dir: Path, *, disk_reserve_gb: float = 0.0, **scp: object) -> Settings:
    """Settings of a node on a free loopback port."""
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "scp": {
                "host": "127.0.0.1",
                "port": free_port(),
                "fast": _fast[0],
                "processes": _processes[0],
                **scp,
            },
            "pipeline": {"disk_reserve_gb": disk_reserve_gb},
        }
    )


@dataclass
class Node:
    """A receiver that runs, and what it wrote."""

    settings: Settings
    table: Table
    receiver: Receiver
    lanes: Lanes | None = None

    @property
    def port(self) -> int:
        return self.receiver.port

    def files(self) -> list[Path]:
        return sorted((self.settings.data_dir / "spool").rglob("*.dcm"))

    def datasets(self) -> list[bytes]:
        """Every stored data set, without its Part 10 header."""
        return [dataset_of(path) for path in self.files()]


@contextmanager
def running_node(settings: Settings) -> Iterator[Node]:
    """Run a receiver in this process, and lanes where the settings say so."""
    table = open_table(settings.data_dir)
    intake, count = Intake(settings, table), lanes_of(settings)
    held = os.open(settings.data_dir, os.O_RDONLY)
    lanes = Lanes(settings, count, held, prepare_nothing) if count else None
    receiver = Receiver(settings, intake, lanes=lanes)
    receiver.start()
    try:
        yield Node(settings, table, receiver, lanes)
    finally:
        receiver.stop(0.0)
        if lanes is not None:
            lanes.close()
        os.close(held)
        table.close()


def prepare_nothing() -> None:
    """What a lane does first."""


def dataset_of(path: Path) -> bytes:
    """The data set of a Part 10 file, as it stands there."""
    raw = path.read_bytes()
    return raw[decode_header(raw)[1] :]


def ct_slice(number: int = 1, series: str = "1.2.3.4", rows: int = 16) -> Dataset:
    """A small CT instance."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = CT, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{series}.0", series
    ds.Modality, ds.InstanceNumber, ds.PatientID = "CT", number, "P1"
    ds.ImagePositionPatient = [0, 0, float(number)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.Rows = ds.Columns = rows
    ds.BitsAllocated = ds.BitsStored = 16
    ds.PixelData = bytes(2 * rows * rows)
    return ds


def encoded(ds: Dataset) -> bytes:
    """Encode a data set as Explicit VR Little Endian."""
    ds["PixelData"].VR = "OW"
    buffer = BytesIO()
    write_dataset(_little_endian(buffer), ds)
    return buffer.getvalue()


def _little_endian(buffer: BytesIO) -> object:
    file = DicomFileLike(buffer)
    file.is_little_endian, file.is_implicit_VR = True, False
    return file


class RejectedError(Exception):
    """An A-ASSOCIATE-RJ: result, source, reason."""

    def __init__(self, triple: tuple[int, int, int]) -> None:
        super().__init__(triple)
        self.triple = triple


class AbortedError(Exception):
    """The peer sent an A-ABORT or closed the connection."""


class RawPeer:
    """An SCU that writes the bytes it is told to, right or wrong.

    Each pair of abstract and transfer syntax is proposed in a context of its own: 1, 3, 5 …
    """

    def __init__(
        self,
        port: int,
        contexts: Iterable[tuple[str, str]] = ((CT, EXPLICIT),),
        *,
        calling: str = "RAW",
        called: str = "OSTEON",
        timeout_s: float = 10.0,
        tls: ssl.SSLContext | None = None,
        receive_bytes: int | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(timeout_s)
        self.sock.bind((address, 0))
        if receive_bytes is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.sock.connect(("127.0.0.1", port))
        except BaseException:
            self.sock.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock)
            self.sock.sendall(associate_request(contexts, calling, called))
            kind, body = self.receive()
            if kind == 3:
                raise RejectedError((body[1], body[2], body[3]))
            if kind != 2:
                raise AbortedError(f"PDU {kind} {body!r}")
        except BaseException:
            self.sock.close()
            raise
        self.accepted = body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: its type and the rest."""
        kind, length = _PDU.unpack(self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = self.sock.recv(count - len(data))
            if not chunk:
                raise AbortedError("the connection was closed")
            data += chunk
        return data

    def store_pdus(
        self,
        dataset: bytes,
        uid: str,
        *,
        sop_class: str = CT,
        context_id: int = 1,
        step: int = 16000,
    ) -> list[bytes]:
        """The PDUs of one C-STORE-RQ."""
        pdus = [p_data(context_id, 3, store_request(sop_class, uid))]
        for at in range(0, max(len(dataset), 1), step):
            last = 2 if at + step >= len(dataset) else 0
            pdus.append(p_data(context_id, last, dataset[at : at + step]))
        return pdus

    def store(self, dataset: bytes, uid: str, **how: object) -> tuple[int, str]:
        """Send one instance; returns its status and error comment."""
        for pdu in self.store_pdus(dataset, uid, **how):  # type: ignore[arg-type]
            self.sock.sendall(pdu)
        return self.status()

    def status(self) -> tuple[int, str]:
        """Read a C-STORE-RSP."""
        kind, body = self.receive()
        if kind != 4:
            raise AbortedError(f"PDU {kind} {body!r}")
        elements = _elements(body[6:])
        status = struct.unpack("<H", elements[0x0900])[0]
        return status, elements.get(0x0902, b"").decode("ascii").strip()

    def send_ct(self, ds: Dataset) -> tuple[int, str]:
        """Send a CT instance in the first context."""
        return self.store(encoded(ds), str(ds.SOPInstanceUID))

    def release(self) -> None:
        """A-RELEASE, and close."""
        self.sock.sendall(_PDU.pack(5, 4) + b"\0" * 4)
        kind, _ = self.receive()
        assert kind == 6
        self.sock.close()

    def is_closed_by_peer(self, timeout_s: float) -> bool:
        """Whether the peer ends the connection in time, by an A-ABORT or without."""
        self.sock.settimeout(timeout_s)
        deadline = time.monotonic() + timeout_s
        try:
            while time.monotonic() < deadline:
                if not self.sock.recv(4096):
                    return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return False


def associate_request(contexts: Iterable[tuple[str, str]], calling: str, called: str) -> bytes:
    """An A-ASSOCIATE-RQ PDU, PS3.8 9.3.2."""
    body = struct.pack(">HH", 1, 0) + called.ljust(16).encode() + calling.ljust(16).encode()
    body += b"\0" * 32 + item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, (abstract, transfer) in enumerate(contexts):
        head = struct.pack(">BBBB", 2 * number + 1, 0, 0, 0)
        syntaxes = b"".join(item(0x40, s.encode()) for s in transfer.split(",") if s)
        body += item(0x20, head + item(0x30, abstract.encode()) + syntaxes)
    body += item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4"))
    return _PDU.pack(1, len(body)) + body


def item(kind: int, value: bytes) -> bytes:
    """One item of an A-ASSOCIATE PDU."""
    return struct.pack(">BBH", kind, 0, len(value)) + value


def p_data(context_id: int, control: int, fragment: bytes) -> bytes:
    """A P-DATA-TF PDU of one fragment, PS3.8 9.3.5."""
    head = struct.pack(">IBB", len(fragment) + 2, context_id, control)
    return _PDU.pack(4, len(fragment) + 6) + head + fragment


def store_request(sop_class: str, uid: str) -> bytes:
    """The command set of a C-STORE-RQ, PS3.7 9.3.1.1."""
    body = (
        _element(0x0002, sop_class.encode())
        + _element(0x0100, struct.pack("<H", 1))
        + _element(0x0110, struct.pack("<H", 1))
        + _element(0x0700, struct.pack("<H", 0))
        + _element(0x0800, struct.pack("<H", 1))
        + _element(0x1000, uid.encode())
    )
    return _element(0, struct.pack("<I", len(body))) + body


def _element(tag: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, tag, len(value)) + value


def _elements(command: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(command):
        _, tag, length = struct.unpack_from("<HHI", command, at)
        found[tag] = command[at + 8 : at + 8 + length]
        at += 8 + length
    return found
