"""`--workers 2`, whatever becomes of the processes inside: kill -9, SIGSTOP, drains by signal and by request.

Real: the supervisor and its workers, as a user starts them, and the signals. The replicas are scripted (fleet.py): they
count what reaches them. What is not shown: the death of the machine.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import signal
import time

import pytest

from tests import kit
from tests.kit import actors_message
from tests.proxy import crews
from tests.proxy import fleet as fleets

# ---- deaths


def test_a_killed_worker_costs_its_own_connections_and_nothing_else() -> None:
    with crews.crew() as fleet:
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
            held = {pid: connections_of(pid, port_of(proxy)) for pid in crews.workers_of(proxy)}
            assert sum(held.values()) == len(sessions)
            victim = max(held, key=held.__getitem__)
            os.kill(victim, signal.SIGKILL)
            for user in users:
                user.result()
        assert len(lost) == len(set(lost)) == held[victim], "the connections that it had, and no other"
        assert all(calls > 50 for calls in served.values())
        fleets.await_that(lambda: crews.is_ready(proxy), "the worker is replaced")
        assert len(crews.workers_of(proxy)) == 2
        assert victim not in crews.workers_of(proxy)
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
    with crews.crew() as fleet:
        (proxy,) = fleet.proxies
        sessions = [fleet.open() for _ in range(6)]
        before = crews.workers_of(proxy)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        # Asked before there is anybody to answer: the connections wait in the queue of the socket that all share.
        assert [fleet.count(0, session) for session in sessions] == [1] * 6
        fleets.await_that(lambda: crews.is_ready(proxy), "both are replaced")
        assert not set(before) & set(crews.workers_of(proxy))
        assert proxy.metrics().value("fastproxy_sessions_active") == 6


def test_a_frozen_worker_stops_neither_the_others_nor_the_pages() -> None:
    with crews.crew() as fleet:
        (proxy,) = fleet.proxies
        session = fleet.open()
        frozen = crews.workers_of(proxy)[0]
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert [fleet.count(0, session) for _ in range(10)] == list(range(1, 11))
            assert proxy.ask("GET", "/healthz")[0] == 200
            assert proxy.metrics().value("fastproxy_sessions_active") == 1
            assert len(proxy.backends()) == 2
        finally:
            os.kill(frozen, signal.SIGCONT)
        fleets.await_that(lambda: crews.is_ready(proxy), "ready")
        assert frozen in crews.workers_of(proxy), "nobody was killed for being slow"


def test_no_process_outlives_a_supervisor_that_is_killed() -> None:
    with crews.crew() as fleet:
        (proxy,) = fleet.proxies
        workers = crews.workers_of(proxy)
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGSTOP)  # it can't notice anything itself
        os.kill(proxy.pid, signal.SIGKILL)
        fleets.await_that(lambda: not any(map(crews.is_alive, workers)), "the workers are gone", seconds_max=2)


# ---- ends


@pytest.mark.parametrize("way", ["SIGTERM", "POST /drain", "SIGTERM for the whole group"])
def test_a_drain_ends_all_of_it_and_no_request_is_cut(way: str) -> None:
    with crews.crew() as fleet:
        (proxy,) = fleet.proxies
        workers = crews.workers_of(proxy)
        sessions = [fleet.open() for _ in range(6)]
        fleet.replicas[0].act = fleet.replicas[1].act = crews.answer_after_a_second
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
        assert not any(map(crews.is_alive, workers))
        fleets.assert_sound(fleet)


def test_in_a_drain_idle_streams_end_after_the_last_call_whichever_worker_has_it() -> None:
    """A client that loses its stream opens it again, can't, and gives up; its calls must have been answered by then."""
    with crews.crew("--drain-delay", "0s") as fleet, contextlib.ExitStack() as stack:
        (proxy,) = fleet.proxies
        session = fleet.open()
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
        streams = [stack.enter_context(fleet.client()) for _ in range(8)]
        for stream in streams:
            stream.send(actors_message.format_request("GET", "/mcp", stream.authority, fields))
        fleets.await_that(lambda: proxy.metrics().value("fastproxy_streams_open") == 8, "all are open")
        fleet.replicas[0].act = fleet.replicas[1].act = crews.answer_after_a_second
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
    with crews.crew("--drain-delay", "0s", "--drain-timeout", "3s") as fleet:
        (proxy,) = fleet.proxies
        session = fleet.open()
        fleet.replicas[0].act = fleet.replicas[1].act = crews.answer_after_a_second
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


def test_a_second_sigterm_ends_at_once_with_one() -> None:
    with crews.crew("--drain-delay", "20s") as fleet:
        (proxy,) = fleet.proxies
        workers = crews.workers_of(proxy)
        proxy.signal(signal.SIGTERM)
        fleets.await_that(lambda: proxy.readiness()[0] == 503, "draining")
        fleet.open()
        assert set(crews.workers_of(proxy)) == set(workers), "until the delay is over all goes on"
        proxy.signal(signal.SIGTERM)
        assert proxy.wait(3) == 1
        assert not any(map(crews.is_alive, workers))


def test_a_worker_that_dies_while_the_delay_runs_is_replaced() -> None:
    with crews.crew("--drain-delay", "4s") as fleet:
        (proxy,) = fleet.proxies
        session = fleet.open()
        time.sleep(1.0)  # so long must one have served to be replaced without a pause
        proxy.signal(signal.SIGTERM)
        for pid in crews.workers_of(proxy):
            os.kill(pid, signal.SIGKILL)
        assert fleet.count(0, session) == 1
        assert proxy.wait(15) == 0, proxy.stderr
