"""What the association log keeps: who came, what of it was stored or refused, who was rejected."""

from pathlib import Path
from typing import Any

import pytest

from osteon.pipeline.table import views
from osteon.pipeline.table.associations import latest
from tests.dicom_peer import (
    Node,
    RawPeer,
    RejectedError,
    ct_slice,
    encoded,
    every_way,  # noqa: F401 - runs the module three times
    loopback_settings,
    running_node,
)
from tests.tools import wait_until


def _ended(node: Node, count: int) -> list[dict[str, Any]]:
    found = latest(node.table)
    return found if sum(one["closed"] is not None for one in found) == count else []


def test_what_was_stored_refused_and_held_already_is_counted(node: Node) -> None:
    ds = ct_slice(1)
    with RawPeer(node.port, calling="CT1") as peer:
        assert peer.send_ct(ds) == (0x0000, "")
        assert peer.send_ct(ds) == (0x0000, "")
        assert peer.store(encoded(ds), "9.9.9")[0] == 0xA900
        assert peer.store(b"\xff" * 100, "1.2.3")[0] == 0xC000
        peer.release()

    (one,) = wait_until(lambda: _ended(node, 1))
    assert (one["stored"], one["duplicates"], one["refused"]) == (2, 1, 2)
    assert one["refusal"] == "0xC000: the data set has no SOPClassUID"


def test_a_series_that_is_sent_again_has_both_associations_in_its_story(node: Node) -> None:
    slices = [ct_slice(n) for n in (1, 2, 3)]
    for count, calling in enumerate(("CT1", "ARCHIVE"), 1):
        with RawPeer(node.port, calling=calling) as peer:
            assert [peer.send_ct(ds)[0] for ds in slices] == [0x0000] * 3
            peer.release()
        wait_until(lambda: _ended(node, count))  # noqa: B023 - it waits within the loop

    (story,) = views.trace(node.table, "1.2.3.4")
    came = [(a["calling_ae_title"], a["instances"], a["again"]) for a in story["associations"]]
    assert came == [("CT1", 3, 0), ("ARCHIVE", 0, 3)]


def test_who_was_rejected_is_on_record(node: Node) -> None:
    for _ in range(3):
        with pytest.raises(RejectedError):
            RawPeer(node.port, calling="CT9", called="WRONG")

    (one,) = wait_until(lambda: latest(node.table), timeout_s=5)
    assert (one["calling_ae_title"], one["called_ae_title"]) == ("CT9", "WRONG")
    assert one["outcome"] == "rejected 1,1,7: this node does not answer to 'WRONG'"
    assert one["rejected"] == 3
    assert node.table.rows("SELECT * FROM association") == []


def test_who_was_rejected_last_is_on_record_when_the_node_has_stopped(tmp_path: Path) -> None:
    with running_node(loopback_settings(tmp_path)) as node:
        with pytest.raises(RejectedError):
            RawPeer(node.port, called="WRONG")
        node.receiver.stop(1.0)
        assert len(latest(node.table)) == 1
