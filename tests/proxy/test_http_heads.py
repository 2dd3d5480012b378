"""Heads between the hops: what ends here, what passes, what is set anew; Host, targets and a backend's path prefix.

Real: the proxy's processes on loopback (IPv4 and IPv6), both lanes, sockets on both sides. The address of a peer that
is trusted is 127.0.0.1 too, so trust is shown by two pairs of proxies: one that trusts loopback, one that does not.
"""

import socket
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, Lanes, saying

OWN_FIELDS = {"host", "content-length", "mcp-session-id", "content-type"}


@pytest.fixture(scope="module")
def trusting() -> Iterator[Lanes]:
    """Proxies that believe what a peer on loopback says about its clients."""
    with told.lanes("--trusted-proxy", "10.0.0.0/8", "--trusted-proxy", "127.0.0.0/8") as both:
        yield both


@pytest.fixture(scope="module")
def prefixed() -> Iterator[Lanes]:
    """A backend whose URL has a path."""
    with told.lanes(prefix="/tenant/a") as both:
        yield both


def asked(lane: Lane, request: bytes) -> actors_message.Message:
    """The request as the backend got it; the client got the usual answer."""
    with lane.client() as client:
        client.send(request)
        assert client.response().raw == told.OK
    return lane.stage.await_requests(1)[0]


def fields_seen(lanes: Lanes, fields: dict[str, str], *, fast: int = 1) -> dict[str, str]:
    """What the backend sees beside the lines that every request here has."""
    request = lanes.tell(lambda lane: asked(lane, lane.post(fields=fields)), fast=fast)
    return {name: value for name, value in request.fields if name not in OWN_FIELDS}


def test_hop_by_hop_fields_of_a_request_end_here(lanes: Lanes) -> None:
    seen = fields_seen(
        lanes,
        {
            "Connection": "keep-alive, X-Mine , x-theirs,,",
            "X-Mine": "1",
            "X-Theirs": "2",
            "X-Ours": "3",
            "Keep-Alive": "timeout=9",
            "Proxy-Connection": "keep-alive",
            "Proxy-Authorization": "Basic eDp5",
            "TE": "trailers",
            "Trailer": "X-Checksum",
            "Upgrade": "websocket",
            "Proxied": "not one of them",
        },
    )
    del seen["x-forwarded-for"], seen["x-forwarded-host"], seen["x-forwarded-proto"], seen["forwarded"]
    assert seen == {"x-ours": "3", "proxied": "not one of them"}


def test_hop_by_hop_fields_of_an_answer_end_here(lanes: Lanes) -> None:
    fields = {
        **told.JSON,
        "Connection": "X-Mine, keep-alive",
        "X-Mine": "1",
        "X-Ours": "3",
        "Keep-Alive": "timeout=60",
        "Proxy-Authenticate": "Basic",
        "Trailer": "X-Checksum",
        "Upgrade": "h2c",
        "Set-Cookie": "a=1",
        "set-cookie": "b=2",
    }
    answer = actors_message.format_response("200 OK", fields, told.RESULT)

    def tell(lane: Lane) -> tuple[bytes, int]:
        lane.play(actors_wire.answering(answer))
        with lane.client() as client:
            client.send(lane.post())
            first = client.response().raw
            client.send(lane.post())
            assert client.response().raw == first
        return first, len(lane.stage.connections)

    seen, connections = lanes.tell(tell, fast=2)
    assert seen == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Ours: 3\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"
        b"Content-Length: 48\r\n\r\n" + told.RESULT
    )
    assert connections == 1


def test_a_connection_field_names_no_field_that_frames_routes_or_authenticates(lanes: Lanes) -> None:
    named = "Content-Length, Host, Mcp-Session-Id, MCP-Protocol-Version, Authorization, Content-Type"
    request = lanes.tell(
        lambda lane: asked(
            lane,
            lane.post(fields={"Connection": named, "Authorization": "Bearer x", "MCP-Protocol-Version": "2025-06-18"}),
        ),
        fast=1,
    )
    assert request.body == told.CALL
    assert request.field("Mcp-Session-Id") == told.SESSION
    assert request.field("Authorization") == "Bearer x"
    assert request.field("MCP-Protocol-Version") == "2025-06-18"


def test_host_becomes_the_authority_of_the_backend(lanes: Lanes) -> None:
    request = lanes.tell(lambda lane: asked(lane, lane.post()), fast=1)
    assert request.fields[0] == ("host", f"127.0.0.1:{lanes.fast.stage.port}")
    assert request.field("X-Forwarded-Host") == told.HOST


def test_what_a_stranger_says_about_itself_is_replaced(lanes: Lanes) -> None:
    seen = fields_seen(
        lanes,
        {
            "X-Forwarded-For": "6.6.6.6",
            "x-forwarded-host": "evil.example",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Port": "443",
            "X-Forwarded-Prefix": "/evil",
            "Forwarded": "for=6.6.6.6",
        },
    )
    assert seen == {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": told.HOST,
        "x-forwarded-proto": "http",
        "forwarded": f'for=127.0.0.1;host="{told.HOST}";proto=http',
    }


def test_what_a_trusted_proxy_says_is_believed_and_extended(trusting: Lanes) -> None:
    seen = fields_seen(
        trusting,
        {
            "X-Forwarded-For": "203.0.113.7, 10.0.0.2",
            "X-Forwarded-Host": "api.example.com",
            "X-Forwarded-Proto": "https",
            "Forwarded": "for=203.0.113.7;proto=https",
        },
    )
    assert seen == {
        "x-forwarded-for": "203.0.113.7, 10.0.0.2, 127.0.0.1",
        "x-forwarded-host": "api.example.com",
        "x-forwarded-proto": "https",
        "forwarded": f'for=203.0.113.7;proto=https, for=127.0.0.1;host="{told.HOST}";proto=http',
    }


def test_a_trusted_proxy_may_say_it_in_several_lines_or_not_at_all(trusting: Lanes) -> None:
    def tell(lane: Lane) -> actors_message.Message:
        lines = b"\r\nX-Forwarded-For: 203.0.113.7\r\nX-FORWARDED-FOR: 10.0.0.2\r\nX-Forwarded-For:\r\n\r\n"
        return asked(lane, lane.post().replace(b"\r\n\r\n", lines, 1))

    seen = trusting.tell(tell, fast=1)
    assert seen.field("X-Forwarded-For") == "203.0.113.7, 10.0.0.2, 127.0.0.1"
    assert seen.field("X-Forwarded-Host") == told.HOST
    assert fields_seen(trusting, {})["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("fields", [0, 150])
def test_the_longest_head_that_may_pass_has_room_for_what_the_proxy_adds(trusting: Lanes, fields: int) -> None:
    """The rewritten head is longer than the client's: nothing may be cut off or written past its end."""

    def tell(lane: Lane) -> actors_message.Message:
        given = {f"X-Field-{number}": "v" * 8 for number in range(fields)}
        request = lane.post(fields={"X-Forwarded-For": "9.9.9.9", **given, "X-Long": "l"})
        room = 32_768 - request.index(b"\r\n\r\n") - 4
        return asked(lane, request.replace(b"X-Long: l", b"X-Long: l" + b"l" * room))

    seen = trusting.tell(tell, fast=1)
    assert seen.field("X-Forwarded-For") == "9.9.9.9, 127.0.0.1"
    assert len(seen.head) > 32_768


def test_a_client_on_ipv6_is_named_in_brackets() -> None:
    with told.Stage() as stage, kit.proxies(backends=[stage], flags=[*told.QUIET, "--listen", "[::1]:0"]) as [proxy]:
        port = int(proxy.origin.rpartition(":")[2])
        assert proxy.origin == f"http://[::1]:{port}"
        with socket.create_connection(("::1", port)) as client:
            client.sendall(f"GET /a HTTP/1.1\r\nHost: [::1]:{port}\r\n\r\n".encode())
            assert client.recv(65_536) == told.OK
        request = stage.await_requests(1)[0]
        assert request.field("X-Forwarded-For") == "::1"
        assert request.field("X-Forwarded-Host") == f"[::1]:{port}"
        assert request.field("Forwarded") == f'for="[::1]";host="[::1]:{port}";proto=http'


# ---- targets


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        ("/mcp", "/mcp"),
        ("/mcp?x=1&y=%20%2F#", "/mcp?x=1&y=%20%2F#"),
        ("//mcp//../a", "//mcp//../a"),
        (f"http://{told.HOST}/mcp?x=1", "/mcp?x=1"),
        (f"HTTP://{told.HOST.upper()}/", "/"),
        (f"https://{told.HOST}/mcp", "/mcp"),
    ],
)
def test_a_target_passes_as_it_is_and_an_absolute_one_in_origin_form(lanes: Lanes, target: str, forwarded: str) -> None:
    request = lanes.tell(lambda lane: asked(lane, lane.post(target=target)), fast=1)
    assert request.target == forwarded


def test_options_of_the_server_as_a_whole_passes(lanes: Lanes) -> None:
    request = lanes.tell(lambda lane: asked(lane, lane.plain("OPTIONS", "*")))
    assert request.start_line == "OPTIONS * HTTP/1.1"


@pytest.mark.parametrize(
    ("method", "target", "forwarded"),
    [("POST", "/mcp?a=1", "/tenant/a/mcp?a=1"), ("GET", "/", "/tenant/a/"), ("OPTIONS", "*", "*")],
)
def test_the_path_of_a_backend_comes_before_every_path(
    prefixed: Lanes, method: str, target: str, forwarded: str
) -> None:
    def tell(lane: Lane) -> actors_message.Message:
        return asked(lane, lane.post(target=target) if method == "POST" else lane.plain(method, target))

    request = prefixed.tell(tell)
    assert request.target == forwarded
    assert request.field("Host") == f"127.0.0.1:{prefixed.fast.stage.port}"


def test_methods_that_nobody_knows_pass(lanes: Lanes) -> None:
    request = lanes.tell(lambda lane: asked(lane, lane.plain("M-SEARCH", "/x")))
    assert request.start_line == "M-SEARCH /x HTTP/1.1"


def test_an_answer_keeps_its_status_its_reason_and_what_nobody_knows(lanes: Lanes) -> None:
    answer = b"HTTP/1.1 299 Quite  all right \xe9\r\nX-Odd:\r\nx-UPPER:  a,\tb \r\nContent-Length: 2\r\n\r\nok"

    def tell(lane: Lane) -> bytes:
        lane.play(saying(answer))
        with lane.client() as client:
            client.send(lane.post())
            return client.response().raw

    assert lanes.tell(tell, fast=1) == answer


def test_an_answer_without_a_reason_is_an_answer(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        lane.play(saying(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"))
        with lane.client() as client:
            client.send(lane.post())
            return client.response().raw

    assert lanes.tell(tell, fast=1) == b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"
