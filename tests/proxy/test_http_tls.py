"""TLS on both sides: https backends, trusted or not; an https listener, its certificate changed while it serves.

Real: the proxy's process, Python's ssl on the other ends, certificates of authorities that last for one test (trustme).
"""

import asyncio
import contextlib
import json
import pathlib
import signal
import socket
import ssl
import time
import typing
import urllib.parse
from collections.abc import Iterator

import pytest
import trustme

from tests import kit
from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, saying


class SecureStage(told.Stage):
    """The stage behind TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, self.host, 0, ssl=self._context, limit=2**24)
        self.port = server.sockets[0].getsockname()[1]
        self._running.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class SecureClient(kit.RawClient):
    """A client that speaks TLS."""

    def __init__(self, url: str, authority: trustme.CA, **options: typing.Any) -> None:
        super().__init__(url, **options)
        context = ssl.create_default_context()
        authority.configure_trust(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        self._socket = context.wrap_socket(self._socket, server_hostname="localhost")

    @property
    def secure(self) -> ssl.SSLSocket:
        assert isinstance(self._socket, ssl.SSLSocket)
        return self._socket


class SecureLane(Lane):
    """A proxy that is spoken to in TLS."""

    def __init__(self, proxy: kit.Proxy, stage: told.Stage, authority: trustme.CA) -> None:
        super().__init__(proxy, stage)
        self.authority = authority

    def client(self, **options: typing.Any) -> SecureClient:
        return SecureClient(self.proxy.origin, self.authority, **options)


class Files:
    """A certificate of a new authority and its key, as files that can be replaced."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.authority = trustme.CA()
        self.trust = folder / "ca.pem"
        self.certificate = folder / "cert.pem"
        self.key = folder / "key.pem"
        self.authority.cert_pem.write_to_path(self.trust)
        self.issue()

    def issue(self) -> None:
        """A new one in the place of the old."""
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(self.key)

    @property
    def flags(self) -> list[str]:
        return ["--tls-cert", str(self.certificate), "--tls-key", str(self.key)]

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture
def files(tmp_path: pathlib.Path) -> Files:
    return Files(tmp_path)


@contextlib.contextmanager
def listening(files: Files, *flags: str) -> Iterator[SecureLane]:
    """An https listener in front of a plain backend."""
    with told.Stage() as stage, kit.proxies(backends=[stage], flags=[*told.QUIET, *files.flags, *flags]) as [proxy]:
        lane = SecureLane(proxy, stage, files.authority)
        lane.open_session(told.SESSION)
        yield lane


@contextlib.contextmanager
def reaching(files: Files, context: ssl.SSLContext, *flags: str) -> Iterator[Lane]:
    """An https backend behind a plain listener."""
    with SecureStage(context) as stage:
        given = [*told.QUIET, "--backend-ca", str(files.trust), *flags]
        with kit.proxies(backends=[stage], flags=given, await_readyz=False) as [proxy]:
            yield Lane(proxy, stage)


# ---- the listener


@pytest.mark.parametrize("flags", [[], ["--no-fast-lane"]], ids=["fast", "story"])
def test_a_listener_speaks_tls_and_says_so(files: Files, flags: list[str]) -> None:
    with listening(files, *flags) as lane, lane.client() as client:
        assert lane.proxy.origin.startswith("https://")
        assert client.secure.selected_alpn_protocol() == "http/1.1"
        for _ in range(3):
            client.send(lane.post() + lane.post(b"x" * 100_000))
            assert client.response().raw == told.OK
            assert client.response().raw == told.OK
        request = lane.stage.requests[0]
        assert request.field("X-Forwarded-Proto") == "https"
        assert request.field("Forwarded") == f'for=127.0.0.1;host="{told.HOST}";proto=https'
        assert lane.fast_requests == (0 if flags else 3)


def test_a_large_body_passes_both_ways_through_tls(files: Files) -> None:
    body = bytes(range(256)) * (4 << 12)

    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        await connection.send(actors_message.format_response("200 OK", {}, request.body))

    with listening(files) as lane, lane.client() as client:
        lane.play(act)
        client.send(lane.post(body))
        assert client.response().body == body


def test_an_event_leaves_through_tls_as_soon_as_it_has_come(files: Files) -> None:
    with listening(files) as lane, lane.client() as client:
        lane.play(saying(*told.chunked(b"data: 1\n\n", b"data: 2\n\n"), seconds=0.3))
        client.send(lane.post())
        client.until(b"data: 1\n\n")
        begin = time.monotonic()
        client.until(b"data: 2\n\n")
        assert 0.2 < time.monotonic() - begin < 0.45


def test_a_request_in_pieces_of_tls_is_a_request(files: Files) -> None:
    with listening(files) as lane, lane.client() as client:
        client.send_slowly(lane.post(), piece_bytes=20, seconds=0.002)
        assert client.response().raw == told.OK


def test_a_refusal_can_be_read_through_tls(files: Files) -> None:
    with listening(files) as lane, lane.client() as client:
        client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100_000)
        assert client.rest().startswith(b"HTTP/1.1 413 ")


def test_a_connection_that_is_closed_is_closed_with_a_goodbye(files: Files) -> None:
    """Without close_notify a client could not tell the end from a cut (ssl raises on it)."""
    with listening(files) as lane, lane.client() as client:
        client.send(lane.post(fields={"Connection": "close"}))
        assert client.rest().endswith(told.RESULT)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""])
def test_who_speaks_no_tls_is_turned_away_and_nobody_else_notices(files: Files, data: bytes) -> None:
    with listening(files, "--header-timeout", "500ms") as lane:
        parts = urllib.parse.urlsplit(lane.proxy.origin)
        with socket.create_connection((parts.hostname, parts.port or 0)) as plain:
            plain.sendall(data)
            with lane.client() as client:
                client.send(lane.post())
                assert client.response().raw == told.OK
            plain.settimeout(3)
            with contextlib.suppress(ConnectionResetError):
                while plain.recv(4096):
                    pass


def test_a_client_that_cuts_the_connection_within_the_handshake_costs_nothing(files: Files) -> None:
    with listening(files) as lane:
        parts = urllib.parse.urlsplit(lane.proxy.origin)
        before = lane.proxy.descriptors
        for _ in range(30):
            with socket.create_connection((parts.hostname, parts.port or 0)) as plain:
                plain.sendall(bytes.fromhex("16030100c8010000c40303"))
        told.await_that(lambda: lane.proxy.descriptors <= before, "descriptors are where they were")


def test_a_hangup_reads_the_certificate_again(files: Files) -> None:
    with listening(files) as lane, lane.client() as old:
        first = old.secure.getpeercert(binary_form=True)
        files.issue()
        lane.proxy.signal(signal.SIGHUP)
        told.await_that(lambda: serial(lane) != first, "the new certificate")
        old.send(lane.post())  # what was connected before stays so
        assert old.response().raw == told.OK


def test_a_hangup_with_a_broken_certificate_keeps_the_old_one(files: Files) -> None:
    with listening(files) as lane:
        first = serial(lane)
        files.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense\n")
        lane.proxy.signal(signal.SIGHUP)
        told.await_that(lambda: "not reloaded" in lane.proxy.stderr, "a line in the log")
        assert serial(lane) == first


def serial(lane: SecureLane) -> bytes | None:
    with lane.client() as client:
        return client.secure.getpeercert(binary_form=True)


# ---- backends


@pytest.mark.parametrize("flags", [[], ["--no-fast-lane"]], ids=["fast", "story"])
def test_an_https_backend_is_asked_on_connections_that_are_kept(files: Files, flags: list[str]) -> None:
    with reaching(files, files.server(), *flags) as lane:
        lane.open_session(told.SESSION)
        with lane.client() as client:
            for _ in range(10):
                client.send(lane.post(b"x" * 5000))
                assert client.response().raw == told.OK
            time.sleep(0.1)  # session tickets may come late; they are no answer
            client.send(lane.post())
            assert client.response().raw == told.OK
        assert len(lane.stage.connections) == 1
        assert lane.stage.requests[0].field("Host") == f"localhost:{lane.stage.port}"
        assert lane.fast_requests == (0 if flags else 11)


def test_a_large_body_passes_both_ways_to_an_https_backend(files: Files) -> None:
    body = bytes(range(256)) * (4 << 12)

    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        await connection.send(actors_message.format_response("200 OK", {}, request.body))

    with reaching(files, files.server()) as lane:
        lane.open_session(told.SESSION)
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post(body))
            assert client.response().body == body


def test_an_https_backend_of_another_authority_is_not_trusted(files: Files, tmp_path: pathlib.Path) -> None:
    (tmp_path / "other").mkdir()
    other = Files(tmp_path / "other")
    with reaching(files, other.server()) as lane, lane.client() as client:
        answer = client.request("POST", "/mcp", told.JSON, told.CALL)
    error = json.loads(answer.body)["error"]
    assert error["data"] == {"reason": "backend_unreachable"}
    assert "certificate verify failed" in error["message"]
    assert lane.requests() == []


def test_an_https_backend_under_another_name_is_not_trusted(files: Files, tmp_path: pathlib.Path) -> None:
    issued = files.authority.issue_cert("elsewhere.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    with reaching(files, context) as lane, lane.client() as client:
        answer = client.request("POST", "/mcp", told.JSON, told.CALL)
    error = json.loads(answer.body)["error"]
    assert error["data"] == {"reason": "backend_unreachable"}
    assert "ostname mismatch" in error["message"]


def test_an_answer_until_the_end_that_is_cut_without_a_goodbye_is_a_cut_answer(files: Files) -> None:
    """Whoever can cut the connection between the two could cut the answer otherwise."""

    async def act(connection: actors_wire.Connection) -> None:
        await connection.read_request()
        await connection.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of")
        await asyncio.sleep(0.05)
        connection._writer.get_extra_info("socket")
        raw = socket.socket(fileno=connection._writer.get_extra_info("socket").fileno())
        raw.shutdown(socket.SHUT_WR)
        raw.detach()

    with reaching(files, files.server()) as lane:
        lane.open_session(told.SESSION)
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post())
            assert not client.rest().endswith(b"0\r\n\r\n")


def test_a_backend_that_speaks_no_tls_is_unreachable(files: Files) -> None:
    with told.Stage(saying(told.OK)) as stage:
        place = f"https://localhost:{stage.port}"
        given = [*told.QUIET, "--backend-ca", str(files.trust), "--connect-timeout", "500ms"]
        running = kit.proxies(backends=[place], flags=given, await_readyz=False)
        with running as [proxy], kit.RawClient(proxy.origin) as client:
            answer = client.request("POST", "/mcp", told.JSON, told.CALL)
    assert json.loads(answer.body)["error"]["data"] == {"reason": "backend_unreachable"}
