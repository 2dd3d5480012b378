"""Questions to DNS against a scripted server over real sockets (kit/dns_server.py), and the memory of names, on uvloop.

The search list and the hosts file come from files of the test's own; a server that resolv.conf names listens on port
53 of a loopback address, which takes a privilege, without which those tests are skipped. Not covered: a resolver of the
machine's own (there may be none), nsswitch.conf.
"""

import asyncio
import pathlib
import time
import typing
from collections.abc import Awaitable, Callable, Iterator

import pytest
import uvloop

from fastproxy.config import address, backend
from fastproxy.proxy import names, resolver
from fastproxy.routing import discovery
from tests.kit import dns_server

RESOLV_CONF_SERVER = "127.0.53.53"
MCP = backend.DnsBackend("mcp.test", 8000)
Result = typing.TypeVar("Result")


@pytest.fixture
def dns() -> Iterator[dns_server.DnsServer]:
    with dns_server.DnsServer() as running:
        yield running


def at(dns: dns_server.DnsServer) -> resolver.Resolver:
    return resolver.Resolver(address.Address(dns_server.HOST, dns.port))


def run(work: Callable[[], Awaitable[Result]]) -> Result:
    async def working() -> Result:
        return await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(working())


def find(asking: resolver.Resolver, wanted: backend.DnsBackend = MCP) -> discovery.Found[backend.StaticBackend]:
    return run(lambda: asking.find_replicas(wanted))


def urls(found: discovery.Found[backend.StaticBackend]) -> list[str]:
    return [each.url for each in found.items]


# ---- replicas of a name


def test_services_are_replicas_and_their_addresses_are_not_asked_for(dns: dns_server.DnsServer) -> None:
    dns.services("_http._tcp.mcp.test", ("mcp-1.mcp.test", 8001), ("mcp-0.mcp.test", 8000), ttl=3)
    dns.addresses("mcp.test", "127.0.0.2")
    found = find(at(dns))
    assert [(each.url, each.pod) for each in found.items] == [
        ("http://mcp-0.mcp.test:8000", "mcp-0"),
        ("http://mcp-1.mcp.test:8001", "mcp-1"),
    ]
    assert (found.seconds, found.rank) == (3, discovery.SERVICES)
    assert [(each.name, each.record_type) for each in dns.questions] == [("_http._tcp.mcp.test", "SRV")]


def test_the_port_of_a_service_may_have_another_name(dns: dns_server.DnsServer) -> None:
    dns.services("_mcp._tcp.mcp.test", ("mcp-0.mcp.test", 9000))
    assert urls(find(at(dns), backend.DnsBackend("mcp.test", 8000, "mcp"))) == ["http://mcp-0.mcp.test:9000"]


def test_without_services_the_addresses_are_replicas_at_the_port(dns: dns_server.DnsServer) -> None:
    dns.addresses("mcp.test", "127.0.0.3", "127.0.0.2", ttl=7)
    found = find(at(dns))
    assert urls(found) == ["http://127.0.0.2:8000", "http://127.0.0.3:8000"]
    assert (found.seconds, found.rank) == (7, discovery.ADDRESSES)


def test_an_ipv6_address_is_asked_for_only_where_there_is_no_ipv4_address(dns: dns_server.DnsServer) -> None:
    dns.addresses("mcp.test", "::1", "127.0.0.2")
    assert urls(find(at(dns))) == ["http://127.0.0.2:8000"]
    dns.addresses("mcp.test", "::1")
    assert urls(find(at(dns))) == ["http://[::1]:8000"]


def test_an_alias_is_followed_and_the_least_ttl_of_the_way_counts(dns: dns_server.DnsServer) -> None:
    dns.alias("mcp.test", "real.test", ttl=2)
    dns.addresses("real.test", "127.0.0.2", ttl=60)
    found = find(at(dns))
    assert (urls(found), found.seconds) == (["http://127.0.0.2:8000"], 2)


def test_a_truncated_answer_is_asked_for_again_over_tcp(dns: dns_server.DnsServer) -> None:
    many = [f"127.0.{high}.{low}" for high in range(1, 5) for low in range(1, 51)]
    dns.addresses("mcp.test", *many)
    dns.fall_ill("truncated", record_type="A")
    assert len(find(at(dns)).items) == len(many)
    assert [each.transport for each in dns.asked("mcp.test", "A")] == ["udp", "tcp"]


def test_a_name_that_does_not_exist_and_one_without_addresses_are_answers(dns: dns_server.DnsServer) -> None:
    assert find(at(dns)).items == ()
    dns.alias("mcp.test", "nowhere.test")
    assert find(at(dns)).items == ()


# ---- servers that are ill


@pytest.mark.parametrize("illness", ["SERVFAIL", "REFUSED", "silent", "garbage"])
def test_a_server_that_is_ill_is_a_failure_and_no_answer(dns: dns_server.DnsServer, illness: str) -> None:
    dns.addresses("mcp.test", "127.0.0.2")
    dns.fall_ill(illness)
    started = time.monotonic()
    with pytest.raises(names.LookupFailed, match=r"^A of mcp\.test: "):
        find(at(dns))
    assert time.monotonic() - started < 2 * resolver.ANSWER_SECONDS_MAX + 1


def test_a_server_that_fails_for_services_alone_is_taken_as_one_that_knows_none(dns: dns_server.DnsServer) -> None:
    dns.addresses("mcp.test", "127.0.0.2")
    dns.fall_ill("SERVFAIL", record_type="SRV")
    assert urls(find(at(dns))) == ["http://127.0.0.2:8000"]


def test_but_not_once_it_has_named_services(dns: dns_server.DnsServer) -> None:
    dns.addresses("mcp.test", "127.0.0.2")
    dns.services("_http._tcp.mcp.test", ("mcp-0.mcp.test", 8000))
    asking = at(dns)
    assert urls(find(asking)) == ["http://mcp-0.mcp.test:8000"]
    dns.fall_ill("SERVFAIL", record_type="SRV")
    with pytest.raises(names.LookupFailed):
        find(asking)


def test_a_lost_datagram_costs_a_second_try_and_no_failure(dns: dns_server.DnsServer) -> None:
    dns.addresses("mcp.test", "127.0.0.2")
    dns.fall_ill("silent", every=2)
    assert urls(find(at(dns))) == ["http://127.0.0.2:8000"]


# ---- the machine's settings


@pytest.fixture
def machine(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dns_server.DnsServer, pathlib.Path]]:
    """A server on port 53, and the file that says so."""
    try:
        server = dns_server.DnsServer(host=RESOLV_CONF_SERVER, port=53).__enter__()
    except PermissionError:
        pytest.skip("port 53 takes a privilege")
    resolv_conf = tmp_path / "resolv.conf"
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.9 fixed.test\n")
    monkeypatch.setattr(resolver, "RESOLV_CONF", str(resolv_conf))
    monkeypatch.setattr(resolver, "HOSTS", str(hosts))
    try:
        yield server, resolv_conf
    finally:
        server.__exit__()


def test_search_domains_and_ndots_are_honoured_and_a_settled_name_is_asked_first(
    machine: tuple[dns_server.DnsServer, pathlib.Path],
) -> None:
    server, resolv_conf = machine
    resolv_conf.write_text(f"search shop.svc.test svc.test\nnameserver {RESOLV_CONF_SERVER}\noptions ndots:5\n")
    server.addresses("mcp.shop.svc.test", "127.0.0.2")
    asking = resolver.Resolver()
    wanted = backend.DnsBackend("mcp.shop", 8000)
    assert urls(find(asking, wanted)) == ["http://127.0.0.2:8000"]
    addresses = [each.name for each in server.questions if each.record_type == "A"]
    assert addresses == ["mcp.shop.shop.svc.test", "mcp.shop.svc.test"]
    assert [each.name for each in server.questions if each.record_type == "SRV"] == [
        "_http._tcp.mcp.shop.shop.svc.test",
        "_http._tcp.mcp.shop.svc.test",
        "_http._tcp.mcp.shop",
    ]
    server.questions.clear()
    assert urls(find(asking, wanted)) == ["http://127.0.0.2:8000"]
    assert [each.name for each in server.questions if each.record_type == "A"] == ["mcp.shop.svc.test"]


def test_resolv_conf_is_read_again_when_it_has_changed(machine: tuple[dns_server.DnsServer, pathlib.Path]) -> None:
    server, resolv_conf = machine
    server.addresses("mcp.b.test", "127.0.0.2")
    resolv_conf.write_text(f"search a.test\nnameserver {RESOLV_CONF_SERVER}\n")
    asking = resolver.Resolver()
    assert find(asking, backend.DnsBackend("mcp", 8000)).items == ()
    resolv_conf.write_text(f"search b.test\nnameserver {RESOLV_CONF_SERVER}\n")
    assert urls(find(asking, backend.DnsBackend("mcp", 8000))) == ["http://127.0.0.2:8000"]


def test_the_next_server_is_asked_when_the_first_is_dead(machine: tuple[dns_server.DnsServer, pathlib.Path]) -> None:
    server, resolv_conf = machine
    server.addresses("mcp.test", "127.0.0.2")
    resolv_conf.write_text(f"nameserver 127.0.53.54\nnameserver {RESOLV_CONF_SERVER}\n")
    assert urls(find(resolver.Resolver())) == ["http://127.0.0.2:8000"]


def test_a_name_of_the_hosts_file_is_not_asked_for(machine: tuple[dns_server.DnsServer, pathlib.Path]) -> None:
    server, resolv_conf = machine
    resolv_conf.write_text(f"nameserver {RESOLV_CONF_SERVER}\n")
    assert urls(find(resolver.Resolver(), backend.DnsBackend("fixed.test", 8000))) == ["http://127.0.0.9:8000"]
    assert server.questions == []


def test_a_search_domain_that_makes_a_name_too_long_is_passed_over(
    machine: tuple[dns_server.DnsServer, pathlib.Path],
) -> None:
    server, resolv_conf = machine
    name = ".".join(["x" * 60] * 4)
    resolv_conf.write_text(f"search {'y' * 60}.test\nnameserver {RESOLV_CONF_SERVER}\noptions ndots:9\n")
    server.addresses(name, "127.0.0.2")
    assert run(lambda: resolver.Resolver().find_addresses(name)).items == ("127.0.0.2",)


# ---- the memory of names


class Asked:
    """What a test's names are asked of: answers and failures in turn, each after a while."""

    def __init__(self, *answers: tuple[str, ...] | str, seconds: float = 0.0) -> None:
        self.answers = list(answers)
        self.seconds = seconds
        self.count = 0

    async def __call__(self, _host: str) -> discovery.Found[str]:
        self.count += 1
        await asyncio.sleep(self.seconds)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise names.LookupFailed(answer)
        return discovery.Found(answer)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def make_names(asked: Asked, clock: Callable[[], float], moved: list[str] | None = None) -> names.Names:
    def start_task(work: typing.Any, *, name: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work, name=name)

    return names.Names(asked, clock=clock, start_task=start_task, on_moved=(moved if moved is not None else []).append)


def test_a_literal_address_is_never_asked_for() -> None:
    asked = Asked("must not be asked")
    hosts = make_names(asked, Clock())
    assert run(lambda: hosts.find("127.0.0.1")) == ("127.0.0.1",)
    assert run(lambda: hosts.again("::1")) == ("::1",)
    assert (asked.count, hosts.is_due("127.0.0.1")) == (0, False)


def test_a_hundred_who_ask_at_once_share_one_question() -> None:
    asked = Asked(("127.0.0.2",), seconds=0.05)
    hosts = make_names(asked, Clock())

    async def ask() -> list[tuple[str, ...]]:
        return await asyncio.gather(*(hosts.find("mcp.test") for _ in range(100)))

    assert run(ask) == [("127.0.0.2",)] * 100
    assert asked.count == 1


def test_old_addresses_serve_while_a_slow_server_is_asked() -> None:
    asked = Asked(("127.0.0.2",), ("127.0.0.3",))
    clock = Clock()
    hosts = make_names(asked, clock)

    async def ask() -> tuple[float, tuple[str, ...], tuple[str, ...]]:
        await hosts.find("mcp.test")
        clock.seconds += 10
        asked.seconds = 1.0
        started = time.monotonic()
        old = await hosts.find("mcp.test")
        took = time.monotonic() - started
        await asyncio.sleep(1.1)
        return took, old, await hosts.find("mcp.test")

    took, old, new = run(ask)
    assert took < 0.5 and old == ("127.0.0.2",) and new == ("127.0.0.3",)


def test_nobody_waits_for_a_question_that_has_gone_unanswered_for_long() -> None:
    asked = Asked(("127.0.0.2",), ("127.0.0.3",))
    hosts = make_names(asked, time.monotonic)

    async def ask() -> tuple[float, float]:
        await hosts.find("mcp.test")
        asked.seconds = 60.0
        took = []
        for _ in range(2):
            started = time.monotonic()
            assert await hosts.again("mcp.test") == ("127.0.0.2",)
            took.append(time.monotonic() - started)
        return took[0], took[1]

    first, second = run(ask)
    assert first >= names.AGAIN_SECONDS_MAX and second < names.AGAIN_SECONDS_MAX / 2


def test_after_a_failed_connect_little_is_expected_of_a_server_that_could_not_tell_last_time() -> None:
    asked = Asked(("127.0.0.2",), "SERVFAIL", ("127.0.0.3",))
    hosts = make_names(asked, time.monotonic)

    async def ask() -> float:
        await hosts.find("mcp.test")
        assert await hosts.again("mcp.test") == ("127.0.0.2",)
        asked.seconds = 60.0
        started = time.monotonic()
        assert await hosts.again("mcp.test") == ("127.0.0.2",)
        return time.monotonic() - started

    assert run(ask) < names.AGAIN_SECONDS_MAX


def test_a_server_that_fails_leaves_the_addresses_and_is_counted() -> None:
    clock = Clock()
    hosts = make_names(Asked(("127.0.0.2",), "SERVFAIL"), clock)

    async def ask() -> tuple[str, ...]:
        await hosts.find("mcp.test")
        for _ in range(5):
            clock.seconds += 10
            await hosts.find("mcp.test")
        return await hosts.find("mcp.test")

    assert run(ask) == ("127.0.0.2",)
    assert hosts.errors_total == 5 and not hosts.is_missing("mcp.test")


def test_failed_connects_ask_again_a_tenth_of_a_second_later_and_a_hundred_of_them_ask_once() -> None:
    asked = Asked(("127.0.0.2",), ("127.0.0.3",))
    hosts = make_names(asked, time.monotonic)

    async def ask() -> tuple[float, list[tuple[str, ...]]]:
        await hosts.find("mcp.test")
        started = time.monotonic()
        return started, await asyncio.gather(*(hosts.again("mcp.test") for _ in range(100)))

    started, found = run(ask)
    assert found == [("127.0.0.3",)] * 100
    assert asked.count == 2
    assert 0.09 <= time.monotonic() - started < 1.0


def test_a_host_has_moved_when_none_of_its_addresses_is_left() -> None:
    asked = Asked(("127.0.0.2",), ("127.0.0.2", "127.0.0.3"), ("127.0.0.3",), ("127.0.0.4",))
    clock = Clock()
    moved: list[str] = []
    hosts = make_names(asked, clock, moved)

    async def ask() -> list[int]:
        counts = []
        for _ in range(4):
            clock.seconds += 10
            await hosts.refresh("mcp.test")
            counts.append(len(moved))
        return counts

    assert run(ask) == [0, 0, 0, 1]


def test_the_machines_own_answer_tells_names_that_are_not_from_failures() -> None:
    assert "127.0.0.1" in run(lambda: names.ask_system("localhost")).items
    with pytest.raises(names.LookupFailed):
        run(lambda: names.ask_system("x" * 64 + ".test"))
