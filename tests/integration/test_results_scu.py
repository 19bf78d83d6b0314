"""The way out over real associations: what arrives, what is refused, what is tried again."""

import contextlib
import errno
import gc
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SegmentationStorage,
)
from pynetdicom.association import Association
from pynetdicom.presentation import AllStoragePresentationContexts

from osteon.config.settings import TlsSettings
from osteon.errors import DeliveryError, DeliveryRefusedError
from osteon.results import peer, scu
from osteon.results.pacs import StandInPacs
from osteon.results.peer import Destination
from osteon.results.scu import StoreOutcome, echo, find_instance, store
from tests.tools import free_port, require_tool, wait_until

# pynetdicom 3.0.4 drops the socket of a refused connection without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning:pynetdicom.transport")


def write_instance(
    folder: Path,
    number: int = 1,
    sop_class: str = SegmentationStorage,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> Path:
    """A small instance; its content does not matter to the SCU."""
    ds = Dataset()
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = f"1.2.3.{number}"
    ds.PatientName = "Müller^Ärztin"
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.StudyInstanceUID = "1.2.3"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = transfer_syntax
    path = folder / f"{number}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StandInPacs]:
    with StandInPacs(tmp_path / "pacs") as running:
        yield running


@pytest.fixture(scope="module")
def fussy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInPacs]:
    """A PACS that answers each instance with the status at the end of its UID."""

    def respond(sop_instance_uid: str) -> tuple[int, str]:
        return int(sop_instance_uid.rsplit(".", 1)[1]), "because of this"

    with StandInPacs(tmp_path_factory.mktemp("fussy"), respond=respond) as running:
        yield running


def at(pacs: StandInPacs) -> Destination:
    return Destination("PACS", "127.0.0.1", pacs.port)


def data_set_bytes(path: Path) -> bytes:
    """The data set behind preamble, prefix and File Meta Information."""
    content = path.read_bytes()
    length = 12 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    return content[132 + length :]


def test_echo_measures_the_round_trip(pacs: StandInPacs) -> None:
    assert 0 < echo(at(pacs)) < 5


def test_instances_arrive_with_their_bytes_unchanged(pacs: StandInPacs, tmp_path: Path) -> None:
    paths = [write_instance(tmp_path, number) for number in (1, 2, 3)]
    seen: list[StoreOutcome] = []
    outcomes = store(at(pacs), paths, seen.append)
    assert outcomes == seen
    assert [outcome.sop_instance_uid for outcome in outcomes] == ["1.2.3.1", "1.2.3.2", "1.2.3.3"]
    assert {outcome.status for outcome in outcomes} == {0x0000}
    assert [data_set_bytes(path) for path in pacs.received] == [data_set_bytes(p) for p in paths]


def test_a_compressed_instance_keeps_its_transfer_syntax(pacs: StandInPacs, tmp_path: Path) -> None:
    store(at(pacs), [write_instance(tmp_path, 1, CTImageStorage, JPEG2000Lossless)])
    received = pydicom.dcmread(pacs.received[0])
    assert received.file_meta.TransferSyntaxUID == JPEG2000Lossless


def test_a_peer_without_explicit_vr_gets_implicit_vr(tmp_path: Path) -> None:
    path = write_instance(tmp_path)
    with StandInPacs(tmp_path / "pacs", transfer_syntaxes=[ImplicitVRLittleEndian]) as pacs:
        store(at(pacs), [path])
        received = pydicom.dcmread(pacs.received[0])
    assert received.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert received.PatientName == "Müller^Ärztin"


def test_a_transfer_syntax_that_the_peer_does_not_take_is_refused(tmp_path: Path) -> None:
    path = write_instance(tmp_path, 1, CTImageStorage, JPEG2000Lossless)
    plain = write_instance(tmp_path, 2, CTImageStorage)
    with StandInPacs(tmp_path / "pacs", transfer_syntaxes=[ExplicitVRLittleEndian]) as pacs:
        with pytest.raises(DeliveryRefusedError, match="does not take CT Image Storage"):
            store(at(pacs), [path])
        with pytest.raises(DeliveryRefusedError, match="JPEG 2000"):
            store(at(pacs), [plain, path])
        assert len(pacs.received) == 1


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB007, 0x0111])
def test_success_warning_and_duplicate_are_deliveries(
    fussy: StandInPacs, tmp_path: Path, status: int
) -> None:
    (outcome,) = store(at(fussy), [write_instance(tmp_path, status)])
    assert outcome.status == status
    assert outcome.comment == "because of this"


@pytest.mark.parametrize("status", [0xA700, 0xA7FF, 0x0110, 0x0213])
def test_a_status_that_may_pass_is_tried_again(
    fussy: StandInPacs, tmp_path: Path, status: int
) -> None:
    before = fussy.received
    with pytest.raises(DeliveryError, match=f"0x{status:04X}.*because of this") as raised:
        store(at(fussy), [write_instance(tmp_path, status)])
    assert fussy.received == before
    assert raised.value.retryable


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0122, 0x0117])
def test_a_final_status_is_refused_with_its_name_and_comment(
    fussy: StandInPacs, tmp_path: Path, status: int
) -> None:
    said = f"0x{status:04X} Failure: [A-Z].*because of this"
    with pytest.raises(DeliveryRefusedError, match=said) as raised:
        store(at(fussy), [write_instance(tmp_path, status)])
    assert not raised.value.retryable


def test_nobody_listens(tmp_path: Path) -> None:
    nobody = Destination("PACS", "127.0.0.1", free_port())
    with pytest.raises(DeliveryError, match="cannot be reached") as raised:
        echo(nobody)
    assert raised.value.retryable
    with pytest.raises(DeliveryError, match="cannot be reached"):
        store(nobody, [write_instance(tmp_path)])


def test_a_host_name_that_does_not_resolve() -> None:
    with pytest.raises(DeliveryError, match="cannot be reached"):
        echo(Destination("PACS", "no-such-host.invalid", 104))


def test_an_unknown_ae_title_is_tried_again_until_the_peer_knows_it(pacs: StandInPacs) -> None:
    with pytest.raises(DeliveryError, match="Called AE title not recognised") as raised:
        echo(Destination("OTHER", "127.0.0.1", pacs.port))
    assert raised.value.retryable


def test_too_many_associations_are_tried_again(tmp_path: Path) -> None:
    busy, free = threading.Event(), threading.Event()

    def block(_: str) -> tuple[int, str]:
        busy.set()
        free.wait(20)
        return 0x0000, ""

    path = write_instance(tmp_path)
    with StandInPacs(tmp_path / "pacs", respond=block, associations_max=1) as pacs:
        first = threading.Thread(target=store, args=(at(pacs), [path]))
        first.start()
        assert busy.wait(10)
        with pytest.raises(DeliveryError, match="Rejected Transient") as raised:
            echo(at(pacs))
        free.set()
        first.join(10)
        assert len(pacs.received) == 1
    assert raised.value.retryable


def test_a_peer_that_does_not_answer_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    free = threading.Event()

    def block(_: str) -> tuple[int, str]:
        free.wait(20)
        return 0x0000, ""

    path = write_instance(tmp_path)
    with StandInPacs(tmp_path / "pacs", respond=block) as pacs:
        start = time.monotonic()
        with pytest.raises(DeliveryError, match="gave no answer") as raised:
            store(at(pacs), [path], store_s=0.5)
        assert time.monotonic() - start < 5
        free.set()
    assert raised.value.retryable


def test_a_peer_that_accepts_the_connection_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer, "ASSOCIATE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(DeliveryError, match=r"no answer within 0\.5 s"):
            echo(Destination("PACS", "127.0.0.1", silent.getsockname()[1]))
        assert time.monotonic() - start < 5


def test_more_kinds_than_one_association_has_contexts_for(
    pacs: StandInPacs, tmp_path: Path
) -> None:
    # Each of these needs three presentation contexts.
    classes = [context.abstract_syntax for context in AllStoragePresentationContexts[:60]]
    paths = [
        write_instance(tmp_path, number, str(sop_class), DeflatedExplicitVRLittleEndian)
        for number, sop_class in enumerate(classes, 1)
    ]
    paths += [
        write_instance(tmp_path, number, str(sop_class))
        for number, sop_class in enumerate(classes, 100)
    ]
    assert len(store(at(pacs), paths)) == 120
    assert len(pacs.received) == 120


def test_find_tells_what_the_peer_holds(pacs: StandInPacs, tmp_path: Path) -> None:
    store(at(pacs), [write_instance(tmp_path)])
    assert find_instance(at(pacs), "1.2.3.1") is True
    assert find_instance(at(pacs), "1.2.3.2") is False


@contextlib.contextmanager
def storescp(folder: Path, *options: str) -> Iterator[Destination]:
    """DCMTK's storescp, which writes into the folder."""
    program, port = require_tool("/usr/bin/storescp"), free_port()
    folder.mkdir()
    process = subprocess.Popen([program, "-od", str(folder), "+uf", *options, str(port)])
    try:
        wait_until(lambda: listens(port), 10)
        yield Destination("PACS", "127.0.0.1", port)
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_foreign_peer_takes_the_same_bytes(tmp_path: Path) -> None:
    path = write_instance(tmp_path)
    with storescp(tmp_path / "dcmtk") as destination:
        store(destination, [path])
        (received,) = wait_until(lambda: list((tmp_path / "dcmtk").iterdir()))
    assert pydicom.dcmread(received) == pydicom.dcmread(path)


@pytest.mark.parametrize("when", ["--abort-during", "--abort-after"])
def test_a_peer_that_aborts_is_tried_again(tmp_path: Path, when: str) -> None:
    path = write_instance(tmp_path)
    with storescp(tmp_path / "dcmtk", when) as destination:
        with pytest.raises(DeliveryError, match="gave no answer") as raised:
            store(destination, [path])
        assert raised.value.retryable


def test_a_peer_that_aborts_as_soon_as_it_has_accepted_is_not_asked(
    pacs: StandInPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def aborted(*arguments: Any, **keywords: Any) -> Iterator[Association]:
        with peer.associate(*arguments, **keywords) as assoc:
            assoc.abort()
            yield assoc

    monkeypatch.setattr(scu, "associate", aborted)
    with pytest.raises(DeliveryError, match="was not asked") as raised:
        echo(at(pacs))
    assert raised.value.retryable
    with pytest.raises(DeliveryError, match="was not asked"):
        find_instance(at(pacs), "1.2.3.1")


@pytest.mark.parametrize(
    ("number", "retryable"), [(errno.EMFILE, True), (errno.EIO, True), (errno.EACCES, False)]
)
def test_a_file_that_cannot_be_read_now_is_tried_again(
    number: int, retryable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(scu, "read_file_meta_info", fails)
    with pytest.raises(DeliveryError, match=os.strerror(number)) as raised:
        store(Destination("PACS", "127.0.0.1", free_port()), [tmp_path / "1.dcm"])
    assert raised.value.retryable is retryable


def test_a_peer_that_stops_reading_is_given_up(tmp_path: Path) -> None:
    path = write_instance(tmp_path)
    ds = pydicom.dcmread(path)
    ds.EncapsulatedDocument = bytes(16 * 2**20)  # more than the sockets of both sides hold
    ds.save_as(path)
    with storescp(tmp_path / "dcmtk", "--sleep-during", "3") as destination:
        start = time.monotonic()
        with pytest.raises(DeliveryError, match="gave no answer"):
            store(destination, [path], store_s=0.5)
        assert time.monotonic() - start < 10


def test_find_is_unknown_where_the_peer_does_not_answer_queries(tmp_path: Path) -> None:
    with storescp(tmp_path / "dcmtk") as destination:
        assert find_instance(destination, "1.2.3.1") is None


def certify(folder: Path, name: str, issuer: str | None) -> None:
    """Make a key and a certificate for loopback, signed by the issuer or by itself."""
    openssl = require_tool("openssl")
    signed_by = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key"] if issuer else []
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", *signed_by]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
    address = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", *options, *files, *address]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # as above, but within a cycle
def test_mutual_tls(tmp_path: Path) -> None:
    certify(tmp_path, "ca", None)
    for name in ("pacs", "osteon"):
        certify(tmp_path, name, "ca")
    certify(tmp_path, "stranger", None)
    key, certificate, ca = (str(tmp_path / name) for name in ("pacs.key", "pacs.pem", "ca.pem"))
    tls = ("+tls", key, certificate, "+cf", ca)
    path = write_instance(tmp_path)
    with storescp(tmp_path / "dcmtk", *tls) as plain:
        ours = TlsSettings(
            certificate=tmp_path / "osteon.pem", key=tmp_path / "osteon.key", ca=tmp_path / "ca.pem"
        )
        store(replace(plain, tls=ours), [path])
        assert wait_until(lambda: list((tmp_path / "dcmtk").iterdir()))
        with pytest.raises(DeliveryError, match="cannot be reached"):
            echo(plain)
        with pytest.raises(DeliveryError, match="cannot be reached"):
            echo(replace(plain, tls=ours.model_copy(update={"ca": tmp_path / "stranger.pem"})))
    gc.collect()
