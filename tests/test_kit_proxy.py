"""The kit's hand on fastproxy: its verbs reach the program, and what it reads is what the program says.

Real: `fastproxy serve` as a process, its admin address, signals. Behind it a scripted backend, which starts at once.
Not covered: what the proxy does with MCP; that is every other end-to-end test.
"""

import signal

import pytest

from tests import kit
from tests.kit import actors_message

HELLO = actors_message.format_response("200 OK", {"Content-Type": "text/plain"}, b"hello")
AT_ONCE = ("--drain-delay", "0", "--drain-timeout", "1")


def test_a_proxy_tells_its_addresses_and_counts_what_passes() -> None:
    with kit.ScriptedBackend(kit.answering(HELLO)) as backend, kit.proxies(backends=[backend]) as [proxy]:
        with kit.RawClient(proxy.origin) as client:
            assert [client.request("GET", "/x").body for _ in range(3)] == [b"hello"] * 3
        assert proxy.readiness()[0] == 200
        passed = proxy.metrics().value("fastproxy_requests_total", backend=backend.origin, method="GET", status="200")
        assert passed == 3
        assert [each["url"] for each in proxy.backends()] == [backend.origin]
        assert (proxy.sessions(), proxy.session("none"), proxy.end_session("none")) == ([], None, 404)


def test_a_restarted_proxy_has_its_addresses_and_a_stopped_one_ends_with_0() -> None:
    with (
        kit.ScriptedBackend(kit.answering(HELLO)) as backend,
        kit.proxies(backends=[backend], flags=AT_ONCE) as [proxy],
    ):
        places, pid = (proxy.origin, proxy.admin_origin), proxy.pid
        proxy.restart()
        assert (proxy.origin, proxy.admin_origin) == places
        assert proxy.pid != pid
        with kit.RawClient(proxy.origin) as client:
            assert client.request("GET", "/").body == b"hello"
        assert proxy.stop() == 0
        with pytest.raises(ConnectionRefusedError):
            kit.RawClient(proxy.origin)


def test_a_frozen_proxy_is_silent_until_it_thaws() -> None:
    with (
        kit.ScriptedBackend(kit.answering(HELLO)) as backend,
        kit.proxies(backends=[backend]) as [proxy],
        kit.RawClient(proxy.origin) as client,
    ):
        assert client.request("GET", "/").status == 200
        proxy.freeze()
        client.send(actors_message.format_request("GET", "/", client.authority))
        assert client.is_silent(0.3)
        proxy.thaw()
        assert client.response().body == b"hello"


def test_a_proxy_without_a_live_replica_starts_when_readiness_is_not_awaited() -> None:
    with kit.ScriptedBackend(kit.answering(HELLO)) as backend:
        gone = backend.origin
    with kit.proxies(backends=[gone], await_readyz=False) as [proxy]:
        assert proxy.ask("GET", "/healthz")[0] == 200
        assert proxy.alive


def test_a_proxy_that_is_asked_wrongly_fails_the_test_with_its_own_words() -> None:
    with pytest.raises(kit.KitError, match="nonsense"), kit.proxies(flags=("--listen", "nonsense")):
        pass


def test_several_proxies_are_processes_of_their_own_and_may_be_without_an_admin_address() -> None:
    with (
        kit.ScriptedBackend(kit.answering(HELLO)) as backend,
        kit.proxies(2, backends=[backend], flags=("--admin", "off")) as proxies,
    ):
        assert len({proxy.pid for proxy in proxies}) == len({proxy.origin for proxy in proxies}) == 2
        for proxy in proxies:
            with kit.RawClient(proxy.origin) as client:
                assert client.request("GET", "/").body == b"hello"
        proxies[0].signal(signal.SIGKILL)
        assert proxies[0].wait(5) == -signal.SIGKILL
        assert proxies[1].alive
