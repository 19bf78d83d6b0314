"""Sending to a real Storage SCP that takes, refuses, or is not there."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from pynetdicom import AE, AllStoragePresentationContexts, evt

from osteon.cli.main import cli
from osteon.cli.peers import peer_named
from osteon.config.settings import Settings
from osteon.errors import ConfigError, NotFoundError
from osteon.pipeline.phantoms.phantom import write_phantom
from osteon.results.pacs import StandInPacs


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ct")
    return write_phantom(out, slices=6, rows=64, columns=64).dicom


def run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    return result.exit_code, result.stdout, result.stderr


def test_every_file_is_sent_and_counted(ct: Path, tmp_path: Path) -> None:
    with StandInPacs(tmp_path) as pacs:
        code, out, _ = run("send", ct, "--to", f"127.0.0.1:{pacs.port}:PACS")
        assert len(pacs.received) == 6
    assert (code, out) == (0, "6 files: 0x0000\n")


def test_a_refused_file_stops_no_other(ct: Path, tmp_path: Path) -> None:
    uids: list[str] = []

    def respond(uid: str) -> tuple[int, str]:
        uids.append(uid)
        return (0xA900, "not this one") if len(uids) == 2 else (0x0000, "")

    with StandInPacs(tmp_path, respond=respond) as pacs:
        code, out, err = run("send", ct, "--to", f"127.0.0.1:{pacs.port}:PACS", "--json")
    answer = json.loads(out)
    assert code == 10
    assert answer["sent"] == 5
    assert answer["statuses"] == {"0x0000": 5}
    assert [Path(failed["path"]).parent for failed in answer["failed"]] == [ct]
    assert "not this one" in answer["failed"][0]["reason"]
    assert err.startswith("osteon: 1 of 6 files were not taken by PACS at")


def test_a_peer_that_refuses_everything_is_left_alone(ct: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def respond(uid: str) -> tuple[int, str]:
        asked.append(uid)
        return 0xC000, "no"

    with StandInPacs(tmp_path, respond=respond) as pacs:
        code, out, _ = run("send", ct, "--to", f"127.0.0.1:{pacs.port}:PACS", "--json")
    assert code == 10
    assert len(asked) == 3
    answer = json.loads(out)
    assert (len(answer["failed"]), len(answer["not_tried"])) == (3, 3)


def test_a_lost_peer_is_told_in_one_line(ct: Path, tmp_path: Path) -> None:
    with StandInPacs(tmp_path, respond=lambda _: (0xA700, "disk full")) as pacs:
        code, out, err = run("send", ct, "--to", f"127.0.0.1:{pacs.port}:PACS")
    assert code == 10
    failed, not_tried = out.splitlines()
    assert failed.startswith(f"failed {ct}")
    files = sorted(ct.iterdir())
    assert not_tried == f"not tried: 5 files, from {files[1]} to {files[-1]}"
    assert err.startswith("osteon: 6 of 6 files were not taken by PACS at")


def test_the_calling_ae_title_can_be_chosen(ct: Path, tmp_path: Path) -> None:
    called_by = []

    def note(event: evt.Event) -> int:
        called_by.append(event.assoc.requestor.ae_title)
        return 0x0000

    ae = AE(ae_title="PACS")
    ae.supported_contexts = AllStoragePresentationContexts
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, note)])
    try:
        port = server.socket.getsockname()[1]
        to = ("send", ct, "--to", f"127.0.0.1:{port}:PACS", "--calling-ae-title")
        assert run(*to, "CT 7")[0] == 0
    finally:
        server.shutdown()
    assert set(called_by) == {"CT 7"}
    code, out, err = run(*to, "LONGER_THAN_SIXTEEN")
    assert (code, out) == (2, "")
    assert "at most 16 characters" in err


def test_a_full_peer_ends_it(ct: Path, tmp_path: Path) -> None:
    with StandInPacs(tmp_path, respond=lambda _: (0xA700, "disk full")) as pacs:
        code, out, _ = run("send", ct, "--to", f"127.0.0.1:{pacs.port}:PACS", "--json")
    answer = json.loads(out)
    assert code == 10
    assert "disk full" in answer["failed"][0]["reason"]
    assert (len(answer["failed"]), len(answer["not_tried"])) == (1, 5)


def test_an_echo_says_how_long_it_took(tmp_path: Path) -> None:
    with StandInPacs(tmp_path) as pacs:
        code, out, _ = run("echo", f"127.0.0.1:{pacs.port}:PACS", "--json")
    assert code == 0
    assert 0 < json.loads(out)["latency_ms"] < 5000


def test_a_wrong_ae_title_is_the_peers_refusal(tmp_path: Path) -> None:
    with StandInPacs(tmp_path) as pacs:
        code, _, err = run("echo", f"127.0.0.1:{pacs.port}:OTHER")
    assert code == 10
    assert "rejected the association" in err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pacs", ("PACS", "10.0.0.9", 104)),
        ("10.0.0.7:11112:OTHER", ("OTHER", "10.0.0.7", 11112)),
        ("[::1]:104:V6", ("V6", "::1", 104)),
    ],
)
def test_a_peer_has_a_name_or_an_address(name: str, expected: tuple[str, str, int]) -> None:
    listed = {"name": "pacs", "ae_title": "PACS", "host": "10.0.0.9", "port": 104}
    settings = Settings.model_validate(
        {"scp": {"ae_title": "BONES"}, "destination": [listed | {"deliver": False}]}
    )
    peer = peer_named(settings, name)
    assert (peer.ae_title, peer.host, peer.port) == expected
    assert peer.calling_ae_title == "BONES"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("host:x:AE", "'host:x:AE': the port is 1 to 65535, not 'x'"),
        ("host:70000:AE", "the port is 1 to 65535, not '70000'"),
        ("host:0:AE", "the port is 1 to 65535, not '0'"),
        ("h:1:", "'h:1:': AE title '': string should have at least 1 character"),
        ("h:1:LONGER_THAN_SIXTEEN", "at most 16 characters"),
        ("h:1:A\\B", "but no backslash"),
    ],
)
def test_an_address_says_what_of_it_is_wrong(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        peer_named(Settings.model_validate({}), name)


@pytest.mark.parametrize("name", ["nobody", "host:104", ":1:A"])
def test_what_is_neither_names_those_that_are_listed(name: str) -> None:
    with pytest.raises(NotFoundError, match="listed are none"):
        peer_named(Settings.model_validate({}), name)
