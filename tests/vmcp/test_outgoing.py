"""Which headers go to a backend: injected ones, and those of the client that may pass. Pure.

Which names may be configured at all is shown in tests/config; that nothing else passes, by a real server in
test_whole_front.py.
"""

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import outgoing

CLIENT = [(b"Authorization", b"Bearer client"), (b"X-Tenant", b"blue"), (b"x-trace", b"1"), (b"X-Trace", b"2")]


def test_only_what_the_owner_names_passes_and_all_of_its_values() -> None:
    assert outgoing.passed_on(("X-TRACE",), CLIENT, []) == [(b"x-trace", b"1"), (b"X-Trace", b"2")]
    assert outgoing.passed_on((), CLIENT, []) == []


def test_the_backends_own_header_wins_over_the_clients() -> None:
    mine = outgoing.own((vmcp_schema.Header("X-Tenant", "red"),))
    assert mine == [(b"X-Tenant", b"red")]
    assert outgoing.passed_on(("x-tenant", "x-trace"), CLIENT, mine) == [(b"x-trace", b"1"), (b"X-Trace", b"2")]
    assert outgoing.beside([(b"x-TENANT", b"blue"), (b"X-Trace", b"1")], mine) == [(b"X-Trace", b"1")]
    assert outgoing.beside(CLIENT, []) is CLIENT
