"""The status of every C-STORE, over real associations into real files and a real table."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from osteon.config.settings import SourceSettings
from osteon.pipeline.instances.digest import digest_of
from osteon.pipeline.instances.part10 import decode_header
from osteon.pipeline.intake import GIGABYTE, SPACE_CHECK_S
from tests.dicom_peer import (
    EXPLICIT,
    Node,
    RawPeer,
    RejectedError,
    ct_slice,
    dataset_of,
    encoded,
    every_way,  # noqa: F401 - runs the module three times
    loopback_settings,
    running_node,
)


@pytest.fixture
def peer(node: Node) -> Iterator[RawPeer]:
    with RawPeer(node.port) as peer:
        yield peer


def test_a_durable_instance_is_acknowledged_and_on_record(node: Node, peer: RawPeer) -> None:
    ds = ct_slice()

    assert peer.send_ct(ds) == (0x0000, "")

    (row,) = node.table.rows("SELECT * FROM instance")
    file = node.settings.data_dir / row["path"]
    assert row["sop_instance_uid"] == ds.SOPInstanceUID
    assert row["digest"] == digest_of(encoded(ds))
    assert dataset_of(file) == encoded(ds)
    meta, _ = decode_header(file.read_bytes())
    assert (meta.sop_instance_uid, meta.transfer_syntax_uid) == (ds.SOPInstanceUID, EXPLICIT)
    assert (meta.sending_ae_title, meta.receiving_ae_title) == ("RAW", "OSTEON")


def test_an_identical_duplicate_is_acknowledged_and_makes_no_work(
    node: Node, peer: RawPeer
) -> None:
    ds = ct_slice()

    assert [peer.send_ct(ds)[0] for _ in range(3)] == [0x0000] * 3

    assert len(node.table.rows("SELECT * FROM instance")) == 1
    assert len(node.files()) == 1


def test_the_same_uid_with_other_bytes_is_kept_as_well(node: Node, peer: RawPeer) -> None:
    ds = ct_slice()
    peer.send_ct(ds)
    ds.PatientID = "P2"

    assert peer.send_ct(ds)[0] == 0x0000

    assert len(node.files()) == 2


def test_the_disk_reserve_refuses_instances_and_associations(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    settings = loopback_settings(tmp_path, disk_reserve_gb=free / GIGABYTE - 0.5)
    with running_node(settings) as node, RawPeer(node.port) as peer:
        with (tmp_path / "large").open("wb") as large:
            os.posix_fallocate(large.fileno(), 0, GIGABYTE)
        time.sleep(SPACE_CHECK_S)

        status, comment = peer.send_ct(ct_slice())
        with pytest.raises(RejectedError) as rejected:
            RawPeer(node.port)

        assert status == 0xA700
        assert comment.startswith("disk reserve reached")
        assert rejected.value.triple == (2, 3, 1)
        (tmp_path / "large").unlink()
        assert peer.send_ct(ct_slice())[0] == 0x0000
        RawPeer(node.port).sock.close()


@pytest.mark.parametrize("attribute", ["SOPInstanceUID", "SOPClassUID"])
def test_uids_that_differ_from_the_command_are_a_mismatch(
    node: Node, peer: RawPeer, attribute: str
) -> None:
    ds = ct_slice()
    named = str(ds.SOPInstanceUID)
    setattr(ds, attribute, "1.2.840.10008.5.1.4.1.1.4")

    status, comment = peer.store(encoded(ds), named)

    assert status == 0xA900
    assert comment.startswith("the command names")
    assert node.files() == []


def test_a_data_set_that_was_cut_off_cannot_be_understood(node: Node, peer: RawPeer) -> None:
    """Pixels were lost on the way: the sender must learn of it, and keep its instance."""
    ds = ct_slice(rows=256)
    raw = encoded(ds)

    status, comment = peer.store(raw[:-1000], str(ds.SOPInstanceUID))

    assert status == 0xC000
    assert comment.startswith("the data set is cut off")
    assert node.files() == []
    assert peer.send_ct(ds)[0] == 0x0000


@pytest.mark.parametrize("dataset", [b"", b"no data set at all", b"\xff" * 3000, b"\x08\0\x05\0CS"])
def test_what_is_no_data_set_cannot_be_understood(
    node: Node, peer: RawPeer, dataset: bytes
) -> None:
    assert peer.store(dataset, "1.2.3")[0] == 0xC000
    assert node.files() == []
    assert peer.send_ct(ct_slice())[0] == 0x0000


@pytest.mark.parametrize("uid", ["../../../../tmp/x", "1.2.3a", "1.2/3", "1." + "2" * 70, "é"])
def test_an_invalid_uid_is_answered_and_never_becomes_a_name(
    node: Node, peer: RawPeer, uid: str
) -> None:
    ds = ct_slice()
    ds.SOPInstanceUID = "1.2.3"
    before = _all_files(node.settings.data_dir.parent)

    assert peer.store(encoded(ds), uid)[0] == 0x0117
    assert peer.send_ct(ct_slice())[0] == 0x0000

    assert not Path("/tmp/x").exists()
    new = _all_files(node.settings.data_dir.parent) - before
    own = ("/spool/", "/incoming/receive/")  # With names that the node has made.
    assert all(any(folder in name for folder in own) and uid not in name for name in new)


def _all_files(folder: Path) -> set[str]:
    return {str(p) for p in folder.rglob("*") if p.is_file() and "osteon.sqlite" not in p.name}


def test_an_instance_over_the_limit_is_refused_and_the_next_is_taken(tmp_path: Path) -> None:
    settings = loopback_settings(tmp_path, instance_bytes_max=2**20)
    with running_node(settings) as node, RawPeer(node.port) as peer:
        status, comment = peer.send_ct(ct_slice(rows=1024))

        assert status == 0xA700
        assert comment == "the data set is longer than 1048576 bytes"
        assert peer.send_ct(ct_slice())[0] == 0x0000
        assert len(node.files()) == 1


def test_unknown_titles_are_rejected_for_good(tmp_path: Path) -> None:
    settings = loopback_settings(tmp_path).model_copy(
        update={"source": [_source("CT1", "127.0.0.0/8"), _source("CT2", "10.0.0.5")]}
    )
    with running_node(settings) as node:
        for calling, called, triple in (
            ("RAW", "OSTEON", (1, 1, 3)),
            ("CT2", "OSTEON", (1, 1, 3)),
            ("CT1", "OTHER", (1, 1, 7)),
        ):
            with pytest.raises(RejectedError) as rejected:
                RawPeer(node.port, calling=calling, called=called)
            assert rejected.value.triple == triple
        with RawPeer(node.port, calling="CT1") as peer:
            assert peer.send_ct(ct_slice())[0] == 0x0000


def _source(ae_title: str, address: str) -> SourceSettings:
    return SourceSettings(ae_title=ae_title, address=address)


def test_eight_senders_at_once_lose_nothing(node: Node) -> None:
    statuses: list[int] = []

    def send(sender: int) -> None:
        with RawPeer(node.port, calling=f"CT{sender}") as peer:
            series = f"1.2.3.{sender % 4}"
            statuses.extend(peer.send_ct(ct_slice(number, series))[0] for number in range(1, 11))
            peer.release()

    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(60)

    assert statuses == [0x0000] * 80
    assert len(node.files()) == 80
    series = node.table.rows("SELECT series_instance_uid, instances FROM series ORDER BY 1")
    assert [(s["series_instance_uid"], s["instances"]) for s in series] == [
        (f"1.2.3.{n}", 20) for n in range(4)
    ]
