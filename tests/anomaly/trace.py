"""strace: record what a role does to its disk, and make its system calls fail.

A running role and the name of a call enter; the call fails, or the process dies in it. Or a log of
strace enters and `Call`s leave, in the order in which they took effect; ``disk.py`` replays them.
"""

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

ATTACH_S = 20.0
DETACH_S = 3.0
KILL = "signal=KILL"
# All that changes a file or a folder, tells which file is meant, or tells a peer something.
RECORDED = (
    "openat,open,creat,close,dup,dup2,dup3,write,writev,pwrite64,pwritev,pwritev2,sendfile,splice,"
    "copy_file_range,ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,rename,renameat,"
    "renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,mmap,sendto,"
    "sendmsg,sendmmsg,clone,clone3,fork,vfork"
)
_EARLY = frozenset({"close", "sendto", "sendmsg", "sendmmsg"})
_BIRTHS = ("clone", "clone3", "fork", "vfork")
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed>)(.*)", re.DOTALL)
_RESULT = re.compile(r"\) += (-?\d+|\?)(?:<[^>]*>)?(?:\(deleted\))?(?: .*)?$")
_UNFINISHED = " <unfinished ...>"
_HEX = re.compile(r"\\x")


@dataclass(frozen=True)
class Call:
    """One system call.

    Attributes
    ----------
    process : int
        Whose descriptors it means.
    is_start : bool
        It was begun but may not have taken effect; every other is told of when it has.
    """

    thread: int
    name: str
    arguments: tuple[str, ...]
    result: int
    process: int = 0
    is_start: bool = False

    @property
    def is_to_peer(self) -> bool:
        """Whether it tells a peer something; what its processes tell each other does not."""
        return self.name in {"sendto", "sendmsg"} and "<TCP" in self.arguments[0]


def recorder(log: Path) -> tuple[str, ...]:
    """The command that runs another one and records its calls."""
    return ("strace", "-f", "-yy", "-xx", "-s", "16777216", "--seccomp-bpf",
            "-o", str(log), "-e", f"trace={RECORDED}")  # fmt: skip


def killer(call: str, when: int) -> tuple[str, ...]:
    """The command that runs another one and kills it at the n-th such call of a thread."""
    # With its option --seccomp-bpf, strace 6.1 would send no signals.
    return ("strace", "-f", "-o", "/dev/null", "-e", f"trace={call}",
            "-e", f"inject={call}:{KILL}:when={when}")  # fmt: skip


@contextmanager
def injected(pids: Sequence[int], call: str, what: str, log: Path) -> Iterator[None]:
    """Let calls of running processes fail while the block runs.

    Parameters
    ----------
    what : str
        As strace has it: ``signal=KILL:when=3``, ``error=EIO:when=2``. Each thread counts its own.
    """
    with log.open("wb") as out:
        strace = subprocess.Popen(
            ["strace", "-f", "-p", ",".join(map(str, pids)), "-e", f"trace={call}",
             "-e", f"inject={call}:{what}"],
            stderr=out,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + ATTACH_S
        while (said := log.read_text()).count(" attached") < len(pids):
            if strace.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"strace could not attach: {said}")
            time.sleep(0.005)
        yield
    finally:
        strace.terminate()  # It lets go of the process.
        try:
            strace.wait(DETACH_S)
        except subprocess.TimeoutExpired:
            strace.kill()  # It waits for a thread that has ended; the kernel lets go then.
            strace.wait(DETACH_S)


def injections(log: Path) -> int:
    """How many calls failed as `injected` wanted it."""
    return log.read_text(errors="replace").count("(INJECTED)")


def read_calls(log: Path) -> Iterator[Call]:
    """Read a recording; calls that failed are left out.

    A call of several lines stands where it ended, since only then it has taken effect. What is
    sent to a peer may have reached it before the call ends, and the number of a closed descriptor
    may be another thread's by then, so these stand where they began.
    """
    process_of: dict[int, int] = {}  # Threads may be heard of before the call that makes them ends.
    for call in _read_calls(log):
        process = process_of.setdefault(call.thread, call.thread)
        if call.name in _BIRTHS:
            is_thread = any("CLONE_THREAD" in argument for argument in call.arguments)
            process_of[call.result] = process if is_thread else call.result
    for call in _read_calls(log):
        if call.name not in _BIRTHS:
            yield replace(call, process=process_of[call.thread])


def _read_calls(log: Path) -> Iterator[Call]:
    """Read a recording; of what process a thread is, is not told."""
    begun: dict[int, str] = {}
    with log.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            match = _LINE.match(line.rstrip("\n"))
            if match is None:
                continue  # A signal, or the end of a thread.
            thread, name, kind, rest = int(match[1]), match[2], match[3], match[4]
            is_early = name in _EARLY
            if rest.endswith(_UNFINISHED):
                begun[thread] = rest.removesuffix(_UNFINISHED)
                if is_early:
                    yield Call(thread, name, _split(begun[thread].rstrip(", ")), 0, is_start=True)
                continue
            if kind != "(":
                if is_early:
                    begun.pop(thread, None)
                    continue
                rest = begun.pop(thread, "") + rest
            result = _RESULT.search(rest)
            if result is not None and result[1] != "?" and int(result[1]) >= 0:
                yield Call(thread, name, _split(rest[: result.start()]), int(result[1]))


def _split(arguments: str) -> tuple[str, ...]:
    """Split at the commas between arguments; strings are in hex and hold none."""
    parts, depth, start = [], 0, 0
    if "[" not in arguments and "{" not in arguments:
        return tuple(part.strip() for part in arguments.split(","))
    for at, char in enumerate(arguments):
        if char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and not depth:
            parts.append(arguments[start:at].strip())
            start = at + 1
    return (*parts, arguments[start:].strip())


def text(quoted: str) -> str:
    """A path as strace writes it."""
    return data(quoted).decode()


def data(quoted: str) -> bytes:
    """Bytes as strace writes them."""
    return bytes.fromhex(_HEX.sub("", quoted[quoted.index('"') + 1 : quoted.rindex('"')]))


def vectors(argument: str) -> bytes:
    """The bytes of all buffers of a gathering call."""
    return b"".join(
        bytes.fromhex(_HEX.sub("", v)) for v in re.findall(r'iov_base="([^"]*)"', argument)
    )


def descriptor(argument: str) -> int:
    """The number in ``7</path>``."""
    return int(argument.split("<", 1)[0])
