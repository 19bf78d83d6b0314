"""Reading into one buffer: pieces, deadlines and ends."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from osteon.scp import inbox as inbox_module
from osteon.scp.inbox import BUFFER_BYTES, Inbox
from osteon.scp.transport import QUICKACK, bound_waits, wake
from tests.tools import wait_until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        bound_waits(ours, 0.02, 0.02)
        yield ours, theirs


def soon() -> float:
    return time.monotonic() + 5


def nothing() -> None:
    """Views are read at once here."""


def test_exact_counts_come_however_they_were_sent(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "BUFFER_BYTES", 100)
    ours, theirs = pair
    sent = bytes(range(256)) * 20
    inbox = Inbox(ours, nothing, nothing)
    sender = threading.Thread(target=theirs.sendall, args=(sent,))
    sender.start()

    received = b""
    for count in [1, 6, 93, 100, 7] * 100:
        received += inbox.take(min(count, len(sent) - len(received)), soon())
    sender.join()

    assert received == sent


def test_views_stay_until_it_is_said_that_they_will_not(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "BUFFER_BYTES", 1000)
    ours, theirs = pair
    sent = bytes(range(256)) * 100
    views: list[memoryview] = []
    kept: list[bytes] = []

    def settle() -> None:
        kept.extend(bytes(view) for view in views)
        views.clear()

    inbox = Inbox(ours, settle, nothing)
    sender = threading.Thread(target=theirs.sendall, args=(sent,))
    sender.start()
    left = len(sent)
    for count in [1, 70, 6, 300, 12] * 1000:
        if left:
            whole = count <= 12
            view = inbox.take(min(count, left), soon()) if whole else inbox.some(count, soon())
            views.append(view)
            left -= len(view)
    sender.join()
    settle()

    assert b"".join(kept) == sent


def test_rewinding_loses_nothing_that_was_not_taken(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"abcdef")
    inbox = Inbox(ours, nothing, nothing)

    assert bytes(inbox.take(4, soon())) == b"abcd"
    inbox.rewind()
    assert bytes(inbox.take(2, soon())) == b"ef"
    inbox.rewind()
    theirs.sendall(b"gh")
    assert bytes(inbox.take(2, soon())) == b"gh"


def test_pieces_are_never_longer_than_asked_for(pair: Pair) -> None:
    ours, theirs = pair
    sent = bytes(range(256)) * 4096
    inbox = Inbox(ours, nothing, nothing)
    sender = threading.Thread(target=theirs.sendall, args=(sent,))
    sender.start()

    received = b""
    while len(received) < len(sent):
        piece = inbox.some(1000, soon())
        assert 1 <= len(piece) <= 1000
        received += piece
    sender.join()

    assert received == sent


def test_the_end_is_told(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    theirs.close()
    inbox = Inbox(ours, nothing, nothing)

    assert bytes(inbox.some(BUFFER_BYTES, soon())) == b"abc"
    with pytest.raises(ConnectionError, match="closed"):
        inbox.wait(soon())


def test_another_thread_ends_a_wait(pair: Pair) -> None:
    ours, _ = pair
    inbox = Inbox(ours, nothing, nothing)
    threading.Timer(0.05, wake, (ours, socket.SHUT_RD)).start()

    with pytest.raises(ConnectionError):
        inbox.wait(soon())


def test_it_is_told_before_it_waits_and_only_then(pair: Pair) -> None:
    ours, theirs = pair
    told: list[str] = []
    inbox = Inbox(ours, nothing, lambda: told.append("idle"))
    theirs.sendall(b"abcd")
    wait_until(lambda: len(ours.recv(4, socket.MSG_PEEK)) == 4)
    assert inbox.take(4, soon()) == b"abcd"
    assert told == []

    threading.Timer(0.05, theirs.sendall, (b"e",)).start()
    assert inbox.take(1, soon()) == b"e"
    assert told == ["idle"]


def test_a_silent_peer_runs_into_the_deadline(pair: Pair) -> None:
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        Inbox(pair[0], nothing, nothing).wait(started + 0.1)
    assert 0.1 <= time.monotonic() - started < 1


def test_a_trickling_peer_runs_into_the_deadline(pair: Pair) -> None:
    ours, theirs = pair
    gone = threading.Event()

    def trickle() -> None:
        while not gone.wait(0.005):
            theirs.send(b"x")

    sender = threading.Thread(target=trickle)
    sender.start()
    started = time.monotonic()
    try:
        with pytest.raises(TimeoutError):
            Inbox(ours, nothing, nothing).take(10_000, started + 0.1)
    finally:
        gone.set()
        sender.join()
    assert time.monotonic() - started < 1


def test_a_peer_that_takes_nothing_runs_into_the_deadline(pair: Pair) -> None:
    started = time.monotonic()

    with pytest.raises(BlockingIOError):
        pair[0].sendall(bytes(2**26))
    assert time.monotonic() - started < 5


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux has it")
def test_what_was_read_is_acknowledged_at_once(pair: Pair) -> None:
    """Or senders with Nagle's algorithm on would wait 40 ms for the end of each instance."""
    ours, theirs = pair
    theirs.sendall(b"abc")
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    Inbox(ours, nothing, nothing).wait(soon())

    assert QUICKACK == socket.TCP_QUICKACK
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
