"""Reading into one buffer: pieces, deadlines and ends."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from osteon.scp import inbox as inbox_module
from osteon.scp.inbox import BUFFER_BYTES, LARGE_BYTES, Inbox
from osteon.scp.transport import QUICKACK, bound_waits, wake

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


def test_exact_counts_come_however_they_were_sent(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "BUFFER_BYTES", 100)
    ours, theirs = pair
    sent = bytes(range(256)) * 20
    inbox = Inbox(ours)
    sender = threading.Thread(target=theirs.sendall, args=(sent,))
    sender.start()

    received = b""
    for count in [1, 6, 93, 100, 7] * 100:
        received += inbox.take(min(count, len(sent) - len(received)), soon())
    sender.join()

    assert received == sent


def test_pieces_are_never_longer_than_asked_for(pair: Pair) -> None:
    ours, theirs = pair
    sent = bytes(range(256)) * 4096
    inbox = Inbox(ours)
    sender = threading.Thread(target=theirs.sendall, args=(sent,))
    sender.start()

    received = b""
    while len(received) < len(sent):
        piece = inbox.some(1000, soon())
        assert 1 <= len(piece) <= 1000
        received += piece
    sender.join()

    assert received == sent


@pytest.mark.parametrize("large", [1, 50, 10**9])
@pytest.mark.parametrize("ahead", [1, 7, 300])
def test_memory_of_the_callers_is_filled_with_what_comes_next(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, large: int, ahead: int
) -> None:
    """However little or much comes with it, and whatever is asked for in between."""
    monkeypatch.setattr(inbox_module, "LARGE_BYTES", large)
    monkeypatch.setattr(inbox_module, "AHEAD_BYTES", ahead)
    ours, theirs = pair
    sent = bytes(range(256)) * 200
    inbox = Inbox(ours)
    sender = threading.Thread(target=theirs.sendall, args=(sent,))
    sender.start()

    received = b""
    while len(received) < len(sent):
        inbox.wait(soon())
        received += inbox.take(min(6, len(sent) - len(received)), soon())
        due = min(1000, len(sent) - len(received))
        while due:
            room = memoryview(bytearray(due))
            count = inbox.fill(room, soon())
            assert 1 <= count <= due
            received += room[:count]
            due -= count
    sender.join()

    assert received == sent


def test_what_is_due_goes_past_the_buffer(pair: Pair) -> None:
    ours, theirs = pair
    inbox, room = Inbox(ours), memoryview(bytearray(LARGE_BYTES))
    theirs.sendall(bytes(LARGE_BYTES) + b"behind")
    time.sleep(0.05)

    assert inbox.fill(room, soon()) == LARGE_BYTES
    assert bytes(inbox.take(6, soon())) == b"behind"
    theirs.close()
    with pytest.raises(ConnectionError, match="closed"):
        inbox.fill(room, soon())


def test_filling_runs_into_the_deadline(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        Inbox(pair[0]).fill(memoryview(bytearray(10)), time.monotonic() + 0.1)


def test_the_end_is_told(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    theirs.close()
    inbox = Inbox(ours)

    assert bytes(inbox.some(BUFFER_BYTES, soon())) == b"abc"
    with pytest.raises(ConnectionError, match="closed"):
        inbox.wait(soon())


def test_another_thread_ends_a_wait(pair: Pair) -> None:
    ours, _ = pair
    inbox = Inbox(ours)
    threading.Timer(0.05, wake, (ours, socket.SHUT_RD)).start()

    with pytest.raises(ConnectionError):
        inbox.wait(soon())


def test_a_silent_peer_runs_into_the_deadline(pair: Pair) -> None:
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        Inbox(pair[0]).wait(started + 0.1)
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
            Inbox(ours).take(10_000, started + 0.1)
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

    Inbox(ours).wait(soon())

    assert QUICKACK == socket.TCP_QUICKACK
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
