"""What real clients of real servers notice when something dies: nothing, or one honest error (interface §3.4).

Real: two replicas of each server, two proxies on one Redis, clients of the official SDKs that send each request to one
of the proxies by lot. Each call is logged by the server before it runs, so that none can have run twice unseen. The
same with scripted peers, exhaustively: tests/proxy/test_recovery*.py.
"""

import collections
import contextlib
import pathlib
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import redis_server

CLIENTS = 4
CALLS = 12


@pytest.fixture(scope="module")
def redis() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as server:
        yield server


@contextlib.contextmanager
def fleet(
    kind: str, redis: redis_server.RedisServer, *flags: str, call_log: pathlib.Path | None = None
) -> Iterator[tuple[list[kit.Backend], list[kit.Proxy]]]:
    environment = {"FASTPROXY_KEY_PREFIX": f"{kind}-{time.monotonic_ns()}:"}
    with (
        kit.backend(kind, replicas=2, call_log=call_log) as replicas,
        kit.proxies(2, backends=replicas, store=redis.url, flags=flags, environment=environment) as proxies,
    ):
        yield replicas, proxies
        for proxy in proxies:
            assert "Traceback" not in proxy.stderr, proxy.log_tail()


def home_of(client: kit.Client, proxies: list[kit.Proxy], replicas: list[kit.Backend]) -> kit.Backend:
    record = proxies[0].session(client.session_id or "")
    assert record is not None
    return next(replica for replica in replicas if replica.origin == record["backend_url"])


def test_a_replica_killed_under_load_is_noticed_by_nobody_but_the_calls_in_its_hands(
    redis: redis_server.RedisServer, tmp_path: pathlib.Path
) -> None:
    log = tmp_path / "calls"
    with fleet("mcp2-json", redis, call_log=log) as (replicas, proxies), contextlib.ExitStack() as stack:
        urls = [proxy.url() for proxy in proxies]
        clients = [stack.enter_context(kit.client("mcp2", urls, seed=number)) for number in range(CLIENTS)]
        homes = [home_of(client, proxies, replicas) for client in clients]
        assert collections.Counter(homes) == {replicas[0]: CLIENTS // 2, replicas[1]: CLIENTS // 2}
        ids = [client.session_id for client in clients]

        done: dict[str, bool] = {}
        errors: list[tuple[int, kit.Refused]] = []
        for turn in range(CALLS):
            asked = [
                client.begin_call("execute", call_id=f"{turn}-{n}", seconds=0.05) for n, client in enumerate(clients)
            ]
            if turn == CALLS // 2:
                time.sleep(0.03)
                replicas[0].kill()
            for number, pending in enumerate(asked):
                try:
                    done[f"{turn}-{number}"] = pending.answer().text == f"{turn}-{number} done"
                except kit.Refused as refused:
                    errors.append((number, refused))
        assert all(done.values())
        for number, refused in errors:
            assert homes[number] is replicas[0], "a client of the other replica saw an error"
            assert (refused.code, refused.data) == (-32603, {"reason": "backend_lost", "may_have_run": True})
        assert len(errors) <= CLIENTS // 2, "one turn at the most"
        ran = kit.logged_calls(log)
        assert len(ran) == len(set(ran)), "a call ran twice"
        assert set(done) <= set(ran)

        assert [client.session_id for client in clients] == ids
        for client, home in zip(clients, homes, strict=True):
            assert {each["session"] for each in client.exchanges if each["rpc"] == "tools/call"} == {client.session_id}
            assert client.call("counter").text == "1"
            assert home is replicas[0] or home_of(client, proxies, replicas) is home
        recovered = sum(
            proxy.metrics().value("fastproxy_session_recoveries_total", outcome="recovered") for proxy in proxies
        )
        assert recovered >= CLIENTS // 2


@pytest.mark.parametrize(("kind", "sdk"), [("mcp1-sse", "mcp1"), ("mcp2-sse", "ts1"), ("everything", "ts2")])
def test_a_replica_that_was_replaced_is_told_its_sessions_again(
    redis: redis_server.RedisServer, kind: str, sdk: str
) -> None:
    """`everything` answers 400 for a session that it does not know, the others 404."""
    with (
        fleet(kind, redis) as (replicas, proxies),
        kit.client(sdk, [proxy.url() for proxy in proxies], seed=5) as client,
    ):
        tool, arguments = ("echo", {"message": "hi"}) if kind == "everything" else ("counter", {})
        for _ in range(3):
            assert not client.call(tool, **arguments).is_error
        for replica in replicas:
            replica.restart()
        for count in range(1, 6):
            answer = client.call(tool, **arguments)
            assert not answer.is_error
            assert kind == "everything" or answer.text == str(count)
        answered = {each["answered_session"] for each in client.exchanges if each["answered_session"]}
        assert answered == {client.session_id}, "one id for the life of the session"
        record = proxies[1].session(client.session_id or "")
        assert record is not None
        assert record["generation"] == 2


def test_a_proxy_that_is_killed_and_started_again_goes_on_with_every_session(redis: redis_server.RedisServer) -> None:
    with (
        fleet("mcp2-json", redis) as (_, proxies),
        kit.client("mcp2", proxies[0].url()) as first,
        kit.client("ts1", proxies[0].url()) as second,
    ):
        assert [client.call("counter").text for client in (first, second)] == ["1", "1"]
        proxies[0].restart()
        assert [client.call("counter").text for client in (first, second)] == ["2", "2"]


def test_calls_longer_than_the_ttl_and_sampling_outlive_it(redis: redis_server.RedisServer) -> None:
    with (
        fleet("mcp2-sse", redis, "--session-ttl", "2s") as (_, proxies),
        kit.client("mcp2", [proxy.url() for proxy in proxies], seed=3) as client,
    ):
        assert client.call("slow", seconds=3.0).text == "slept 3.0"
        assert client.call("counter").text == "1"
        client.await_stream()
        time.sleep(2.5)
        assert client.call("counter").text == "2", "its GET stream has kept it"
        assert client.call("sample", prompt="say it").text
