"""`--workers 2`: one proxy from outside, whatever becomes of the processes inside.

Real: the supervisor and its workers, as a user starts them; signals, kill -9, SIGSTOP; in some tests two replicas of
the Python SDK's server and real clients. The others have scripted replicas (fleet.py), which count what reaches them.
Every request of a Fleet has a connection of its own, so any worker may get it. Throughput is bench's (`workers-2`).
"""

import asyncio
import concurrent.futures
import contextlib
import os
import pathlib
import signal
import ssl
import time
from collections.abc import Iterator

import pytest
import trustme

from tests import kit
from tests.kit import actors_message, actors_wire, command, redis_server
from tests.proxy import fleet as fleets

PREFIX = "fastproxy:default:session:"
FLAGS = ["--workers", "2", "--drain-delay", "200ms"]


def workers_of(proxy: kit.Proxy) -> list[int]:
    """The processes that the supervisor has now."""
    children = pathlib.Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def is_alive(pid: int) -> bool:
    """Alive, and no zombie either."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_ready(proxy: kit.Proxy) -> bool:
    return proxy.readiness()[0] == 200


def crew(*flags: str, redis: redis_server.RedisServer | None = None) -> contextlib.AbstractContextManager[fleets.Fleet]:
    """A proxy of two workers in front of two scripted replicas."""
    return fleets.fleet(*FLAGS, *flags, proxies=1, redis=redis)


@pytest.fixture(scope="module")
def running() -> Iterator[fleets.Fleet]:
    """For tests that leave it as it was."""
    with crew() as fleet:
        yield fleet


# ---- sessions


@pytest.mark.slow
@pytest.mark.parametrize("sdk", ["mcp2", "mcp1"])
def test_real_clients_find_their_sessions_on_any_worker(sdk: str) -> None:
    with kit.backend("mcp2-sse", replicas=2) as replicas, kit.proxies(1, backends=replicas, flags=FLAGS) as (proxy,):
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
    with crew("--max-sessions", "10") as fleet:
        opened = [fleet.open() for _ in range(10)]
        refused = fleet.post(0, fleets.message("initialize", 7, **fleets.INITIALIZE))
        assert (refused.status, refused.json()["error"]["data"]["reason"]) == (503, "too_many_sessions")
        assert fleet.proxies[0].end_session(opened[0]) == 204
        fleet.open()
        assert len(fleet.proxies[0].sessions()) == 10


def test_with_redis_every_worker_knows_every_session(redis: redis_server.RedisServer) -> None:
    with crew("--name", "with-workers", redis=redis) as fleet:
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
        os.kill(workers_of(proxy)[0], signal.SIGKILL)
        assert fleet.count(0, sessions[1]) == 9


def test_a_store_that_is_away_at_first_makes_it_ready_when_all_workers_have_it() -> None:
    with redis_server.RedisServer() as server:
        server.stop()
        with (
            fleets.replicas() as replicas,
            kit.proxies(1, backends=replicas, store=server.url, flags=FLAGS, await_readyz=False) as proxies,
        ):
            fleet = fleets.Fleet(proxies, replicas, server, fast=True)
            status, said = proxies[0].readiness()
            assert (status, said["reasons"]) == (503, ["session_store_unavailable"])
            assert len(workers_of(proxies[0])) == 2, "they serve all the same"
            opened = fleet.open()
            server.start()
            fleets.await_that(lambda: is_ready(proxies[0]), "ready")
            fleets.await_that(
                lambda: server.execute("EXISTS", PREFIX + opened) == 1, "what was opened meanwhile is written"
            )
            for number in range(1, 9):
                assert fleet.count(0, opened) == number
            assert proxies[0].metrics().value("fastproxy_store_available") == 1


# ---- the admin address


def test_numbers_are_those_of_all_workers(running: fleets.Fleet) -> None:
    (proxy,) = running.proxies
    fleets.await_that(lambda: is_ready(proxy), "ready")
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
    processes = [proxy.pid, *workers_of(proxy)]
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
    assert is_ready(proxy)


# ---- deaths


def test_a_killed_worker_costs_its_own_connections_and_nothing_else() -> None:
    with crew() as fleet:
        (proxy,) = fleet.proxies
        sessions = [fleet.open() for _ in range(8)]
        stop = time.monotonic() + 4.0
        kill_at = time.monotonic() + 1.0
        lost: list[str] = []
        served = dict.fromkeys(sessions, 0)

        def use(session: str) -> None:
            """Calls on one connection for as long as it lasts; a new one after that."""
            while time.monotonic() < stop:
                with fleet.client() as client:
                    while time.monotonic() < stop:
                        fields = {**fleets.ACCEPT, "Mcp-Session-Id": session}
                        try:
                            answer = client.request("POST", "/mcp", fields, fleets.message("tools/call", 1))
                        except (ConnectionError, EOFError, kit.KitError):
                            lost.append(session)
                            break
                        assert answer.status == 200, answer
                        assert "result" in answer.json(), answer
                        served[session] += 1
                        time.sleep(0.002)

        with concurrent.futures.ThreadPoolExecutor(len(sessions)) as threads:
            users = [threads.submit(use, session) for session in sessions]
            time.sleep(kill_at - time.monotonic())
            before = proxy.metrics()
            held = {pid: connections_of(pid, port_of(proxy)) for pid in workers_of(proxy)}
            assert sum(held.values()) == len(sessions)
            victim = max(held, key=held.__getitem__)
            os.kill(victim, signal.SIGKILL)
            for user in users:
                user.result()
        assert len(lost) == len(set(lost)) == held[victim], "the connections that it had, and no other"
        assert all(calls > 50 for calls in served.values())
        fleets.await_that(lambda: is_ready(proxy), "the worker is replaced")
        assert len(workers_of(proxy)) == 2
        assert victim not in workers_of(proxy)
        after = proxy.metrics()
        for (name, labels), number in before.as_dict().items():
            if name.endswith(("_total", "_count", "_bucket", "_sum")):
                assert after.as_dict()[name, labels] >= number, f"{name}{dict(labels)} has gone down"
        assert [fleet.count(0, session) > served[session] for session in sessions] == [True] * 8, "no state was lost"
        assert len(fleet.got("POST", "initialize")) == 8, "and nothing was recovered, for nothing was gone"
        assert after.value("fastproxy_workers") == 2
        assert after.value("fastproxy_worker_deaths_total") == 1
        assert "worker died: worker=" in proxy.stderr
        assert "reason=SIGKILL" in proxy.stderr


def port_of(proxy: kit.Proxy) -> int:
    return int(proxy.origin.rpartition(":")[2])


def connections_of(pid: int, port: int) -> int:
    """How many connections from clients a worker has: established ones of that port whose inode it holds."""
    held = set()
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" and row[9] in held for row in rows)


def test_all_workers_killed_at_once_are_replaced_and_no_session_is_lost() -> None:
    with crew() as fleet:
        (proxy,) = fleet.proxies
        sessions = [fleet.open() for _ in range(6)]
        before = workers_of(proxy)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        # Asked before there is anybody to answer: the connections wait in the queue of the socket that all share.
        assert [fleet.count(0, session) for session in sessions] == [1] * 6
        fleets.await_that(lambda: is_ready(proxy), "both are replaced")
        assert not set(before) & set(workers_of(proxy))
        assert proxy.metrics().value("fastproxy_sessions_active") == 6


def test_a_frozen_worker_stops_neither_the_others_nor_the_pages() -> None:
    with crew() as fleet:
        (proxy,) = fleet.proxies
        session = fleet.open()
        frozen = workers_of(proxy)[0]
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert [fleet.count(0, session) for _ in range(10)] == list(range(1, 11))
            assert proxy.ask("GET", "/healthz")[0] == 200
            assert proxy.metrics().value("fastproxy_sessions_active") == 1
            assert len(proxy.backends()) == 2
        finally:
            os.kill(frozen, signal.SIGCONT)
        fleets.await_that(lambda: is_ready(proxy), "ready")
        assert frozen in workers_of(proxy), "nobody was killed for being slow"


def test_no_process_outlives_a_supervisor_that_is_killed() -> None:
    with crew() as fleet:
        (proxy,) = fleet.proxies
        workers = workers_of(proxy)
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGSTOP)  # it can't notice anything itself
        os.kill(proxy.pid, signal.SIGKILL)
        fleets.await_that(lambda: not any(map(is_alive, workers)), "the workers are gone", seconds_max=2)


# ---- ends


@pytest.mark.parametrize("way", ["SIGTERM", "POST /drain", "SIGTERM for the whole group"])
def test_a_drain_ends_all_of_it_and_no_request_is_cut(way: str) -> None:
    with crew() as fleet:
        (proxy,) = fleet.proxies
        workers = workers_of(proxy)
        sessions = [fleet.open() for _ in range(6)]
        fleet.replicas[0].act = fleet.replicas[1].act = _answer_after_a_second
        with concurrent.futures.ThreadPoolExecutor(len(sessions)) as threads:
            running = [threads.submit(fleet.count, 0, session) for session in sessions]
            time.sleep(0.3)
            if way == "POST /drain":
                assert proxy.drain() == 202
            elif way == "SIGTERM":
                proxy.signal(signal.SIGTERM)
            else:
                os.killpg(proxy.pid, signal.SIGTERM)  # as service managers do
            fleets.await_that(lambda: proxy.readiness()[1]["reasons"] == ["draining"], "draining")
            assert proxy.metrics().value("fastproxy_draining") == 1
            assert [call.result() for call in running] == [1] * 6
        assert proxy.wait(10) == 0, proxy.stderr
        assert not any(map(is_alive, workers))
        fleets.assert_sound(fleet)


def test_in_a_drain_idle_streams_end_after_the_last_call_whichever_worker_has_it() -> None:
    """A client that loses its stream opens it again, can't, and gives up; its calls must have been answered by then."""
    with crew("--drain-delay", "0s") as fleet, contextlib.ExitStack() as stack:
        (proxy,) = fleet.proxies
        session = fleet.open()
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
        streams = [stack.enter_context(fleet.client()) for _ in range(8)]
        for stream in streams:
            stream.send(actors_message.format_request("GET", "/mcp", stream.authority, fields))
        fleets.await_that(lambda: proxy.metrics().value("fastproxy_streams_open") == 8, "all are open")
        fleet.replicas[0].act = fleet.replicas[1].act = _answer_after_a_second
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            call = thread.submit(fleet.count, 0, session)
            time.sleep(0.3)
            proxy.signal(signal.SIGTERM)
            time.sleep(0.4)
            assert proxy.metrics().value("fastproxy_streams_open") == 8
            assert not call.done()
            assert call.result() == 1
        assert proxy.wait(5) == 0, proxy.stderr


def test_a_drained_proxy_takes_no_new_connection() -> None:
    with crew("--drain-delay", "0s", "--drain-timeout", "3s") as fleet:
        (proxy,) = fleet.proxies
        session = fleet.open()
        fleet.replicas[0].act = fleet.replicas[1].act = _answer_after_a_second
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            running = thread.submit(fleet.call, 0, session)
            time.sleep(0.3)
            proxy.signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(ConnectionRefusedError):
                fleet.call(0, session)
            answer = running.result()
        assert (answer.status, answer.field("connection")) == (200, "close")
        assert proxy.wait(10) == 0


async def _answer_after_a_second(
    replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message
) -> bool:
    await asyncio.sleep(1.0)
    return False


def test_a_second_sigterm_ends_at_once_with_one() -> None:
    with crew("--drain-delay", "20s") as fleet:
        (proxy,) = fleet.proxies
        workers = workers_of(proxy)
        proxy.signal(signal.SIGTERM)
        fleets.await_that(lambda: proxy.readiness()[0] == 503, "draining")
        fleet.open()
        assert set(workers_of(proxy)) == set(workers), "until the delay is over all goes on"
        proxy.signal(signal.SIGTERM)
        assert proxy.wait(3) == 1
        assert not any(map(is_alive, workers))


def test_a_worker_that_dies_while_the_delay_runs_is_replaced() -> None:
    with crew("--drain-delay", "4s") as fleet:
        (proxy,) = fleet.proxies
        session = fleet.open()
        time.sleep(1.0)  # so long must one have served to be replaced without a pause
        proxy.signal(signal.SIGTERM)
        for pid in workers_of(proxy):
            os.kill(pid, signal.SIGKILL)
        assert fleet.count(0, session) == 1
        assert proxy.wait(15) == 0, proxy.stderr


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
    with crew("--tls-cert", str(certificate), "--tls-key", str(key)) as fleet:
        (proxy,) = fleet.proxies
        first, second = workers_of(proxy)
        certificate.write_text("no certificate")
        proxy.signal(signal.SIGHUP)
        fleets.await_that(lambda: "configuration was not reloaded" in proxy.stderr, "the new one is refused")
        os.kill(first, signal.SIGKILL)
        fleets.await_that(lambda: "worker did not start" in proxy.stderr, "its replacement can't begin")
        status, said = proxy.readiness()
        assert status == 503
        assert "starting" in said["reasons"]
        assert second in workers_of(proxy), "the other serves on"
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
    with crew("--tls-cert", str(certificate), "--tls-key", str(key)) as fleet:
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
