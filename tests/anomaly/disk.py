"""A disk that keeps only what was synced: the worst that POSIX lets a power cut do.

Recorded `Call`s enter one by one; at any point between them images leave, as a cut at that moment
may leave the disk. A file's bytes are safe after fsync or fdatasync of the file, a name after
fsync of its folder; of everything else a random part survives: some writes and not others, written
in sectors, some names and not others, the new one of a rename and not the removal of the old one.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Union

from tests.anomaly.trace import Call, data, descriptor, text, vectors

SECTOR_BYTES = 512
UNSEEN = "-shm"  # SQLite maps it and never trusts it after a crash; it needs not survive.


class Cut(StrEnum):
    """What survives of that which was not synced."""

    NOTHING = "nothing"
    SOME = "some"
    ALL = "all"


@dataclass
class File:
    """A file: what is safe, and the writes that are not."""

    safe: bytearray = field(default_factory=bytearray)
    unsafe: list[tuple[int, bytes | None]] = field(default_factory=list)

    def write(self, at: int, written: bytes) -> None:
        self.unsafe.append((at, written))

    def truncate(self, size: int) -> None:
        self.unsafe.append((size, None))

    def sync(self) -> None:
        for at, written in self.unsafe:
            _put(self.safe, at, written)
        self.unsafe.clear()

    def size(self) -> int:
        size = len(self.safe)
        for at, written in self.unsafe:
            size = at if written is None else max(size, at + len(written))
        return size

    def after(self, cut: Cut, chance: random.Random) -> bytearray:
        """The content after a cut."""
        content = bytearray(self.safe)
        if cut is Cut.NOTHING:
            return content
        for at, written in self.unsafe:
            if cut is Cut.SOME and chance.random() < 0.5:
                continue
            if written is None or cut is Cut.ALL:
                _put(content, at, written)
                continue
            for start, end in _sectors(at, len(written)):
                if chance.random() < 0.8:
                    _put(content, start, written[start - at : end - at])
        return content


@dataclass
class Folder:
    """A folder: the names that are safe, those there are now, and the changes between them."""

    safe: dict[str, "Node"] = field(default_factory=dict)
    now: dict[str, "Node"] = field(default_factory=dict)
    unsafe: list[dict[str, Union["Node", None]]] = field(default_factory=list)

    def change(self, names: dict[str, Union["Node", None]]) -> None:
        """Give or take names, in one step that a cut cannot part."""
        self.unsafe.append(names)
        _apply(self.now, names)

    def sync(self) -> None:
        self.safe = dict(self.now)
        self.unsafe.clear()

    def after(self, cut: Cut, chance: random.Random) -> dict[str, "Node"]:
        """The names after a cut."""
        names = dict(self.safe)
        for change in self.unsafe if cut is not Cut.NOTHING else ():
            if cut is Cut.ALL or chance.random() < 0.5:
                _apply(names, change)
        return names


Node = File | Folder


@dataclass
class _Open:
    """What a descriptor stands for."""

    node: Node
    position: int = 0
    appends: bool = False


class Disk:
    """The part of the file system under one folder, which exists and is synced.

    Parameters
    ----------
    root : Path
        Calls on anything outside are not looked at.
    """

    def __init__(self, root: Path) -> None:
        self._prefix = f"{root.resolve()}/"
        self._touched = False
        self._root = Folder()
        self._open: dict[tuple[int, int], _Open] = {}  # By process and number.
        self._steps: dict[str, Callable[[Call], None]] = {
            "openat": lambda call: self._opened(call, call.arguments[1], call.arguments[2]),
            "open": lambda call: self._opened(call, call.arguments[0], call.arguments[1]),
            "creat": lambda call: self._opened(call, call.arguments[0], "O_CREAT|O_TRUNC"),
            "close": self._closed,
            "write": lambda call: self._written(call, data),
            "writev": lambda call: self._written(call, vectors),
            "pwrite64": lambda call: self._written(call, data, positioned=True),
            "pwritev": lambda call: self._written(call, vectors, positioned=True),
            "pwritev2": lambda call: self._written(call, vectors, positioned=True),
            "ftruncate": self._truncated,
            "fsync": self._synced,
            "fdatasync": self._synced,
            "sync_file_range": lambda _: None,  # It promises nothing, sync_file_range(2).
            "mkdir": lambda call: self._made(call.arguments[0]),
            "mkdirat": lambda call: self._made(call.arguments[1]),
            "rename": lambda call: self._renamed(call.arguments[0], call.arguments[1]),
            "renameat": lambda call: self._renamed(call.arguments[1], call.arguments[3]),
            "renameat2": lambda call: self._renamed(call.arguments[1], call.arguments[3]),
            "link": lambda call: self._linked(call.arguments[0], call.arguments[1]),
            "linkat": lambda call: self._linked(call.arguments[1], call.arguments[3]),
            "unlink": lambda call: self._removed(call.arguments[0]),
            "rmdir": lambda call: self._removed(call.arguments[0]),
            "unlinkat": lambda call: self._removed(call.arguments[1]),
            "mmap": self._mapped,
        }

    def apply(self, call: Call) -> bool:
        """Replay a call and return whether it changed anything here."""
        if call.name.startswith("send") and call.name != "sendfile":
            return False
        if call.name in self._steps:
            self._touched = False
            self._steps[call.name](call)
            return self._touched
        held = [a for a in call.arguments if a[:1].isdigit() and "<" in a]
        if any((call.process, descriptor(a)) in self._open for a in held):
            raise NotImplementedError(f"{call.name} on a file of the data directory: teach Disk it")
        return False

    def image(self, folder: Path, cut: Cut, seed: int = 0) -> None:
        """Write the disk as it is after a cut now."""
        _materialize(self._root, folder, cut, random.Random(seed))

    def files(self) -> dict[str, bytes]:
        """Path under the root → content, as the running process sees them."""
        return dict(_walk(self._root, ""))

    def _find(self, quoted: str) -> tuple[Folder, str] | None:
        """The folder that holds a path, and the last name of the path; None where it is outside."""
        path = text(quoted)
        if not path.startswith(self._prefix):
            return None
        *folders, name = path.removeprefix(self._prefix).split("/")
        at = self._root
        for part in folders:
            if part not in at.now:  # The thread that made it has not been heard of yet.
                at.change({part: Folder()})
            node = at.now[part]
            assert isinstance(node, Folder), path
            at = node
        self._touched = True
        return at, name

    def _opened(self, call: Call, quoted: str, flags: str) -> None:
        opened = (call.process, call.result)
        self._open.pop(opened, None)
        if f"{text(quoted)}/" == self._prefix:
            self._open[opened] = _Open(self._root)
        found = self._find(quoted)
        if found is None:
            return
        folder, name = found
        if name not in folder.now and "O_CREAT" in flags:
            folder.change({name: File()})
        node = folder.now[name]
        if "O_TRUNC" in flags and isinstance(node, File):
            node.truncate(0)
        self._open[opened] = _Open(node, appends="O_APPEND" in flags)

    def _closed(self, call: Call) -> None:
        self._touched = self._open.pop(_held(call), None) is not None

    def _written(
        self, call: Call, read: Callable[[str], bytes], *, positioned: bool = False
    ) -> None:
        held = self._open.get(_held(call))
        if held is None:
            return
        assert isinstance(held.node, File)
        written = read(call.arguments[1])[: call.result]
        at = int(call.arguments[3]) if positioned else held.position
        if held.appends:
            at = held.node.size()
        held.node.write(at, written)
        if not positioned:
            held.position = at + len(written)
        self._touched = True

    def _truncated(self, call: Call) -> None:
        held = self._open.get(_held(call))
        if held is not None:
            assert isinstance(held.node, File)
            held.node.truncate(int(call.arguments[1]))
            self._touched = True

    def _synced(self, call: Call) -> None:
        held = self._open.get(_held(call))
        if held is not None:
            held.node.sync()
            self._touched = True

    def _made(self, quoted: str) -> None:
        found = self._find(quoted)
        if found is not None and found[1] not in found[0].now:
            found[0].change({found[1]: Folder()})

    def _renamed(self, old: str, new: str) -> None:
        source, target = self._find(old), self._find(new)
        assert (source is None) == (target is None), "a rename across the root"
        if source is None or target is None:
            return
        node = source[0].now[source[1]]
        if source[0] is target[0]:
            source[0].change({source[1]: None, target[1]: node})
        else:  # Pessimistic: most file systems do both or neither.
            target[0].change({target[1]: node})
            source[0].change({source[1]: None})

    def _linked(self, old: str, new: str) -> None:
        source, target = self._find(old), self._find(new)
        assert (source is None) == (target is None), "a link across the root"
        if source is not None and target is not None:
            target[0].change({target[1]: source[0].now[source[1]]})

    def _removed(self, quoted: str) -> None:
        found = self._find(quoted)
        if found is not None:
            found[0].change({found[1]: None})

    def _mapped(self, call: Call) -> None:
        """Writes to a shared mapping are not seen, so there must be none that matter."""
        protection, flags, file = call.arguments[2:5]
        if "PROT_WRITE" in protection and "MAP_SHARED" in flags and "<" in file:
            path = text(file.replace("<", '"').replace(">", '"'))
            if path.startswith(self._prefix) and not path.endswith(UNSEEN):
                raise NotImplementedError(
                    f"{path} is written by a mapping, which strace cannot see"
                )


def _held(call: Call) -> tuple[int, int]:
    """Which open file the first argument of a call means."""
    return call.process, descriptor(call.arguments[0])


def _apply(names: dict[str, Node], change: dict[str, Union["Node", None]]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _put(content: bytearray, at: int, written: bytes | None) -> None:
    """Write, or set the size where nothing is written."""
    end = at if written is None else at + len(written)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if written is None:
        del content[at:]
    else:
        content[at:end] = written


def _sectors(at: int, length: int) -> list[tuple[int, int]]:
    """The parts of a write that a disk writes whole."""
    edges = [
        at,
        *range(at + SECTOR_BYTES - at % SECTOR_BYTES, at + length, SECTOR_BYTES),
        at + length,
    ]
    return list(itertools.pairwise(edges))


def _materialize(node: Folder, folder: Path, cut: Cut, chance: random.Random) -> None:
    folder.mkdir()
    for name, child in node.after(cut, chance).items():
        if isinstance(child, Folder):
            _materialize(child, folder / name, cut, chance)
        elif not name.endswith(UNSEEN):
            (folder / name).write_bytes(child.after(cut, chance))


def _walk(folder: Folder, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for name, child in folder.now.items():
        if isinstance(child, Folder):
            found += _walk(child, f"{prefix}{name}/")
        elif not name.endswith(UNSEEN):
            found.append((prefix + name, bytes(child.after(Cut.ALL, random.Random(0)))))
    return found
