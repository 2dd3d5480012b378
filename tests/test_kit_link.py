"""The kit's links: what each verb does to connections that are there and to new ones. Real sockets on loopback."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.kit import link

SHORT_SECONDS = 0.3


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """A server that says what it is told; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = server.accept()
                    threading.Thread(target=answer, args=(near,), daemon=True).start()

        def answer(near: socket.socket) -> None:
            with near, contextlib.suppress(OSError):
                while piece := near.recv(65536):
                    near.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def way() -> Iterator[link.Link]:
    with echo() as port, link.Network() as network:
        yield network.link("127.0.11.1", 0, to=("127.0.0.1", port))


def connect(way: link.Link, seconds: float = 5.0) -> socket.socket:
    return socket.create_connection((way.host, way.port), seconds)


def ask(connection: socket.socket, words: bytes) -> bytes:
    connection.sendall(words)
    return connection.recv(65536)


def test_a_link_carries_bytes_and_ends_in_both_directions(way: link.Link) -> None:
    with connect(way) as near:
        assert ask(near, b"one") == b"one"
        near.shutdown(socket.SHUT_WR)
        assert near.recv(10) == b""
    assert way.passed == 1


def test_a_cut_link_resets_what_is_there_and_refuses_what_comes_until_it_is_healed(way: link.Link) -> None:
    with connect(way) as near:
        assert ask(near, b"one") == b"one"
        way.cut()
        with pytest.raises(ConnectionResetError):
            near.recv(10)
    with pytest.raises(ConnectionRefusedError):
        connect(way)
    way.heal()
    with connect(way) as near:
        assert ask(near, b"two") == b"two"


def test_a_link_that_loses_packets_is_silent_and_all_arrives_when_it_is_healed(way: link.Link) -> None:
    with connect(way) as near:
        assert ask(near, b"one") == b"one"
        way.lose()
        near.settimeout(SHORT_SECONDS)
        with pytest.raises(TimeoutError):
            ask(near, b"two")
        with pytest.raises(TimeoutError):
            connect(way, SHORT_SECONDS)
        way.heal()
        near.settimeout(5.0)
        assert near.recv(10) == b"two"
    with connect(way) as near:
        assert ask(near, b"three") == b"three"


def test_a_connect_that_began_while_packets_were_lost_succeeds_after_the_healing(way: link.Link) -> None:
    way.lose()
    threading.Timer(SHORT_SECONDS, way.heal).start()
    with connect(way) as near:  # the kernel sends its first packet again after a second
        assert ask(near, b"one") == b"one"


def test_a_lossy_link_may_be_cut_and_is_as_new_when_it_is_healed(way: link.Link) -> None:
    way.lose()
    way.cut()
    with pytest.raises(ConnectionRefusedError):
        connect(way)
    way.heal()
    with connect(way) as near:
        assert ask(near, b"one") == b"one"


def test_a_slow_link_delays_each_direction_and_is_no_narrower_for_it(way: link.Link) -> None:
    with connect(way) as near:
        way.delay(0.5)
        began = time.monotonic()
        for number in range(10):
            near.sendall(b"%d" % number)
            time.sleep(0.005)
        said = b""
        while len(said) < 10:
            said += near.recv(10)
        assert said == b"0123456789"
        assert 1.0 <= time.monotonic() - began < 5.0, "ten pieces one after the other would take five seconds at least"
        way.heal()
        began = time.monotonic()
        assert ask(near, b"x") == b"x"
        assert time.monotonic() - began < 1.0


def test_a_link_to_nobody_takes_a_connection_and_resets_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with link.Network() as network:
        way = network.link("127.0.11.1", 0, to=("127.0.0.1", port))
        with pytest.raises(ConnectionResetError), connect(way) as near:  # a quick reset meets the connect itself
            near.recv(10)
