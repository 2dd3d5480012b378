"""Replicas that come, go and move while two proxies on one Redis serve: a scripted DNS server, real processes, real
sockets. Pods are scripted MCP servers (cluster.py) on loopback addresses of their own, all on one port, as pods are.

Not covered: a resolver of the machine's own (test_resolver.py), dnsmasq and network namespaces, which take a privilege.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator

import pytest

from tests import kit
from tests.kit import dns_server, redis_server
from tests.proxy import cluster as clusters
from tests.proxy import fleet as fleets

CALL = fleets.message("tools/call", 1, name="count")
ORDINALS = "statefulset://mcp.mcp-headless.shop:{port}?replicas=3"
SERVICE, SERVICES = clusters.SERVICE, clusters.SERVICES
Cluster, Pod, load, proxies = clusters.Cluster, clusters.Pod, clusters.load, clusters.proxies


@pytest.fixture(scope="module")
def redis() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as server:
        yield server


@pytest.fixture
def cluster(redis: redis_server.RedisServer) -> Iterator[Cluster]:
    redis.execute("FLUSHALL")
    with dns_server.DnsServer() as dns:
        running = Cluster(dns, redis)
        try:
            yield running
        finally:
            running.stop()


def lasting(holds: Callable[[], bool], seconds: float, wanted: str) -> None:
    """It holds for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert holds(), wanted
        time.sleep(0.1)


# ---- who the replicas are


def test_pods_that_srv_names_are_replicas_under_their_own_names(cluster: Cluster) -> None:
    first, second = cluster.start("mcp-0", "mcp-1")
    cluster.publish(first, second)
    with proxies(cluster) as fleet:
        assert cluster.states() == {"mcp-0": "live", "mcp-1": "live"}
        session = cluster.open_on(second)
        record = fleet.record(session)
        assert record is not None
        assert record["backend_pod"] == "mcp-1"
        assert record["backend_url"] == f"http://mcp-1.{SERVICE}:{cluster.port}"
        assert [fleet.count(proxy, session) for proxy in (1, 0, 1)] == [1, 2, 3]
        assert second.got("POST", "tools/call")[0].field("host") == f"mcp-1.{SERVICE}:{cluster.port}"


def test_addresses_without_services_are_replicas_without_pods(cluster: Cluster) -> None:
    first, second = cluster.start("mcp-0", "mcp-1")
    cluster.publish_addresses(first, second)
    with proxies(cluster) as fleet:
        assert cluster.states() == {first.host: "live", second.host: "live"}
        session = cluster.open_on(first)
        record = fleet.record(session)
        assert record is not None
        assert (record["backend_pod"], record["backend_url"]) == (None, f"http://{first.host}:{cluster.port}")
        assert [fleet.count(proxy, session) for proxy in (1, 0)] == [1, 2]


def test_new_pods_get_sessions_at_once_leaving_ones_keep_theirs_and_come_back_to_life(cluster: Cluster) -> None:
    first, second, third = cluster.start("mcp-0", "mcp-1", "mcp-2")
    cluster.publish(first, second)
    with proxies(cluster) as fleet:
        sessions = [fleet.open(number % 2) for number in range(8)]
        assert cluster.spread(sessions) == {"mcp-0": 4, "mcp-1": 4, "mcp-2": 0}
        with load(fleet, sessions):
            cluster.publish(first, second, third)
            cluster.await_states(mcp_2="live")
            assert cluster.open_on(third)
            cluster.publish(first, third)
            cluster.await_states(mcp_1="leaving")
            before = len(second.sessions)
            more = [fleet.open(number % 2) for number in range(8)]
            assert cluster.spread(more)["mcp-1"] == 0 and len(second.sessions) == before
            cluster.publish(first, second, third)
            cluster.await_states(mcp_1="live")
            assert cluster.open_on(second)
        assert {pod.name for pod in (first, second, third) if pod.got("POST", "initialize")} == set(cluster.pods)
        assert fleet.metric("fastproxy_session_recoveries_total") == 0


def test_pods_come_and_go_under_load_and_sessions_of_those_that_stay_see_nothing(cluster: Cluster) -> None:
    stays, *others = cluster.start(*(f"mcp-{number}" for number in range(5)))
    cluster.publish(stays)
    with proxies(cluster) as fleet:
        sessions = [fleet.open(number % 2) for number in range(6)]
        cluster.publish(stays, *others)
        cluster.await_states(mcp_4="live")
        with load(fleet, sessions) as running:
            for pod in others:
                cluster.publish(stays, pod)
                cluster.await_states(**{pod.name.replace("-", "_"): "live"})
                fleet.open()
                pod.kill()
                cluster.publish(stays)
                cluster.await_states(**{pod.name.replace("-", "_"): "leaving"})
        assert running.calls > 50
        assert cluster.spread(sessions)["mcp-0"] == len(sessions)


def test_the_session_of_a_pod_that_left_and_died_is_recovered_on_another(cluster: Cluster) -> None:
    first, second = cluster.start("mcp-0", "mcp-1")
    cluster.publish(first, second)
    with proxies(cluster) as fleet:
        session = cluster.open_on(second)
        cluster.publish(first)
        cluster.dns.remove(second.hostname)
        second.kill()
        assert fleet.count(1, session) == 1
        assert fleet.count(0, session) == 2
        record = fleet.record(session)
        assert record is not None and record["backend_pod"] == "mcp-0"


def test_a_pod_that_ends_in_peace_keeps_its_sessions_although_its_name_has_gone(cluster: Cluster) -> None:
    first, second = cluster.start("mcp-0", "mcp-1")
    cluster.publish(first, second)
    with proxies(cluster) as fleet:
        session = cluster.open_on(second)
        assert fleet.count(0, session) == 1
        cluster.publish(first)
        cluster.dns.remove(second.hostname)
        cluster.await_states(mcp_1="leaving")
        time.sleep(5)  # until no connection waits in a pool any more
        assert [fleet.count(proxy, session) for proxy in (0, 1)] == [2, 3]
        second.kill()
        assert [fleet.count(proxy, session) for proxy in (0, 1)] == [1, 2]
        assert session not in second.sessions and first.got("POST", "tools/call")


@pytest.mark.slow
def test_clients_of_real_sdks_see_nothing_of_pods_that_come_move_and_go_nor_of_a_dead_resolver(
    cluster: Cluster,
) -> None:
    hosts, flags = (next(clusters.addresses), next(clusters.addresses)), ("--port", str(cluster.port))

    def publish(*pods: kit.Backend) -> None:
        targets = [(f"mcp-{pods.index(pod)}.{SERVICE}", pod.port) for pod in pods]
        for (name, _), pod in zip(targets, pods, strict=True):
            cluster.dns.addresses(name, pod.host)
        cluster.dns.services(SERVICES, *targets)

    with (
        kit.backend("mcp2-sse", replicas=2, hosts=hosts, flags=flags) as [first, second],
        contextlib.ExitStack() as stack,
    ):
        publish(first)
        fleet = stack.enter_context(proxies(cluster))
        urls = [proxy.url() for proxy in fleet.proxies]
        old = [stack.enter_context(kit.client(sdk, urls, seed=number)) for number, sdk in enumerate(("mcp2", "ts1"))]
        assert [client.call("counter").text for client in old] == ["1", "1"]
        publish(first, second)
        cluster.await_states(mcp_1="live")
        new = stack.enter_context(kit.client("mcp2", urls, seed=7))
        assert new.call("counter").text == "1"
        cluster.dns.fall_ill("silent")
        for expected in range(2, 8):  # six seconds, in which every answer of DNS grows too old
            assert [client.call("counter").text for client in (*old, new)] == [str(expected)] * 3
            time.sleep(1)
        second.kill()
        second.host = next(clusters.addresses)
        second.command += ["--host", second.host]
        second.restart()
        publish(first, second)
        cluster.dns.recover()
        assert new.call("counter").text == "1", "recovered: the server keeps no state over a restart"
        assert [client.call("counter").text for client in old] == ["8", "8"]
        publish(first)
        cluster.await_states(mcp_1="leaving")
        assert new.call("counter").text == "2"
        assert [client.call("counter").text for client in old] == ["9", "9"]


# ---- a resolver that is ill


@pytest.mark.parametrize(
    ("illness", "seconds"), [pytest.param("silent", 10, marks=pytest.mark.slow), ("SERVFAIL", 4)]
)
def test_seconds_without_dns_are_not_noticed_by_anybody_but_the_owner(
    cluster: Cluster, illness: str, seconds: float
) -> None:
    first, second = cluster.start("mcp-0", "mcp-1")
    cluster.publish(first, second)
    with proxies(cluster) as fleet:
        sessions = [fleet.open(number % 2) for number in range(4)]
        with load(fleet, sessions):
            cluster.dns.fall_ill(illness)
            started = time.monotonic()
            for proxy in fleet.proxies:
                fleets.await_that(
                    lambda proxy=proxy: proxy.readiness()[1]["reasons"] == ["discovery_failing"],  # type: ignore[misc]
                    "the reason is listed",
                )
            status, said = fleet.proxies[0].readiness()
            assert (status, said["ready"]) == (200, True)
            assert SERVICE in said["details"]["discovery_failing"]
            opened = []
            while time.monotonic() < started + seconds:
                opened.append(fleet.open(len(opened) % 2))
                assert set(cluster.states().values()) == {"live"}
                time.sleep(0.25)
            cluster.dns.recover()
            for proxy in fleet.proxies:
                fleets.await_that(
                    lambda proxy=proxy: proxy.readiness()[1]["reasons"] == [],  # type: ignore[misc]
                    "the reason has gone",
                )
        assert all(cluster.spread(opened).values())
        for proxy in fleet.proxies:
            assert proxy.metrics().value("fastproxy_discovery_errors_total") >= 2
            assert len(re.findall(r"discovery fails", proxy.stderr)) == 1, "said once, not each second"
            assert len(re.findall(r"names can't be resolved", proxy.stderr)) == 1, "and not for each pod"
            assert len(re.findall(r"discovery works again", proxy.stderr)) == 1
        assert fleet.metric("fastproxy_session_recoveries_total") == 0


@pytest.mark.parametrize("illness", ["NXDOMAIN", "empty"])
def test_a_resolver_that_flaps_drops_no_replica(cluster: Cluster, illness: str) -> None:
    first, second = cluster.start("mcp-0", "mcp-1")
    cluster.publish(first, second)
    with proxies(cluster) as fleet, load(fleet, [fleet.open(), fleet.open()]):
        cluster.dns.flap(illness)
        lasting(lambda: set(cluster.states().values()) == {"live"}, 6.5, "a flapping resolver made a replica leave")
        assert "leaving" not in fleet.proxies[0].stderr
        assert fleet.proxies[1].readiness() == (200, {"ready": True, "reasons": [], "details": {}})


def test_a_name_that_is_gone_for_good_leaves_nobody_for_new_sessions_and_the_old_ones_go_on(cluster: Cluster) -> None:
    (pod,) = cluster.start("mcp-0")
    cluster.publish(pod)
    with proxies(cluster) as fleet:
        session = fleet.open()
        with load(fleet, [session]):
            cluster.dns.remove(SERVICES)
            cluster.await_states(mcp_0="leaving")
            status, said = fleet.proxies[0].readiness()
            assert (status, said["reasons"]) == (503, ["backend_unavailable"])
            refused = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE))
            assert refused.json()["error"]["data"]["reason"] == "backend_unavailable"
            cluster.publish(pod)
            cluster.await_states(mcp_0="live")
        assert fleet.open()


@pytest.mark.parametrize("backend", [f"dns://{SERVICE}:{{port}}", ORDINALS], ids=["dns", "statefulset"])
def test_a_proxy_that_begins_without_dns_serves_is_not_ready_and_becomes_so(cluster: Cluster, backend: str) -> None:
    (pod,) = cluster.start("mcp-0")
    cluster.publish(pod)
    cluster.dns.addresses("mcp-0.mcp-headless.shop.svc.cluster.local", pod.host)
    cluster.dns.fall_ill("silent")
    started = time.monotonic()
    with proxies(cluster, backend, count=1, ready=False) as fleet:
        (proxy,) = fleet.proxies
        assert time.monotonic() - started < 5.0, "the first answer is awaited for two seconds"
        fleets.await_that(lambda: "discovery_failing" in proxy.readiness()[1]["reasons"], "the reason is listed")
        status, said = proxy.readiness()
        assert (status, said["ready"], set(said["reasons"])) == (
            503,
            False,
            {"backend_unavailable", "discovery_failing"},
        )
        refused = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE))
        assert (refused.status, refused.json()["error"]["data"]["reason"]) == (200, "backend_unavailable")
        assert refused.json()["error"]["code"] == -32603
        cluster.dns.recover()
        fleets.await_that(lambda: proxy.readiness()[0] == 200, "ready")
        assert fleet.count(0, fleet.open()) == 1


@pytest.mark.parametrize(
    ("ttl", "least", "most"), [pytest.param(0, 0.95, 3.0, id="nought"), pytest.param(600, 4.5, 8.0, id="ten minutes")]
)
def test_dns_is_asked_when_the_ttl_ends_once_a_second_to_once_in_five(
    cluster: Cluster, ttl: int, least: float, most: float
) -> None:
    (pod,) = cluster.start("mcp-0")
    cluster.publish(pod, ttl=ttl)
    with proxies(cluster, count=1):
        first, second = cluster.dns.await_questions(SERVICES, 2)
        assert least <= second.at - first.at <= most


# ---- a pod that moves


def test_a_pod_that_restarts_under_another_address_is_found_by_its_name(cluster: Cluster) -> None:
    stays, moves = cluster.start("mcp-0", "mcp-1")
    cluster.publish(stays, moves)
    with proxies(cluster) as fleet:
        session, other = cluster.open_on(moves), cluster.open_on(stays)
        assert fleet.count(0, session) == 1
        with load(fleet, [other]):
            moves.move()
            cluster.publish(stays, moves)
            assert [fleet.count(proxy, session) for proxy in (1, 0, 1)] == [2, 3, 4]
        assert fleet.metric("fastproxy_session_recoveries_total") == 0


def test_sessions_follow_a_name_although_somebody_still_answers_at_its_old_address(cluster: Cluster) -> None:
    (old,) = cluster.start("mcp-0")
    cluster.publish(old)
    with proxies(cluster) as fleet:
        session = fleet.open()
        (new,) = cluster.start("mcp-0")
        new.sessions = {session: 1_000_000}
        cluster.publish(new)
        with kit.RawClient(fleet.proxies[0].origin) as client:  # a connection in use never waits in the pool for long
            fields = {**fleets.ACCEPT, "Mcp-Session-Id": session}
            fleets.await_that(
                lambda: client.request("POST", "/mcp", fields, CALL).json()["result"]["count"] > 1_000_000,
                "the new pod answers",
            )
        assert fleet.count(1, session) > 1_000_000


# ---- statefulset://


def test_ordinals_whose_names_do_not_resolve_have_failed_and_live_when_they_come(cluster: Cluster) -> None:
    def publish(*pods: Pod) -> None:
        for pod in pods:
            cluster.dns.addresses(f"{pod.name}.mcp-headless.shop.svc.cluster.local", pod.host)

    first, second, third = cluster.start("mcp-0", "mcp-1", "mcp-2")
    publish(first, second)
    with proxies(cluster, ORDINALS) as fleet:
        assert cluster.states() == {"mcp-0": "live", "mcp-1": "live", "mcp-2": "failed"}
        rows = {row["pod"]: row for row in fleet.proxies[0].backends()}
        assert "its name has no address" in rows["mcp-2"]["last_error"]
        sessions = [fleet.open(number % 2) for number in range(6)]
        spread = cluster.spread(sessions)
        assert spread["mcp-0"] and spread["mcp-1"] and not spread["mcp-2"]
        with load(fleet, sessions[:2]):
            publish(third)
            cluster.await_states(mcp_2="live")
            on_third = cluster.open_on(third)
            cluster.dns.remove("mcp-2.mcp-headless.shop.svc.cluster.local")
            cluster.await_states(mcp_2="failed")
            for number in range(1, 7):  # it still serves what it has, which does not bring it back to life
                assert fleet.count(0, on_third) == number
                assert cluster.states()["mcp-2"] == "failed"
                time.sleep(0.5)
        for proxy in fleet.proxies:
            said = [line for line in proxy.stderr.splitlines() if "mcp-2" in line]
            assert len(said) <= 4, f"said again and again: {said}"


# ---- FASTPROXY_DNS_SERVER


@pytest.mark.parametrize("server", ["localhost:53", "127.0.0.1", "127.0.0.1:0", "nonsense"])
def test_a_dns_server_that_is_no_address_is_refused_at_start(server: str) -> None:
    with (
        pytest.raises(kit.KitError, match="FASTPROXY_DNS_SERVER: expected"),
        kit.proxies(backends=["dns://mcp.test:8000"], environment={"FASTPROXY_DNS_SERVER": server}),
    ):
        pass
