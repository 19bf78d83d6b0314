"""Storage commitment as SCU: destinations report at once, anew, late, a failure, or never."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import SegmentationStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association

from osteon.config.settings import DestinationSettings, Settings
from osteon.errors import DeliveryError, NotFoundError
from osteon.pipeline import proof
from osteon.pipeline.delivery import peer_of
from osteon.pipeline.proof import COMMITTED, Prover, record
from osteon.pipeline.table import proofs
from osteon.pipeline.table.connection import Table, open_table
from osteon.results.commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Reference,
    Report,
    decode_request,
    encode_report,
)
from osteon.results.pacs import StandInPacs
from osteon.results.scu import store
from tests.dicom_peer import CT, Node, RawPeer, RejectedError, loopback_settings
from tests.integration.test_commitment import committing_node
from tests.integration.test_results_scu import write_instance
from tests.tools import free_port, wait_until

INSTANCE = Reference(SegmentationStorage, "1.2.3.1")


class Archive:
    """A destination that takes requests of storage commitment and does with them what it is told.

    Parameters
    ----------
    status : int
        Its answer to a request.
    on_asked : callable
        Called with the association, the transaction and the instances after the answer.
    """

    def __init__(self, on_asked, status: int = 0x0000) -> None:
        self.asked: list[str] = []
        self._on_asked = on_asked
        self._status = status
        self._ae = AE("PACS")
        self._ae.add_supported_context(PUSH_MODEL)

    def __enter__(self) -> "Archive":
        handlers = [(evt.EVT_N_ACTION, self._take)]
        self._server = self._ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _take(self, event: evt.Event) -> tuple[int, None]:
        raw = event.request.ActionInformation.getvalue()
        transaction_uid, references = decode_request(raw, event.context.transfer_syntax)
        self.asked.append(transaction_uid)
        threading.Thread(
            target=self._on_asked, args=(event.assoc, transaction_uid, references)
        ).start()
        return self._status, None


def say(assoc: Association, report: Report) -> int:
    answer, _ = assoc.send_n_event_report(
        encode_report(report), report.event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE
    )
    return int(answer.Status)


def keep(assoc, transaction_uid, references) -> None:
    say(assoc, Report(transaction_uid, references))


def fail(assoc, transaction_uid, references) -> None:
    say(assoc, Report(transaction_uid, (), tuple((one, 0x0110) for one in references)))


def nothing(*_: object) -> None:
    pass


def report_to(node: Node, report: Report, *, calling: str = "PACS") -> int:
    """Report on a new association, as SCP."""
    ae = AE(calling)
    ae.add_requested_context(PUSH_MODEL)
    role = build_role(PUSH_MODEL, scp_role=True)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="OSTEON", ext_neg=[role])
    assert assoc.is_established
    assert [cx.as_scp for cx in assoc.accepted_contexts] == [True]
    try:
        return say(assoc, report)
    finally:
        assoc.release()


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    opened = open_table(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = write_instance(tmp_path)
    ds = dcmread(written)
    ds.SeriesInstanceUID = "1.2.3.0"
    ds.save_as(written)
    return written


def destination(port: int, how: str) -> DestinationSettings:
    return DestinationSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, proof=how)


def prove(table: Table, to: DestinationSettings, path: Path) -> str:
    return Prover(table).prove(to, peer_of(to, "OSTEON"), path)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "SAME_ASSOCIATION_S", 0.1)
    waits = dict.fromkeys(proof.REPORT_WAIT_S, 0.3)
    monkeypatch.setattr(proof, "REPORT_WAIT_S", waits)


@pytest.mark.parametrize("how", ["auto", "commitment"])
def test_a_report_on_the_same_association_is_proof(table: Table, path: Path, how: str) -> None:
    with Archive(keep) as archive:
        assert prove(table, destination(archive.port, how), path) == COMMITTED


@pytest.mark.parametrize("how", ["auto", "commitment"])
def test_what_is_not_kept_is_tried_again(table: Table, path: Path, how: str) -> None:
    with Archive(fail) as archive, pytest.raises(DeliveryError, match="reason 0x0110") as error:
        prove(table, destination(archive.port, how), path)
    assert error.value.retryable


def test_a_report_on_a_new_association_is_proof(table: Table, path: Path) -> None:
    with Archive(nothing) as archive:
        to = destination(archive.port, "commitment")
        settings = node_of(table, to)
        said: list[str] = []
        asking = threading.Thread(target=lambda: said.append(prove(table, to, path)))
        with committing_node(settings) as node:
            asking.start()
            wait_until(lambda: archive.asked)
            assert report_to(node, Report(archive.asked[0], (INSTANCE,))) == 0x0000
            asking.join(10)
    assert said == [COMMITTED]


def node_of(table: Table, *destinations: DestinationSettings) -> Settings:
    settings = loopback_settings(table.data_dir)
    return settings.model_copy(update={"destination": list(destinations)})


@pytest.mark.usefixtures("short_waits")
def test_a_report_that_comes_late_is_known_at_the_next_attempt(table: Table, path: Path) -> None:
    with Archive(nothing) as archive:
        to = destination(archive.port, "commitment")
        with pytest.raises(DeliveryError, match="did not report storage commitment"):
            prove(table, to, path)
        delivery = {"sop_instance_uid": "1.2.3.1", "created": table.clock() - 60}
        assert Prover(table).known(to, delivery) is None
        with committing_node(node_of(table, to)) as node:
            report_to(node, Report(archive.asked[0], (INSTANCE,)))
    assert Prover(table).known(to, delivery) == COMMITTED
    later = delivery | {"created": table.clock() + 60}
    assert Prover(table).known(to, later) is None


@pytest.mark.usefixtures("short_waits")
def test_auto_asks_by_find_who_does_not_report_and_asks_no_more(table: Table, path: Path) -> None:
    with Archive(nothing) as archive:
        to = destination(archive.port, "auto")
        prover = Prover(table)
        for _ in range(2):
            said = prover.prove(to, peer_of(to, "OSTEON"), path)
            assert said == "stored; the destination answers no query that would prove it"
        assert len(archive.asked) == 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("auto", "stored, and found there by C-FIND"),
        ("find", "stored, and found there by C-FIND"),
        ("none", "stored"),
    ],
)
def test_without_commitment_it_is_found(
    table: Table, path: Path, tmp_path: Path, how: str, said: str
) -> None:
    with StandInPacs(tmp_path / "pacs") as pacs:
        to = destination(pacs.port, how)
        store(peer_of(to, "OSTEON"), [path])
        assert prove(table, to, path) == said


def test_commitment_that_is_required_and_not_given_is_refused(
    table: Table, path: Path, tmp_path: Path
) -> None:
    with (
        StandInPacs(tmp_path / "pacs") as pacs,
        pytest.raises(DeliveryError, match="does not take Storage Commitment"),
    ):
        prove(table, destination(pacs.port, "commitment"), path)
    with (
        Archive(nothing, status=0x0213) as archive,
        pytest.raises(DeliveryError, match="gave 0x0213"),
    ):
        prove(table, destination(archive.port, "commitment"), path)


def test_a_destination_that_is_no_source_may_report_and_do_nothing_else(table: Table) -> None:
    to = destination(free_port(), "auto")
    settings = node_of(table, to).model_copy(
        update={"source": Settings(source=[{"ae_title": "CT1"}]).source}
    )
    proofs.ask(table, "2.25.1", "pacs", "1.2.3.1")
    with committing_node(settings) as node:
        assert report_to(node, Report("2.25.9", (INSTANCE,))) == 0x0115
        assert report_to(node, Report("2.25.1", (INSTANCE,))) == 0x0000
        with RawPeer(node.port, calling="PACS") as peer:
            assert b"\x21\0\0" in peer.accepted
            assert _result(peer.accepted) == 3  # abstract syntax not supported, PS3.8 9.3.3.2
        with pytest.raises(RejectedError):
            RawPeer(node.port, [(CT, "1.2.840.10008.1.2")], calling="OTHER")
    assert proofs.heard(table, "2.25.1") is not None


def _result(accept: bytes) -> int:
    """The result of the first presentation context in an A-ASSOCIATE-AC."""
    return accept[accept.index(b"\x21\0") + 6]


def test_a_destination_that_is_asked_by_find_alone_may_not_report(table: Table) -> None:
    to = destination(free_port(), "find")
    with committing_node(node_of(table, to)) as node:
        ae = AE("PACS")
        ae.add_requested_context(PUSH_MODEL)
        role = build_role(PUSH_MODEL, scp_role=True)
        assoc = ae.associate("127.0.0.1", node.port, ae_title="OSTEON", ext_neg=[role])
        assert not assoc.is_established


def test_what_was_reported_first_stays(table: Table) -> None:
    proofs.ask(table, "2.25.1", "pacs", "1.2.3.1")
    record(table, Report("2.25.1", (Reference("1.2", "1.2.9"),)))
    assert proofs.heard(table, "2.25.1") is None
    record(table, Report("2.25.1", (), ((INSTANCE, 0x0112),)))
    record(table, Report("2.25.1", (INSTANCE,)))
    row = proofs.heard(table, "2.25.1")
    assert row is not None
    assert row["failure_reason"] == 0x0112
    with pytest.raises(NotFoundError):
        record(table, Report("2.25.2", (INSTANCE,)))
