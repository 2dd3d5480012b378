"""Replicas that left are forgotten, and their places used again, on a real data plane (stage.py) that hours would pass
in: a minute and an hour are made short. Replicas are addresses at which nobody listens, but for one that serves.

Not covered: how DNS tells of them (test_discovery.py).
"""

import time
from collections.abc import Callable, Iterator

import pytest

from fastproxy.config import backend
from fastproxy.proxy import discovery, plane
from fastproxy.routing import backends
from fastproxy.session import record
from tests import kit
from tests.kit import actors_message
from tests.proxy import stage

ALWAYS = "http://127.0.0.1:9"
HELLO = actors_message.format_response("200 OK", {"Content-Type": "text/plain"}, b"hello")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[stage.Stage]:
    monkeypatch.setattr(backends, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(discovery, "FORGET_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(plane, "INDEX_REST_SECONDS", 0.0)
    with stage.Stage({"backend": [ALWAYS]}) as running:
        yield running


def static(url: str) -> backend.StaticBackend:
    found = backend.read_backend(url)
    assert isinstance(found, backend.StaticBackend)
    return found


def apply(proxy: stage.Stage, *urls: str) -> None:
    """What discovery does when these are the replicas now."""
    proxy.call(lambda: proxy.plane.backends.apply([static(url) for url in (ALWAYS, *urls)]))


def known(proxy: stage.Stage) -> set[str]:
    return {row["url"] for row in proxy.ask("GET", "/backends").json()["backends"]}


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def session_on(proxy: stage.Stage, session_id: str, url: str) -> None:
    stored = record.SessionRecord(session_id=session_id, backend_url=url)
    assert proxy.run(lambda: proxy.plane.book.create(stored))


def test_a_replica_that_left_is_forgotten_and_a_live_one_never(proxy: stage.Stage) -> None:
    apply(proxy, "http://127.0.0.2:9")
    time.sleep(0.5)
    assert known(proxy) == {ALWAYS, "http://127.0.0.2:9"}
    apply(proxy)
    eventually(lambda: known(proxy) == {ALWAYS})


def test_a_replica_that_left_stays_while_a_session_lives_there_and_the_session_finds_it(proxy: stage.Stage) -> None:
    with kit.ScriptedBackend(kit.answering(HELLO)) as left:
        apply(proxy, left.origin)
        session_on(proxy, "kept", left.origin)
        apply(proxy)
        time.sleep(0.5)
        assert known(proxy) == {ALWAYS, left.origin}
        answer = proxy.send("POST", "/mcp", body=b'{"jsonrpc":"2.0","id":1,"method":"ping"}', Mcp_Session_Id="kept")
        assert answer.body == b"hello"
        proxy.run(lambda: proxy.plane.book.forget("kept"))
        eventually(lambda: known(proxy) == {ALWAYS})


def test_a_replica_that_left_stays_while_somebody_is_asking_it(proxy: stage.Stage) -> None:
    async def stay(connection: kit.Connection) -> None:
        await connection.read_request()
        head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        await connection.send(actors_message.format_response("200 OK", head))
        await connection.await_end()

    with kit.ScriptedBackend(stay) as left:
        apply(proxy, left.origin)
        session_on(proxy, "kept", left.origin)
        with kit.RawClient(f"http://127.0.0.1:{proxy.data_port}") as client:
            fields = {"Accept": "text/event-stream", "Mcp-Session-Id": "kept"}
            client.send(actors_message.format_request("GET", "/mcp", client.authority, fields))
            assert client.head().status == 200
            apply(proxy)
            proxy.run(lambda: proxy.plane.book.forget("kept"))
            time.sleep(0.5)
            assert known(proxy) == {ALWAYS, left.origin}
        eventually(lambda: known(proxy) == {ALWAYS})


def test_a_session_of_a_replica_that_was_forgotten_is_still_served_there(proxy: stage.Stage) -> None:
    with kit.ScriptedBackend(kit.answering(HELLO)) as left:
        apply(proxy, left.origin)
        session_on(proxy, "kept", left.origin)
        proxy.call(lambda: proxy.plane.book.drop("kept"))  # the store has it, this process's table no longer does
        apply(proxy)
        eventually(lambda: known(proxy) == {ALWAYS})
        answer = proxy.send("POST", "/mcp", body=b'{"jsonrpc":"2.0","id":1,"method":"ping"}', Mcp_Session_Id="kept")
        assert answer.body == b"hello"
        assert known(proxy) == {ALWAYS, left.origin}


def test_thousands_of_replicas_that_come_and_go_share_a_few_places(proxy: stage.Stage) -> None:
    indexes: set[int] = set()
    total = 0
    for round_ in range(8):
        urls = [f"http://127.1.{round_}.{number}:9" for number in range(1, 251)]
        apply(proxy, *urls)
        indexes |= proxy.call(lambda: {replica.index for replica in proxy.plane.backends.all()})
        total += len(urls)
        apply(proxy)
        eventually(lambda: known(proxy) == {ALWAYS})
    assert total == 2000 and len(indexes) <= 251
    assert proxy.call(lambda: (len(proxy.plane.endpoints), len(proxy.plane.connects))) == (1, 0)


def test_a_place_is_not_used_again_before_its_rest_is_over(
    proxy: stage.Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "INDEX_REST_SECONDS", 3600.0)
    apply(proxy, "http://127.0.0.2:9")
    first = proxy.call(lambda: proxy.plane.backends.all()[-1].index)
    apply(proxy)
    eventually(lambda: known(proxy) == {ALWAYS})
    apply(proxy, "http://127.0.0.3:9")
    assert proxy.call(lambda: proxy.plane.backends.all()[-1].index) != first


def test_the_relay_keeps_an_endpoint_that_the_table_names(proxy: stage.Stage) -> None:
    apply(proxy, "http://127.0.0.2:9")
    session_on(proxy, "kept", "http://127.0.0.2:9")

    def drop() -> bool:
        replica = proxy.plane.backends.find("http://127.0.0.2:9", None)
        assert replica is not None
        return proxy.plane.reactor.drop_endpoint(proxy.plane.endpoint(replica.index))

    assert not proxy.call(drop)
    proxy.run(lambda: proxy.plane.book.forget("kept"))
    assert proxy.call(drop)


def test_more_replicas_than_there_is_room_for_are_left_out(
    proxy: stage.Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "REPLICAS_MAX", 3)
    apply(proxy, *(f"http://127.0.0.{number}:9" for number in range(2, 9)))
    assert len(known(proxy)) == 3
    session_on(proxy, "elsewhere", "http://127.0.0.100:9")
    assert len(known(proxy)) == 3
