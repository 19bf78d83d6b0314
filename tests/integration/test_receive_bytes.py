"""The data sets of 15 transfer syntaxes are stored as they came, whoever sends them."""

import os
import subprocess
from pathlib import Path

import pytest
from pydicom.uid import (
    ImplicitVRLittleEndian,
)
from pynetdicom import AE, _config

from osteon.pipeline.instances.part10 import decode_header
from tests.dicom_peer import (
    CT,
    VERIFICATION,
    Node,
    RawPeer,
    dataset_of,
    every_way,  # noqa: F401 - runs the module three times
)
from tests.tools import free_port, require_tool, wait_until

# JPEG processes 6+8, 10+12 and 14 (PS3.6 A)
RETIRED = {f"1.2.840.10008.1.2.4.{process}" for process in (53, 55, 57)}


def _syntax_of(file: Path) -> str:
    return file.stem.rsplit("_", 1)[1]


@pytest.fixture
def files(shared_data: Path) -> list[Path]:
    found = sorted((shared_data / "cornerstone_ct_16ts").glob("*.dcm"))
    assert len(found) == 15
    return found


def test_pynetdicom_sends_15_syntaxes_that_are_stored_as_they_came(
    node: Node, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)  # The bytes of the file.
    ae = AE("SCU")
    for file in files:
        ae.add_requested_context(CT, _syntax_of(file))
    assoc = ae.associate("127.0.0.1", node.port, ae_title="OSTEON")

    statuses = [assoc.send_c_store(file).Status for file in files]
    assoc.release()

    assert statuses == [0x0000] * 15
    assert set(node.datasets()) == {dataset_of(file) for file in files}
    stored = {decode_header(file.read_bytes())[0].transfer_syntax_uid for file in node.files()}
    assert stored == {_syntax_of(file) for file in files}


def test_dcmsend_is_taken_byte_by_byte_as_by_a_bit_preserving_storescp(
    node: Node, files: list[Path], tmp_path: Path
) -> None:
    """DCMTK encodes anew what it sends, so another receiver of the same is the reference."""
    known = [file for file in files if _syntax_of(file) not in RETIRED]
    kept = tmp_path / "storescp"
    kept.mkdir()
    with _storescp(kept) as port:
        _dcmsend(port, known)
    reference = {dataset_of(file) for file in kept.iterdir()}

    _dcmsend(node.port, known)

    assert len(reference) == 11  # It sends the Big Endian file as the Little Endian one.
    assert set(node.datasets()) == reference


def test_dcmsend_can_send_what_its_own_storescp_does_not_know(
    node: Node, files: list[Path]
) -> None:
    retired = [file for file in files if _syntax_of(file) in RETIRED]

    _dcmsend(node.port, retired)

    assert len(retired) == 3
    assert set(node.datasets()) == {dataset_of(file) for file in retired}


@pytest.mark.parametrize(
    ("flag", "syntax"),
    [
        ("-xi", "1.2.840.10008.1.2"),
        ("-xe", "1.2.840.10008.1.2.1"),
        ("-xb", "1.2.840.10008.1.2.2"),
        ("-xd", "1.2.840.10008.1.2.1.99"),
        ("-xs", "1.2.840.10008.1.2.4.70"),
        ("-xt", "1.2.840.10008.1.2.4.80"),
        ("-xv", "1.2.840.10008.1.2.4.90"),
        ("-xr", "1.2.840.10008.1.2.5"),
    ],
)
def test_storescu_with_required_contexts_keeps_its_syntax(
    node: Node, files: list[Path], flag: str, syntax: str
) -> None:
    storescu = require_tool("/usr/bin/storescu")
    (file,) = (f for f in files if _syntax_of(f) == syntax)

    subprocess.run(
        [storescu, "-R", flag, "-aec", "OSTEON", "127.0.0.1", str(node.port), file],
        check=True,
        timeout=30,
        env={**os.environ, "TCP_NODELAY": "1"},
    )

    (row,) = node.table.rows("SELECT transfer_syntax_uid FROM instance")
    assert row["transfer_syntax_uid"] == syntax


class _storescp:  # noqa: N801 - reads as the program that it runs
    """DCMTK's receiver, which writes a data set as it came (+B)."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.command = [require_tool("/usr/bin/storescp"), "+B", "+xa", "+uf", "-od", folder]

    def __enter__(self) -> int:
        self.process = subprocess.Popen(
            [*self.command, "-aet", "OSTEON", str(self.port)],
            env={**os.environ, "TCP_NODELAY": "1"},
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: _listens(self.port))
        return self.port

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(10)


def _listens(port: int) -> bool:
    try:
        with RawPeer(port, [(VERIFICATION, ImplicitVRLittleEndian)]):
            return True
    except OSError:
        return False


def _dcmsend(port: int, files: list[Path]) -> None:
    dcmsend = require_tool("/usr/bin/dcmsend")
    subprocess.run(
        [dcmsend, "-q", "-dn", "-nuc", "-aec", "OSTEON", "127.0.0.1", str(port), *files],
        check=True,
        timeout=60,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
