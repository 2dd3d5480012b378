"""`--workers 2`: one proxy from outside: its sessions, its numbers, and how it begins.

Real: the supervisor and its workers, as a user starts them; in one test two replicas of the Python SDK's server and
real clients. The others have scripted replicas (fleet.py), which count what reaches them. Every request of a Fleet has
a connection of its own, so any worker may get it. Deaths and drains: test_workers_deaths.py. Throughput is bench's
(`workers-2`).
"""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import ssl
from collections.abc import Iterator

import pytest
import trustme

from tests import kit
from tests.kit import command, redis_server
from tests.proxy import crews
from tests.proxy import fleet as fleets


@pytest.fixture(scope="module")
def running() -> Iterator[fleets.Fleet]:
    """For tests that leave it as it was."""
    with crews.crew() as fleet:
        yield fleet


# ---- sessions


@pytest.mark.slow
@pytest.mark.parametrize("sdk", ["mcp2", "mcp1"])
def test_real_clients_find_their_sessions_on_any_worker(sdk: str) -> None:
    with (
        kit.backend("mcp2-sse", replicas=2) as replicas,
        kit.proxies(1, backends=replicas, flags=crews.FLAGS) as (proxy,),
    ):
        with contextlib.ExitStack() as stack:
            one_request_each = {"Connection": "close"}
            clients = [stack.enter_context(kit.client(sdk, proxy.url(), headers=one_request_each)) for _ in range(4)]
            for number in range(1, 9):
                assert [client.call("counter").text for client in clients] == [str(number)] * 4
            assert len(proxy.sessions()) == 4
            assert {session["backend_url"] for session in proxy.sessions()} == {each.origin for each in replicas}
            metrics = proxy.metrics()
            assert metrics.value("fastproxy_sessions_active") == 4
            assert metrics.value("fastproxy_sessions_created_total") == 4
            # Sessions were met by the worker that had not opened them, which asked for them.
            assert metrics.value("fastproxy_session_lookups_total", result="store") > 0
            assert metrics.value("fastproxy_session_lookups_total", result="missing") == 0
        fleets.await_that(lambda: proxy.sessions() == [], "DELETE has ended them all")


def test_an_end_is_known_to_every_worker_when_it_is_answered(running: fleets.Fleet) -> None:
    for end in ("client", "admin"):
        session = running.open()
        assert [running.count(0, session) for _ in range(12)] == list(range(1, 13)), "both workers know it by now"
        replica = next(each for each in running.replicas if session in each.sessions)
        if end == "client":
            assert running.ask(0, "DELETE", fields={"Mcp-Session-Id": session}).status == 200
        else:
            assert running.proxies[0].end_session(session) == 204
        assert session not in replica.sessions, "the replica was told"
        assert {running.call(0, session).status for _ in range(12)} == {404}
        assert running.proxies[0].session(session) is None
        assert running.proxies[0].end_session(session) == 404


def test_a_lost_session_is_recovered_once_though_both_workers_miss_it(running: fleets.Fleet) -> None:
    session = running.open()
    for _ in range(12):
        running.count(0, session)
    replica = next(each for each in running.replicas if session in each.sessions)
    for each in running.replicas:
        each.requests.clear()
        each.initialize_seconds = 0.2
    try:
        replica.forget()
        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda _: running.call(0, session), range(24)))
        assert [answer.status for answer in answers] == [200] * 24
        counts = sorted(fleets.result_of(answer)["count"] for answer in answers)
        assert counts == list(range(1, 25)), "one session, every call once"
        assert len(running.got("POST", "initialize")) == 1
        (record,) = [each for each in running.proxies[0].sessions() if each["session_id"] == session]
        assert record["generation"] == 2
    finally:
        for each in running.replicas:
            each.initialize_seconds = 0.0


def test_the_bound_of_the_store_is_one_for_all_workers() -> None:
    with crews.crew("--max-sessions", "10") as fleet:
        opened = [fleet.open() for _ in range(10)]
        refused = fleet.post(0, fleets.message("initialize", 7, **fleets.INITIALIZE))
        assert (refused.status, refused.json()["error"]["data"]["reason"]) == (503, "too_many_sessions")
        assert fleet.proxies[0].end_session(opened[0]) == 204
        fleet.open()
        assert len(fleet.proxies[0].sessions()) == 10


def test_with_redis_every_worker_knows_every_session(redis: redis_server.RedisServer) -> None:
    with crews.crew("--name", "with-workers", redis=redis) as fleet:
        (proxy,) = fleet.proxies
        sessions = [fleet.open() for _ in range(4)]
        for number in range(1, 9):
            assert [fleet.count(0, session) for session in sessions] == [number] * 4
        assert {each["session_id"] for each in proxy.sessions()} == set(sessions)
        assert proxy.metrics().value("fastproxy_store_seconds_count", operation="create") == 4
        assert proxy.end_session(sessions[0]) == 204
        fleets.await_that(
            lambda: {fleet.call(0, sessions[0]).status for _ in range(8)} == {404},
            "all know that it ended",
            seconds_max=2,
        )
        os.kill(crews.workers_of(proxy)[0], signal.SIGKILL)
        assert fleet.count(0, sessions[1]) == 9


def test_a_store_that_is_away_at_first_makes_it_ready_when_all_workers_have_it() -> None:
    with redis_server.RedisServer() as server:
        server.stop()
        with (
            fleets.replicas() as replicas,
            kit.proxies(1, backends=replicas, store=server.url, flags=crews.FLAGS, await_readyz=False) as proxies,
        ):
            fleet = fleets.Fleet(proxies, replicas, server, fast=True)
            status, said = proxies[0].readiness()
            assert (status, said["reasons"]) == (503, ["session_store_unavailable"])
            assert len(crews.workers_of(proxies[0])) == 2, "they serve all the same"
            opened = fleet.open()
            server.start()
            fleets.await_that(lambda: crews.is_ready(proxies[0]), "ready")
            fleets.await_that(
                lambda: server.execute("EXISTS", crews.PREFIX + opened) == 1, "what was opened meanwhile is written"
            )
            for number in range(1, 9):
                assert fleet.count(0, opened) == number
            assert proxies[0].metrics().value("fastproxy_store_available") == 1


# ---- the admin address


def test_numbers_are_those_of_all_workers(running: fleets.Fleet) -> None:
    (proxy,) = running.proxies
    fleets.await_that(lambda: crews.is_ready(proxy), "ready")
    before = proxy.metrics()
    session = running.open()
    for _ in range(40):
        running.count(0, session)
    running.call(0, "nobody")
    after = proxy.metrics()

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert grown("fastproxy_requests_total") == 43
    assert grown("fastproxy_requests_total", status="404", backend="") == 1
    assert grown("fastproxy_request_seconds_count") == 43
    assert grown("fastproxy_request_seconds_bucket", le="+Inf") == 43
    assert grown("fastproxy_connections_accepted_total") == 43
    assert grown("fastproxy_sessions_active") == grown("fastproxy_sessions_created_total") == 1
    assert grown("fastproxy_backend_sessions") == 1
    assert sum(backend["sessions"] for backend in proxy.backends()) == after.value("fastproxy_sessions_active")
    for one_of_a_kind in ("fastproxy_build_info", "fastproxy_store_available"):
        assert after.value(one_of_a_kind) == 1
    assert after.value("fastproxy_backend_live") == len(running.replicas)
    processes = [proxy.pid, *crews.workers_of(proxy)]
    resident = sum(
        int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for pid in processes
    )
    assert after.value("process_resident_memory_bytes") == pytest.approx(resident, rel=0.1)


def test_a_replica_that_one_worker_could_not_reach_is_shown_as_failed_until_it_is_back(running: fleets.Fleet) -> None:
    (proxy,) = running.proxies
    replica = running.replicas[0]
    replica.kill()
    try:
        for _ in range(4):
            running.open()
        shown = {backend["url"]: backend for backend in proxy.backends()}
        assert shown[replica.origin]["state"] == "failed"
        assert "refused" in shown[replica.origin]["last_error"].lower()
    finally:
        replica.start()
    fleets.await_that(lambda: fleets.are_live(proxy), "the replica is back")
    assert crews.is_ready(proxy)


# ---- beginnings


def test_a_port_in_use_is_said_in_one_line_and_leaves_no_process(running: fleets.Fleet) -> None:
    place = running.proxies[0].origin.removeprefix("http://")
    words = ("serve", "--workers", "2", "--backend", running.replicas[0].origin, "--listen", place)
    (line,) = command.fail(1, *words, "--admin", "off")
    assert line == f"cannot listen on {place} (--listen): address already in use"


def test_a_store_that_refuses_is_said_once_not_by_every_worker(redis: redis_server.RedisServer) -> None:
    url = redis.url.replace("redis://", "redis://nobody:wrong@")
    done = command.run(
        *("serve", "--workers", "2", "--backend", "http://127.0.0.2:1", "--listen", "127.0.0.1:0", "--admin", "off"),
        FASTPROXY_STORE=url,
    )
    assert done.returncode == 1
    assert len([line for line in done.stderr.splitlines() if line.startswith("fastproxy: ")]) == 1, done.stderr


def test_when_no_worker_can_begin_any_more_it_ends_with_one_and_says_why(tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    with crews.crew("--tls-cert", str(certificate), "--tls-key", str(key)) as fleet:
        (proxy,) = fleet.proxies
        first, second = crews.workers_of(proxy)
        certificate.write_text("no certificate")
        proxy.signal(signal.SIGHUP)
        fleets.await_that(lambda: "configuration was not reloaded" in proxy.stderr, "the new one is refused")
        os.kill(first, signal.SIGKILL)
        fleets.await_that(lambda: "worker did not start" in proxy.stderr, "its replacement can't begin")
        status, said = proxy.readiness()
        assert status == 503
        assert "starting" in said["reasons"]
        assert second in crews.workers_of(proxy), "the other serves on"
        os.kill(second, signal.SIGKILL)
        assert proxy.wait(10) == 1
        last = proxy.stderr.splitlines()[-1]
        assert last.startswith("fastproxy: cannot use --tls-cert and --tls-key: "), last


def test_certificates_are_read_again_by_all_workers(tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"

    def issue() -> str:
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate.read_text()

    old = issue()
    with crews.crew("--tls-cert", str(certificate), "--tls-key", str(key)) as fleet:
        (proxy,) = fleet.proxies
        host, _, port = proxy.origin.removeprefix("https://").rpartition(":")

        def shown() -> set[str]:
            return {ssl_certificate(host, int(port)) for _ in range(12)}

        assert shown() == {old}
        new = issue()
        proxy.signal(signal.SIGHUP)
        fleets.await_that(lambda: shown() == {new}, "all show the new one")


def ssl_certificate(host: str, port: int) -> str:
    """What a new connection is shown."""
    return ssl.get_server_certificate((host, port))
