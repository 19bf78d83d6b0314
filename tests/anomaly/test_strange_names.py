"""Strange names from peers: UIDs, AE titles and patient IDs that would be paths, or worse."""

import random
import secrets
import struct
from collections import Counter
from pathlib import Path

from tests.anomaly.evidence import broken_promises
from tests.anomaly.role import REPOSITORY, Role
from tests.dicom_peer import CT, RawPeer, _element, p_data

PATHS = ("../{0}", "../../../../../../tmp/{0}", "/tmp/{0}", "/{0}", "~/{0}", "./{0}", "{0}/../../x",
         "..\\..\\{0}", "C:\\{0}", "\\\\host\\{0}", "file:///tmp/{0}", "%2e%2e%2f{0}",
         "..%c0%af{0}", "{0}\0.dcm", "\0{0}", "{0}\n../x", "$(touch /tmp/{0})", "`touch {0}`",
         ";touch {0}", "|{0}", "'; DROP TABLE instance; -- {0}", "{0}\" OR 1=1", "%s%n{0}",
         "{{0}}{0}", "1.2.3/{0}", "spool/{0}", "osteon.sqlite", "osteon.sqlite-wal", ".", "..", "",
         " ", "-rf", "con", "{0}.", "1.2.840.10008.1.2.{0}", "\u202e{0}", "\xff\xfe{0}", "1" * 65,
         "." * 64)  # fmt: skip
TAGS = {"SOPInstanceUID": b"\x08\0\x18\0UI", "SeriesInstanceUID": b"\x20\0\x0e\0UI",
        "StudyInstanceUID": b"\x20\0\x0d\0UI", "PatientID": b"\x10\0\x20\0LO"}  # fmt: skip
STORED = 1000


def _hostile(name: bytes, place: str) -> tuple[bytes, bytes]:
    """A data set with a strange name in one place, and the SOP Instance UID of the command."""
    name += b"\0" * (len(name) % 2)
    values = {"SOPInstanceUID": b"1.2.3.4\0", "SeriesInstanceUID": b"1.2.3\0",
              "StudyInstanceUID": b"1.2\0", "PatientID": b"P1"}  # fmt: skip
    if place in values:
        values[place] = name
    command = name if place in {"command", "SOPInstanceUID"} else b"1.2.3.4\0"
    raw = b"\x08\0\x16\0UI" + struct.pack("<H", 26) + CT.encode() + b"\0"
    for keyword in sorted(TAGS, key=lambda k: struct.unpack("<HH", TAGS[k][:4])):
        raw += TAGS[keyword] + struct.pack("<H", len(values[keyword])) + values[keyword]
    return raw, command


def _escaped(token: str, sandbox: Path) -> list[Path]:
    """Everything outside the data directory that a strange name may have become."""
    places = [Path("/"), Path("/tmp"), Path.home(), REPOSITORY, Path.cwd(), *sandbox.parents]
    found = [path for place in places for path in place.glob(f"*{token}*")]
    allowed = {sandbox / "data", sandbox / "data.log"}
    found += [path for path in sandbox.iterdir() if path not in allowed]
    for path in (sandbox / "data").rglob("*"):
        parts = path.relative_to(sandbox / "data").parts
        is_ours = parts[0] in {"spool", "incoming"} or parts[0].startswith(
            ("osteon.sqlite", "osteon.turn")
        )
        if not is_ours or token in str(path):
            found.append(path)
    return found


def test_strange_names_become_no_files(tmp_path: Path) -> None:
    token = f"x{secrets.token_hex(6)}"
    chance = random.Random(5)
    sandbox = tmp_path / "a" / "b"
    sandbox.mkdir(parents=True)
    with Role(sandbox / "data").start() as role:
        statuses: Counter[int] = Counter()
        for calling in ("../../../../x", "/tmp/x", "..", "a/b", "$(x)"):
            with RawPeer(role.port, calling=calling) as peer:
                for _ in range(STORED // 5):
                    name = chance.choice(PATHS).replace("{0}", token).encode("utf-8", "replace")
                    raw, uid = _hostile(name, chance.choice(["command", *TAGS]))
                    peer.sock.sendall(p_data(1, 3, _store_request(uid)) + p_data(1, 2, raw))
                    statuses[peer.status()[0]] += 1
                peer.release()

        assert statuses.total() == STORED
        assert set(statuses) <= {0x0000, 0x0117, 0xA900, 0xC000}
        assert statuses[0x0000] > STORED / 10  # A Patient ID may be anything.
        assert _escaped(token, sandbox) == []
        for path in (sandbox / "data" / "spool").rglob("*"):
            assert set(path.stem) <= set("0123456789abcdef")
        assert broken_promises(role.data_dir, set()) == []


def _store_request(uid: bytes) -> bytes:
    """The command set of a C-STORE-RQ, PS3.7 9.3.1.1, whatever the UID."""
    elements = ((0x0002, CT.encode()), (0x0100, b"\1\0"), (0x0110, b"\1\0"), (0x0700, b"\0\0"),
                (0x0800, b"\1\0"), (0x1000, uid))  # fmt: skip
    body = b"".join(_element(tag, value) for tag, value in elements)
    return _element(0, struct.pack("<I", len(body))) + body
