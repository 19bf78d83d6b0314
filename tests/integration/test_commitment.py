"""Storage commitment as SCP: real requesters ask, stay or leave, and hear what is on the disk."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION
from structlog.testing import capture_logs

from osteon.config.settings import Settings, SourceSettings
from osteon.pipeline import commitment as promises
from osteon.pipeline.intake import Intake
from osteon.pipeline.table.connection import Table, open_table
from osteon.results.commitment import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    REFERENCES_MAX,
    Reference,
    Report,
    decode_report,
    encode_request,
)
from osteon.scp import commitment
from osteon.scp.commitment import CommitmentScp
from osteon.scp.server import Receiver
from tests.dicom_peer import CT, Node, ct_slice, loopback_settings
from tests.tools import free_port, wait_until

MR = "1.2.840.10008.5.1.4.1.1.4"
SUCCESS = 0x0000


@pytest.fixture(autouse=True)
def short_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A requester that stays is known to after a tenth of a second."""
    monkeypatch.setattr(commitment, "STAYS_S", 0.1)


def settings_for(data_dir: Path, *, port: int | None = None, **delivery: float) -> Settings:
    """Settings of a node that gives storage commitment to one requester on loopback."""
    settings = loopback_settings(data_dir, commitment=True)
    limits = {"retry_first_s": 0.05, "retry_max_s": 0.2, **delivery}
    return settings.model_copy(
        update={
            "source": [SourceSettings(ae_title="CT1", address="127.0.0.1", port=port)],
            "delivery": settings.delivery.model_copy(update=limits),
        }
    )


@contextmanager
def committing_node(settings: Settings) -> Iterator[Node]:
    """Run a receiver with storage commitment in this process."""
    table, commitments = open_table(settings.data_dir), open_table(settings.data_dir)
    intake = Intake(settings, table)
    receiver = Receiver(settings, intake, CommitmentScp(settings, commitments, intake))
    receiver.start()
    try:
        yield Node(settings, table, receiver)
    finally:
        receiver.stop(0.0)
        table.close()
        commitments.close()


class Requester:
    """A modality: stores, asks for commitment, and hears reports on either association."""

    def __init__(self, port: int = 0, status: int = SUCCESS) -> None:
        self.heard: list[tuple[str, Report]] = []
        self.roles: list[tuple[bool, bool]] = []
        self.status = status
        self._ae = AE("CT1")
        self._ae.dimse_timeout = self._ae.acse_timeout = 10
        self._ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        self._server = None
        if port:
            handlers = [(evt.EVT_N_EVENT_REPORT, self._hear, ["new"])]
            self._server = self._ae.start_server(
                ("127.0.0.1", port), block=False, evt_handlers=handlers
            )

    def __enter__(self) -> "Requester":
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()

    @contextmanager
    def associated(self, node_port: int, *contexts: str) -> Iterator[Association]:
        self._ae.requested_contexts = []
        for abstract_syntax in (PUSH_MODEL, *contexts):
            self._ae.add_requested_context(abstract_syntax, "1.2.840.10008.1.2.1")
        assoc = self._ae.associate(
            "127.0.0.1",
            node_port,
            ae_title="OSTEON",
            ext_neg=[build_role(PUSH_MODEL, scu_role=True)],
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._hear, ["same"])],
        )
        assert assoc.is_established
        try:
            yield assoc
            assoc.release()
        finally:
            if assoc.is_established:
                assoc.abort()

    def _hear(self, event: evt.Event, way: str) -> tuple[int, None]:
        request = event.request
        report = decode_report(request.EventInformation.getvalue(), event.context.transfer_syntax)
        assert (request.EventTypeID, request.AffectedSOPInstanceUID) == (
            report.event_type,
            PUSH_MODEL_INSTANCE,
        )
        self.heard.append((way, report))
        return self.status, None


def ask(assoc: Association, references: list[Reference], transaction: str = "1.2.3") -> int:
    """Send an N-ACTION-RQ and return the status of the answer."""
    answer, _ = assoc.send_n_action(
        encode_request(transaction, references), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
    )
    return int(answer.Status)


def store(assoc: Association, count: int = 2) -> list[Reference]:
    """Store instances and return references to them."""
    references = []
    for number in range(1, count + 1):
        ds = ct_slice(number)
        ds.file_meta = Dataset()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        ds["PixelData"].VR = "OW"
        assert assoc.send_c_store(ds).Status == SUCCESS
        references.append(Reference(CT, str(ds.SOPInstanceUID)))
    return references


def states(table: Table) -> list[str]:
    return [row["state"] for row in table.rows("SELECT state FROM commitment ORDER BY id")]


def test_a_requester_that_stays_hears_on_its_association(tmp_path: Path) -> None:
    with (
        committing_node(settings_for(tmp_path)) as node,
        Requester() as requester,
        requester.associated(node.port, CT) as assoc,
    ):
        held = store(assoc)
        assert ask(assoc, held) == SUCCESS
        wait_until(lambda: requester.heard)
        wait_until(lambda: states(node.table) == ["reported"])
        # The association is as good as before.
        assert ask(assoc, store(assoc, 1), "1.2.4") == SUCCESS
        wait_until(lambda: states(node.table) == ["reported"] * 2)

    assert requester.heard[0] == ("same", Report("1.2.3", tuple(held)))
    assert [report.transaction_uid for _, report in requester.heard] == ["1.2.3", "1.2.4"]


def test_a_requester_that_leaves_hears_on_a_new_association(tmp_path: Path) -> None:
    port = free_port()
    with (
        committing_node(settings_for(tmp_path, port=port)) as node,
        Requester(port) as requester,
    ):
        with requester.associated(node.port, CT) as assoc:
            held = store(assoc)
            assert ask(assoc, held) == SUCCESS
        wait_until(lambda: states(node.table) == ["reported"])

    assert requester.heard == [("new", Report("1.2.3", tuple(held)))]


def test_it_is_on_record_before_it_is_answered(tmp_path: Path) -> None:
    with (
        committing_node(settings_for(tmp_path)) as node,
        Requester() as requester,
        requester.associated(node.port) as assoc,
    ):
        assert ask(assoc, [Reference(CT, "1.2.3.4")]) == SUCCESS
        (row,) = node.table.rows("SELECT * FROM commitment")

    assert (row["transaction_uid"], row["ae_title"], row["address"], row["called_ae_title"]) == (
        "1.2.3",
        "CT1",
        "127.0.0.1",
        "OSTEON",
    )
    assert row["refs"] == f'[["{CT}", "1.2.3.4"]]'


def test_every_instance_that_is_not_held_has_its_reason(tmp_path: Path) -> None:
    with (
        committing_node(settings_for(tmp_path)) as node,
        Requester() as requester,
        requester.associated(node.port, CT) as assoc,
    ):
        good, lost, cut, changed = store(assoc, 4)
        paths = {
            row["sop_instance_uid"]: tmp_path / row["path"]
            for row in node.table.rows("SELECT * FROM instance")
        }
        paths[lost.sop_instance_uid].unlink()
        with paths[cut.sop_instance_uid].open("r+b") as file:
            file.truncate(1000)
        with paths[changed.sop_instance_uid].open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")
        other = Reference(MR, good.sop_instance_uid)
        unknown = Reference(CT, "1.2.3.4.5")
        print_job = Reference("1.2.840.10008.5.1.1.14", "1.2.3.4.6")
        asked = [good, lost, cut, changed, other, unknown, print_job, good]
        assert ask(assoc, asked) == SUCCESS
        wait_until(lambda: states(node.table) == ["reported"])

    [(_, report)] = requester.heard
    assert report.committed == (good,)
    assert report.failed == (
        (lost, 0x0112),
        (cut, 0x0110),
        (changed, 0x0110),
        (other, 0x0119),
        (unknown, 0x0112),
        (print_job, 0x0122),
    )


def test_only_the_size_is_looked_at_behind_the_limit_of_hashing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "HASHED_BYTES_MAX", 10)
    with (
        committing_node(settings_for(tmp_path)) as node,
        Requester() as requester,
        requester.associated(node.port, CT) as assoc,
    ):
        held = store(assoc, 1)
        with node.files()[0].open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")
        ask(assoc, held)
        wait_until(lambda: requester.heard)

    assert requester.heard == [("same", Report("1.2.3", tuple(held)))]


def test_the_same_request_again_is_one_transaction(tmp_path: Path) -> None:
    """As a modality asks that has lost the answer."""
    port = free_port()
    with committing_node(settings_for(tmp_path, port=port)) as node:
        for _ in range(2):
            with Requester().associated(node.port) as assoc:
                assert ask(assoc, [Reference(CT, "1.2.3.4")]) == SUCCESS
        assert states(node.table) == ["waiting"]
        with Requester(port) as requester:
            wait_until(lambda: states(node.table) == ["reported"])

    [(way, report)] = requester.heard
    assert (way, report.failed) == ("new", ((Reference(CT, "1.2.3.4"), 0x0112),))


def test_a_transaction_uid_in_use_for_something_else_fails(tmp_path: Path) -> None:
    port = free_port()
    with committing_node(settings_for(tmp_path, port=port)) as node:
        with Requester().associated(node.port, CT) as assoc:
            first, second = store(assoc, 2)
            assert ask(assoc, [first]) == SUCCESS
            assert ask(assoc, [second]) == SUCCESS
        with Requester(port) as requester:
            wait_until(lambda: states(node.table) == ["reported"] * 2)

    assert {report for _, report in requester.heard} == {
        Report("1.2.3", (first,)),
        Report("1.2.3", (), ((second, 0x0131),)),
    }


def test_a_requester_that_does_not_hear_is_called_again(tmp_path: Path) -> None:
    port = free_port()
    with committing_node(settings_for(tmp_path, port=port)) as node:
        with Requester().associated(node.port) as assoc:
            ask(assoc, [Reference(CT, "1.2.3.4")])
        wait_until(lambda: _reason(node).endswith("within 5 s"))
        with Requester(port, status=0x0110) as deaf:
            wait_until(lambda: deaf.heard)
            wait_until(lambda: "0x0110" in _reason(node))
            deaf.status = SUCCESS
            wait_until(lambda: states(node.table) == ["reported"])

    assert _attempts(node.settings) >= 3


def _reason(node: Node) -> str:
    return str(node.table.rows("SELECT reason FROM commitment")[0]["reason"])


def _attempts(settings: Settings) -> int:
    table = open_table(settings.data_dir)
    try:
        return int(table.rows("SELECT attempts FROM commitment")[0]["attempts"])
    finally:
        table.close()


def test_it_is_given_up_in_the_end_with_its_reason(tmp_path: Path) -> None:
    with committing_node(settings_for(tmp_path, give_up_s=0.2)) as node:
        with Requester().associated(node.port) as assoc:
            ask(assoc, [Reference(CT, "1.2.3.4")])
        wait_until(lambda: states(node.table) == ["given_up"])
        assert _reason(node) == (
            "given up: no [[source]] with ae_title 'CT1' has a port to report to"
        )


SERVE = [sys.executable, "-m", "osteon.cli.main", "serve", "--role", "receive", "--config"]


@contextmanager
def receive_role(
    folder: Path, node_port: int, requester_port: int, *, ae_title: str = "CT1"
) -> Iterator[None]:
    """Run the receive role as a user does, and end it with SIGKILL."""
    config = folder / "osteon.toml"
    config.write_text(
        f'data_dir = "{folder / "data"}"\n'
        f'[scp]\nhost = "127.0.0.1"\nport = {node_port}\ncommitment = true\n'
        f'[[source]]\nae_title = "{ae_title}"\nport = {requester_port}\n'
        f"[pipeline]\ndisk_reserve_gb = 0\n[delivery]\nretry_first_s = 0.1\nretry_max_s = 0.5\n"
    )
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*SERVE, str(config)], stdout=log, stderr=log)
    try:
        wait_until(lambda: _listens(node_port))
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


def _listens(port: int) -> bool:
    ae = AE()
    ae.add_requested_context("1.2.840.10008.1.1")
    assoc = ae.associate("127.0.0.1", port, ae_title="OSTEON")
    assoc.abort()
    # Rejected, since nobody is known by this title; but by somebody.
    return bool(assoc.is_rejected)


def test_a_killed_receiver_reports_after_its_restart(tmp_path: Path) -> None:
    node_port, requester_port = free_port(), free_port()
    with (
        receive_role(tmp_path, node_port, requester_port),
        Requester().associated(node_port, CT) as assoc,
    ):
        held = store(assoc)
        assert ask(assoc, held) == SUCCESS
    with (
        Requester(requester_port) as requester,
        receive_role(tmp_path, node_port, requester_port),
    ):
        wait_until(lambda: requester.heard)

    assert requester.heard[0] == ("new", Report("1.2.3", tuple(held)))


def test_it_is_off_by_default(tmp_path: Path) -> None:
    assert Settings().scp.commitment is False
    settings = loopback_settings(tmp_path)
    table = open_table(tmp_path)
    receiver = Receiver(settings, Intake(settings, table))
    receiver.start()
    try:
        ae = AE("CT1")
        ae.add_requested_context(PUSH_MODEL)
        ae.add_requested_context(CT)
        assoc = ae.associate("127.0.0.1", receiver.port, ae_title="OSTEON")
        assert [cx.abstract_syntax for cx in assoc.accepted_contexts] == [CT]
        assoc.release()
    finally:
        receiver.stop(0.0)
        table.close()


def send_raw(assoc: Association, raw: bytes | None, **changes: object) -> int:
    """Send an N-ACTION-RQ with these bytes and return the status of the answer."""
    request = N_ACTION()
    request.MessageID, request.ActionTypeID = 1, changes.get("action", 1)
    request.RequestedSOPClassUID = PUSH_MODEL
    request.RequestedSOPInstanceUID = changes.get("instance", PUSH_MODEL_INSTANCE)
    if raw is not None:
        request.ActionInformation = BytesIO(raw)
    (context,) = (cx for cx in assoc.accepted_contexts if cx.abstract_syntax == PUSH_MODEL)
    assoc._reactor_checkpoint.clear()
    wait_until(lambda: assoc._is_paused)
    assoc.dimse.send_msg(request, changes.get("context_id", context.context_id))
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    assert answer is not None
    return int(answer.Status)


EMPTY_ITEM = b"\xfe\xff\x00\xe0\0\0\0\0"
NESTED = b"\x08\0\x99\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"


def sequence(items: bytes) -> bytes:
    """A Transaction UID and a Referenced SOP Sequence of these bytes."""
    transaction = b"\x08\0\x95\x11UI\x06\x001.2.3\0"
    return transaction + b"\x08\0\x99\x11SQ\0\0" + len(items).to_bytes(4, "little") + items


HOSTILE = {
    "nothing": (None, 0x0115),
    "text": (b"no data set at all, but long enough to be one", 0x0115),
    "ones": (b"\xff" * 3000, 0x0115),
    "no reference": (sequence(b""), 0x0115),
    "an empty reference": (sequence(EMPTY_ITEM), 0x0115),
    "a path for a UID": (
        sequence(b"\xfe\xff\x00\xe0\x10\0\0\0\x08\0\x50\x11UI\x08\0../../x"),
        0x0115,
    ),
    "a sequence without an end": (sequence(EMPTY_ITEM)[:-8] + b"\xfe\xff\x00\xe0", 0x0115),
    "deeply nested": (NESTED * 5000, 0x0115),
    "100,000 items": (sequence(EMPTY_ITEM * 100_000), 0x0213),
    "5 MiB": (sequence(b"\0" * 5 * 2**20), 0x0213),
}


def test_hostile_requests_are_refused_and_the_next_is_taken(tmp_path: Path) -> None:
    with (
        committing_node(settings_for(tmp_path)) as node,
        Requester() as requester,
        requester.associated(node.port, CT) as assoc,
        capture_logs() as logs,
    ):
        answers = {name: send_raw(assoc, raw) for name, (raw, _) in HOSTILE.items()}
        assert answers == {name: status for name, (_, status) in HOSTILE.items()}
        assert send_raw(assoc, sequence(EMPTY_ITEM), action=2) == 0x0123
        assert send_raw(assoc, sequence(EMPTY_ITEM), instance="1.2.3") == 0x0112
        (ct,) = (cx for cx in assoc.accepted_contexts if cx.abstract_syntax == CT)
        assert send_raw(assoc, sequence(EMPTY_ITEM), context_id=ct.context_id) == 0x0122
        assert ask(assoc, [Reference(CT, "1.2.3.4")]) == SUCCESS
        wait_until(lambda: requester.heard)
    refused = [line for line in logs if line["event"] == "storage commitment refused"]
    assert len(refused) == len(HOSTILE) + 3


def test_as_many_references_as_may_be_are_reported(tmp_path: Path) -> None:
    references = [Reference(CT, f"1.2.3.{number}") for number in range(REFERENCES_MAX)]
    with (
        committing_node(settings_for(tmp_path)) as node,
        Requester() as requester,
        requester.associated(node.port) as assoc,
    ):
        assert ask(assoc, references) == SUCCESS
        wait_until(lambda: requester.heard)

    [(_, report)] = requester.heard
    assert report.failed == tuple((reference, 0x0112) for reference in references)


def test_too_many_that_wait_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "WAITING_MAX", 2)
    with committing_node(settings_for(tmp_path)) as node:
        for number, status in enumerate((SUCCESS, SUCCESS, 0x0213)):
            with Requester().associated(node.port) as assoc:
                assert ask(assoc, [Reference(CT, "1.2")], f"1.2.{number}") == status
        monkeypatch.setattr(promises, "WAITING_MAX", 9)
        monkeypatch.setattr(promises, "INSTANCES_MAX", 3)
        with Requester().associated(node.port) as assoc:
            asked = [Reference(CT, "1.2"), Reference(CT, "1.3")]
            assert ask(assoc, asked, "1.2.9") == 0x0213


def test_the_disk_reserve_refuses_requests(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with committing_node(settings) as node, Requester().associated(node.port) as assoc:
        object.__setattr__(settings.pipeline, "disk_reserve_gb", 1e6)
        assert ask(assoc, [Reference(CT, generate_uid())]) == 0x0213


def test_an_aborted_association_is_reported_anew(tmp_path: Path) -> None:
    port = free_port()
    with committing_node(settings_for(tmp_path, port=port)) as node, Requester(port) as requester:
        with requester.associated(node.port) as assoc:
            ask(assoc, [Reference(CT, "1.2.3.4")])
            assoc.abort()
        wait_until(lambda: states(node.table) == ["reported"])

    assert [way for way, _ in requester.heard] == ["new"]


def test_requesters_at_once_hear_each_its_own(tmp_path: Path) -> None:
    with committing_node(settings_for(tmp_path)) as node:
        heard: dict[int, Report] = {}

        def run(number: int) -> None:
            requester = Requester()
            with requester.associated(node.port, CT) as assoc:
                ask(assoc, store(assoc, 3), f"1.2.{number}")
                wait_until(lambda: requester.heard)
            heard[number] = requester.heard[0][1]

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    assert {n: (r.transaction_uid, len(r.committed)) for n, r in heard.items()} == {
        number: (f"1.2.{number}", 3) for number in range(4)
    }
