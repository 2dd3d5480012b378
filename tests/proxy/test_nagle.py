"""Backends without TCP_NODELAY, as uvicorn's are: what the relay learns of them (ext/nagle.pyx).

Real: the data plane, the sockets, the kernel's delayed acknowledgement. The backend is a thread that writes an answer
in two pieces; whether the second waits for the first's acknowledgement is up to the kernel, as it is for uvicorn. What
the pause costs in milliseconds is the bench's business (`python -m bench.pause`), not a test's.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import stage

PIECES = (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n", b"{}")


class Writer(threading.Thread):
    """Answers each request in two writes, `pause` seconds apart, on sockets as the kernel makes them."""

    def __init__(self, *, nodelay: bool, pause: float) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self.nodelay = nodelay
        self.pause = pause

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listening.accept()
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self.nodelay)
                threading.Thread(target=self.answer, args=(peer,), daemon=True).start()

    def answer(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while peer.recv(65536):
                for piece in PIECES:
                    peer.sendall(piece)
                    time.sleep(self.pause)


@contextlib.contextmanager
def writer(*, nodelay: bool, pause: float = 0.0) -> Iterator[Writer]:
    backend = Writer(nodelay=nodelay, pause=pause)
    backend.start()
    try:
        yield backend
    finally:
        backend.listening.close()


def learned(proxy: stage.Stage, calls: int) -> int:
    """How sure the relay is, after some calls, that the only replica waits for its acknowledgements."""
    for _ in range(calls):
        assert proxy.send("GET", "/mcp").body == b"{}"
    return proxy.call(lambda: proxy.plane.endpoint(0).waits_for_us)


def test_a_backend_that_waits_for_acknowledgements_is_found_out_and_metrics_say_so() -> None:
    with writer(nodelay=False) as backend, stage.Stage({"backend": [backend.origin]}) as proxy:
        assert learned(proxy, calls=40) > 0  # the kernel acknowledges the first segments of a connection at once
        assert b"fastproxy_backend_waits_for_acks" in proxy.ask("GET", "/metrics").body


@pytest.mark.parametrize("pause", [0.0, 0.15], ids=["quick", "slow"])
def test_a_backend_that_does_not_wait_is_left_alone(pause: float) -> None:
    with writer(nodelay=True, pause=pause) as backend, stage.Stage({"backend": [backend.origin]}) as proxy:
        assert learned(proxy, calls=4) == 0
