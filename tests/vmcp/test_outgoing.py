"""Which headers go to a backend: injected ones, and those of the client that may pass. Pure."""

import pytest

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import outgoing

CLIENT = [
    (b"Authorization", b"Bearer client"),
    (b"Cookie", b"a=b"),
    (b"X-Tenant", b"blue"),
    (b"x-trace", b"1"),
    (b"X-Trace", b"2"),
    (b"Mcp-Session-Id", b"s"),
    (b"X-Forwarded-For", b"10.0.0.1"),
]


def test_only_what_the_owner_names_passes_and_all_of_its_values() -> None:
    assert outgoing.passed_on(("X-TRACE",), CLIENT, []) == [(b"x-trace", b"1"), (b"X-Trace", b"2")]
    assert outgoing.passed_on((), CLIENT, []) == []


@pytest.mark.parametrize(
    "name", ["Authorization", "cookie", "Mcp-Session-Id", "X-Forwarded-For", "Host", "TE", "Proxy-X"]
)
def test_what_is_of_the_connection_the_protocol_or_the_client_never_passes(name: str) -> None:
    assert outgoing.passed_on((name,), [*CLIENT, (name.encode(), b"x")], []) == []
    assert outgoing.refusal(name, injected=False) is not None


def test_the_backends_own_header_wins_over_the_clients_and_the_owner_can_be_told() -> None:
    mine = outgoing.own((vmcp_schema.Header("X-Tenant", "red"),))
    assert mine == [(b"X-Tenant", b"red")]
    assert outgoing.passed_on(("x-tenant", "x-trace"), CLIENT, mine) == [(b"x-trace", b"1"), (b"X-Trace", b"2")]
    assert outgoing.collisions(("X-tenant", "x-trace"), mine) == ["x-tenant"]


def test_credentials_of_the_owners_own_are_sent() -> None:
    assert outgoing.refusal("Authorization", injected=True) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("Host", "evil", id="host"),
        pytest.param("Content-Length", "0", id="length"),
        pytest.param("Mcp-Method", "x", id="protocol"),
        pytest.param("X Space", "x", id="no name"),
        pytest.param("X-Ok", "a\r\nX-Evil: b", id="line break"),
        pytest.param("X-Ok", "\u2603", id="no Latin-1"),
    ],
)
def test_what_would_break_a_request_can_not_be_injected(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="header"):
        outgoing.own((vmcp_schema.Header(name, value),))
