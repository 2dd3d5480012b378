"""Live reload: another configuration while sessions, calls and streams go on; one process and two workers.

Real: `fastproxy serve` as a user starts it, its file, SIGHUP, certificates. Replicas are scripted MCP servers
(fleet.py). Not covered: what a file may change without a restart, and when it counts as changed
(tests/config/test_watch.py); a wave of names from DNS (test_discovery.py has the names).
"""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
import trustme

from tests import kit
from tests.kit import actors_message, actors_wire, command
from tests.proxy import fleet as fleets

SLOW_SECONDS = 1.5


class Owner:
    """Who writes the file. Values are JSON, which is YAML too."""

    def __init__(self, folder: pathlib.Path, behind: list[fleets.Replica]) -> None:
        self.file = folder / "proxy.yaml"
        self.wanted: dict[str, object] = {"backend": [replica.origin for replica in behind]}
        self.write()

    def write(self, **settings: object) -> None:
        """Other settings beside those of before, in one step, as `mv` does it. A None is taken out."""
        self.wanted = {name: value for name, value in (self.wanted | settings).items() if value is not None}
        self.put("".join(f"{name}: {json.dumps(value)}\n" for name, value in self.wanted.items()))

    def put(self, text: str) -> None:
        """Whatever stands in it then."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.file)


def reloads(proxy: kit.Proxy, outcome: str) -> float:
    return proxy.metrics().value("fastproxy_config_reloads_total", outcome=outcome)


def change(fleet: fleets.Fleet, owner: Owner, outcome: str = "applied", **settings: object) -> None:
    """Write, tell, and wait until it has been taken notice of."""
    (proxy,) = fleet.proxies
    before = reloads(proxy, outcome)
    owner.write(**settings)
    proxy.signal(signal.SIGHUP)
    fleets.await_that(lambda: reloads(proxy, outcome) > before, f"{outcome}: {settings}")


@contextlib.contextmanager
def owned(
    folder: pathlib.Path, behind: list[fleets.Replica], *flags: str, workers: int = 1, **settings: object
) -> Iterator[tuple[fleets.Fleet, Owner]]:
    """A proxy that has its replicas from a file, and who writes it."""
    owner = Owner(folder, behind)
    owner.write(**settings)
    own = ("--config", str(owner.file), "--workers", str(workers), "--drain-delay", "0s", *flags)
    with fleets.fleet(*own, proxies=1, behind=[]) as fleet:
        yield fleet, owner
        fleets.assert_sound(fleet)


@pytest.fixture
def behind() -> Iterator[list[fleets.Replica]]:
    with fleets.replicas(2) as two:
        yield two


def home_of(fleet: fleets.Fleet, session: str) -> str:
    record = fleet.proxies[0].session(session)
    assert record is not None
    return str(record["backend_url"])


def settled(ask: Callable[[], int], times: int = 8) -> set[int]:
    """What all answer: with two workers, any of them may be asked."""
    return {ask() for _ in range(times)}


# ---- what is applied


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_file_moves_new_sessions_and_leaves_the_old_where_they_are(
    tmp_path: pathlib.Path, behind: list[fleets.Replica], workers: int
) -> None:
    first, second = behind
    with owned(tmp_path, [first], workers=workers) as (fleet, owner):
        (proxy,) = fleet.proxies
        old = fleet.open()
        assert fleet.count(0, old) == 1
        owner.write(backend=[second.origin])  # and nobody says so
        fleets.await_that(lambda: reloads(proxy, "applied") == 1, "the file is noticed")
        fleets.await_that(lambda: {b["url"]: b["state"] for b in proxy.backends()}[first.origin] == "leaving", "seen")
        new = [fleet.open() for _ in range(4)]
        assert {home_of(fleet, session) for session in new} == {second.origin}
        assert [fleet.count(0, old) for _ in range(4)] == [2, 3, 4, 5]
        assert home_of(fleet, old) == first.origin
        change(fleet, owner, backend=[first.origin, second.origin])
        fleets.await_that(lambda: all(b["state"] == "live" for b in proxy.backends()), "it is back")
        assert fleet.count(0, old) == 6


@pytest.mark.parametrize("workers", [1, 2])
def test_what_needs_no_restart_holds_at_once_and_config_shows_it(
    tmp_path: pathlib.Path, behind: list[fleets.Replica], workers: int
) -> None:
    with owned(tmp_path, behind, workers=workers) as (fleet, owner):
        (proxy,) = fleet.proxies
        session = fleet.open()
        assert fleet.call(0, session, padding="x" * 2000).status == 200
        change(
            fleet,
            owner,
            max_header="1KiB",
            max_body="2KiB",
            allowed_host=["mcp.test"],
            policy="round-robin",
            drain_timeout="7s",
        )
        shown = proxy.config()
        assert (shown["max_header"], shown["max_body"], shown["policy"]) == ("1KiB", "2KiB", "round-robin")
        assert (shown["allowed_host"], shown["drain_timeout"]) == (["mcp.test"], "7s")
        host = {"Host": "mcp.test"}
        fleets.await_that(lambda: settled(lambda: fleet.call(0, session).status) == {403}, "another host is asked for")
        assert fleet.call(0, session, **host).status == 200, "known to the fast lane under another name before"
        assert fleet.call(0, session, padding="x" * 2000, **host).status == 431
        big = fleets.message("tools/call", 1, name="x" * 3000)
        assert fleet.post(0, big, session, **host).status == 413


def test_a_session_without_a_replica_is_ended_or_moved_as_the_configuration_says_now(
    tmp_path: pathlib.Path, behind: list[fleets.Replica]
) -> None:
    with owned(tmp_path, behind[:1]) as (fleet, owner):
        session, other = fleet.open(), fleet.open()
        behind[0].forget()
        assert fleet.call(0, other).status == 200
        change(fleet, owner, on_backend_loss="not-found")
        behind[0].forget()
        assert fleet.call(0, session).status == 404


def test_a_path_put_in_front_can_be_another(tmp_path: pathlib.Path, behind: list[fleets.Replica]) -> None:
    replica = behind[0]
    with owned(tmp_path, [replica]) as (fleet, owner):
        session = fleet.open()
        change(fleet, owner, backend=[replica.origin + "/base"])
        assert fleet.call(0, session).status == 200
        assert replica.requests[-1].start_line.split()[1] == "/base/mcp"


def test_access_lines_and_debug_words_begin_and_end(tmp_path: pathlib.Path, behind: list[fleets.Replica]) -> None:
    with owned(tmp_path, behind) as (fleet, owner):
        (proxy,) = fleet.proxies
        session = fleet.open()
        assert "fastproxy.access" not in proxy.stderr
        change(fleet, owner, access_log=True, log_format="json")
        fleet.count(0, session)
        fleets.await_that(lambda: proxy.stderr.count('"logger":"fastproxy.access"') == 1, "one line")
        change(fleet, owner, access_log=False, log_level="error")
        fleet.count(0, session)
        assert proxy.stderr.count("fastproxy.access") == 1


def test_a_worker_that_comes_later_begins_with_the_new_configuration(
    tmp_path: pathlib.Path, behind: list[fleets.Replica]
) -> None:
    with owned(tmp_path, behind, workers=2) as (fleet, owner):
        (proxy,) = fleet.proxies
        change(fleet, owner, max_header="1KiB")
        children = pathlib.Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children")
        for pid in map(int, children.read_text().split()):
            os.kill(pid, signal.SIGKILL)
        fleets.await_that(lambda: proxy.readiness()[0] == 200, "both are replaced")
        session = fleet.open()
        assert settled(lambda: fleet.call(0, session, padding="x" * 2000).status) == {431}


# ---- what is under way


def test_a_deadline_that_runs_is_kept_and_the_next_call_has_the_new_one(
    tmp_path: pathlib.Path, behind: list[fleets.Replica]
) -> None:
    replica = behind[0]

    async def work(
        replica: fleets.Replica, connection: actors_wire.Connection, request: actors_message.Message
    ) -> bool:
        if fleets.rpc_method(request) == "tools/call":
            await asyncio.sleep(SLOW_SECONDS)
        return False

    with owned(tmp_path, [replica]) as (fleet, owner), concurrent.futures.ThreadPoolExecutor() as crowd:
        session = fleet.open()
        replica.act = work
        calls = [crowd.submit(fleet.count, 0, session) for _ in range(3)]
        fleets.await_that(lambda: len(replica.got("POST", "tools/call")) == 3, "they run")
        change(fleet, owner, response_timeout="500ms")
        began = time.monotonic()
        answer = fleet.call(0, session)
        assert answer.json()["error"]["data"]["reason"] == "backend_timeout"
        assert "0.5 s" in answer.json()["error"]["message"]
        assert time.monotonic() - began < SLOW_SECONDS
        assert sorted(call.result() for call in calls) == [1, 2, 3], "what had begun was not hurried"
        change(fleet, owner, response_timeout="20s")
        assert fleet.count(0, session) > 3


def test_nothing_is_dropped_by_reloads_under_load(tmp_path: pathlib.Path, behind: list[fleets.Replica]) -> None:
    with owned(tmp_path, behind) as (fleet, owner), concurrent.futures.ThreadPoolExecutor() as crowd:
        sessions = [fleet.open() for _ in range(6)]
        stop = False

        def use(session: str) -> int:
            counted = 0
            with fleet.client() as client:
                while not stop:
                    body = fleets.message("tools/call", 1, name="count")
                    fields = {**fleets.ACCEPT, "Mcp-Session-Id": session}
                    answer = client.request("POST", "/mcp", fields, body)
                    counted += 1
                    assert fleets.result_of(answer)["count"] == counted
            return counted

        with fleet.client() as listener:
            listener.send(
                actors_message.format_request(
                    "GET",
                    "/mcp",
                    listener.authority,
                    {"Accept": "text/event-stream", "Mcp-Session-Id": sessions[0]},
                )
            )
            assert listener.head().status == 200
            users = [crowd.submit(use, session) for session in sessions]
            for number in range(6):
                some = [replica.origin for replica in behind[: 1 + number % 2]]
                change(fleet, owner, backend=some, max_body=f"{number + 1}MiB", idle_timeout=f"{60 + number}s")
            stop = True
            assert all(user.result() > 5 for user in users)
            assert listener.is_silent(0.1), "the stream is open"


# ---- what is not applied


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_file_changes_nothing_and_every_problem_is_told(
    tmp_path: pathlib.Path, behind: list[fleets.Replica], workers: int
) -> None:
    with owned(tmp_path, behind, workers=workers) as (fleet, owner):
        (proxy,) = fleet.proxies
        session, before = fleet.open(), proxy.config()
        change(fleet, owner, "refused", max_body="lots", policy="whim", drain_delay="0s")
        said = [line for line in proxy.stderr.splitlines() if "was not reloaded, the old one stays" in line]
        assert len(said) == 2 and "max_body" in "".join(said) and "policy" in "".join(said)
        status, page = proxy.readiness()
        assert (status, page["ready"], page["reasons"]) == (200, True, ["configuration_refused"])
        assert "max_body: expected a size" in page["details"]["configuration_refused"]
        assert proxy.config() == before
        assert fleet.count(0, session) == 1
        change(fleet, owner, max_body="1MiB", policy=None)
        assert proxy.readiness()[1]["reasons"] == []
        assert proxy.config()["max_body"] == "1MiB"


def test_a_file_that_is_no_document_is_refused_once_and_not_every_second(
    tmp_path: pathlib.Path, behind: list[fleets.Replica]
) -> None:
    with owned(tmp_path, behind) as (fleet, owner):
        (proxy,) = fleet.proxies
        owner.put("backend: [")
        fleets.await_that(lambda: reloads(proxy, "refused") == 1, "it is noticed")
        time.sleep(2.5)
        assert reloads(proxy, "refused") == 1
        owner.file.unlink()
        time.sleep(2.5)
        assert reloads(proxy, "refused") == 1, "a file that is away is no other"
        assert fleet.count(0, fleet.open()) == 1


def test_what_needs_a_restart_is_named_once_and_the_rest_holds(
    tmp_path: pathlib.Path, behind: list[fleets.Replica]
) -> None:
    with owned(tmp_path, behind) as (fleet, owner):
        (proxy,) = fleet.proxies
        change(fleet, owner, "restart_needed", name="other", session_ttl="1h", max_body="1MiB")
        said = [line for line in proxy.stderr.splitlines() if "needs a restart" in line]
        assert len(said) == 1 and "name, key_prefix, session_ttl needs a restart" in said[0], said
        page = proxy.readiness()[1]
        assert page["ready"] and page["reasons"] == ["configuration_needs_restart"]
        shown = proxy.config()
        assert (shown["name"], shown["session_ttl"], shown["max_body"]) == ("default", "2h", "1MiB")


def test_a_flag_wins_over_the_file_in_a_reload_too(tmp_path: pathlib.Path, behind: list[fleets.Replica]) -> None:
    with owned(tmp_path, behind, "--policy", "random") as (fleet, owner):
        change(fleet, owner, policy="round-robin", max_body="1MiB")
        shown = fleet.proxies[0].config()
        assert (shown["policy"], shown["max_body"]) == ("random", "1MiB")


# ---- certificates


def test_another_certificate_is_shown_to_new_connections_and_a_broken_one_is_not(
    tmp_path: pathlib.Path, behind: list[fleets.Replica]
) -> None:
    authority = trustme.CA()
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"

    def issue() -> str:
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return certificate.read_text()

    old = issue()
    with owned(tmp_path, behind, tls_cert=str(certificate), tls_key=str(key)) as (fleet, owner):
        host, _, port = fleet.proxies[0].origin.removeprefix("https://").rpartition(":")
        assert ssl.get_server_certificate((host, int(port))) == old
        new = issue()
        change(fleet, owner)
        assert ssl.get_server_certificate((host, int(port))) == new
        certificate.write_text("no certificate")
        change(fleet, owner, "refused")
        assert ssl.get_server_certificate((host, int(port))) == new
        change(fleet, owner, "refused", tls_cert=None)
        newest = issue()
        change(fleet, owner, "restart_needed", tls_cert=None, tls_key=None)
        assert ssl.get_server_certificate((host, int(port))) == newest, "it speaks TLS all the same"


# ---- drain


@pytest.mark.parametrize("workers", [1, 2])
def test_a_drain_takes_the_times_that_hold_now_and_drain_wait_waits_for_it(
    tmp_path: pathlib.Path, behind: list[fleets.Replica], workers: int
) -> None:
    with owned(tmp_path, behind, workers=workers) as (fleet, owner):
        pass
    owner.write(drain_delay="30s")
    flags = ("--config", str(owner.file), "--workers", str(workers))
    with fleets.fleet(*flags, proxies=1, behind=[]) as fleet:
        (proxy,) = fleet.proxies
        fleet.open()
        change(fleet, owner, drain_delay="500ms")
        began = time.monotonic()
        done = command.run("drain", "--wait", "--admin", proxy.admin_origin)
        assert (done.returncode, done.stdout) == (0, "drained\n"), done.stderr
        assert 0.5 <= time.monotonic() - began < 15
        assert proxy.wait(5) == 0


def test_another_authority_for_replicas_is_trusted_from_the_next_connection_on(tmp_path: pathlib.Path) -> None:
    ours, foreign = trustme.CA(), trustme.CA()
    trusted = tmp_path / "authorities.pem"
    foreign.cert_pem.write_to_path(str(trusted))
    issued = ours.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key))  # an https replica: another proxy
    with (
        fleets.replicas(1) as last,
        fleets.fleet(*tls, proxies=1, behind=last) as inner,
        owned(tmp_path, [], backend=[inner.proxies[0].origin], backend_ca=str(trusted)) as (fleet, owner),
    ):
        refused = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE))
        assert refused.json()["error"]["data"]["reason"] in ("backend_unreachable", "backend_unavailable")
        ours.cert_pem.write_to_path(str(trusted))  # the same file, with another content
        change(fleet, owner)
        fleets.await_that(lambda: fleets.are_live(fleet.proxies[0]), "it is trusted")
        assert fleet.count(0, fleet.open()) == 1
