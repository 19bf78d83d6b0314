"""Reading from sockets of peers that are slow, silent or gone."""

import socket
import threading
import time

import pytest

from osteon.scp.transport import close_socket, receive_exactly


@pytest.fixture
def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        yield ours, theirs


def test_pieces_are_put_together(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.settimeout(5)
    sent = bytes(range(256)) * 4096
    sender = threading.Thread(target=theirs.sendall, args=(sent,))
    sender.start()

    received = receive_exactly(ours, len(sent), time.monotonic() + 5)

    sender.join()
    assert received == sent


def test_what_came_before_the_end_is_returned(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"abc")
    theirs.close()

    assert receive_exactly(ours, 6, time.monotonic() + 5) == b"abc"


def test_a_silent_peer_runs_into_the_time_out(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.settimeout(0.05)
    theirs.sendall(b"abc")

    with pytest.raises(TimeoutError):
        receive_exactly(ours, 6, time.monotonic() + 5)


def test_a_trickling_peer_runs_into_the_deadline(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.settimeout(5)
    gone = threading.Event()

    def trickle() -> None:
        while not gone.wait(0.01):
            theirs.send(b"x")

    sender = threading.Thread(target=trickle)
    sender.start()
    try:
        with pytest.raises(TimeoutError, match="came in time"):
            receive_exactly(ours, 10_000, time.monotonic() + 0.1)
    finally:
        gone.set()
        sender.join()


def test_closing_wakes_a_blocked_reader(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    read: list[bytes] = []
    reader = threading.Thread(
        target=lambda: read.append(bytes(receive_exactly(ours, 6, time.monotonic() + 60)))
    )
    reader.start()

    ours.shutdown(socket.SHUT_RDWR)
    reader.join(5)

    assert read == [b""]
    close_socket(ours)
    close_socket(ours)
