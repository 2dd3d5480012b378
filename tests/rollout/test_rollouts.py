"""What `make rollout` tells, in short: proxies restarted one by one, replicas that come and go, under load.

Real processes, all of it; the replicas are small MCP servers of our own (replica.py), since the official SDK's would be
the load. Real servers and clients through a graceful restart: tests/e2e/test_graceful_restart.py.
"""

import asyncio
import contextlib
import signal
import time

import pytest
import uvloop

from tests import kit
from tests.kit import actors_message, redis_server
from tests.proxy import fleet as fleets
from tests.rollout import __main__ as command
from tests.rollout import restart, scale, stage


@pytest.mark.slow
def test_proxies_restarted_one_by_one_fail_no_call_and_cut_no_event() -> None:
    with (
        redis_server.RedisServer() as redis,
        stage.replicas(2) as replicas,
        kit.proxies(2, backends=replicas, store=redis.url, flags=command.DRAIN) as proxies,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        outcome = runner.run(
            restart.run(proxies, clients=60, calls_per_second=100.0, rounds=1, seed=3, keeps_connections=True)
        )
        for proxy in proxies:
            assert "Traceback" not in proxy.stderr, proxy.log_tail()
    assert outcome.broken == [], outcome
    assert outcome.restarts == 2
    assert outcome.streams_ended >= 60 and outcome.events > 100 and outcome.calls_answered_by_streams > 20


@pytest.mark.slow
def test_replicas_that_come_take_what_is_new_and_those_that_go_are_missed_by_nobody() -> None:
    with scale.scene() as (scene, pods), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(scale.run(scene, pods, sessions=40))
    assert outcome.broken == [], outcome
    assert set(outcome.phases[0].opened) == {"mcp-0", "mcp-1"}
    newcomers = outcome.phases[1].opened
    assert newcomers["mcp-2"] + newcomers["mcp-3"] > 30, "who comes is filled first"
    assert outcome.phases[3].moved == sum(outcome.moved_from.values()) > 30


@pytest.mark.slow
def test_a_call_of_twenty_seconds_finishes_in_a_drain_of_the_default_lengths() -> None:
    """And so does one that begins while the balancers have yet to notice."""
    seconds = 20.0
    with (
        redis_server.RedisServer() as redis,
        stage.replicas(1) as replicas,
        kit.proxies(1, backends=replicas, store=redis.url) as (proxy,),
        contextlib.ExitStack() as stack,
    ):
        one = fleets.Fleet([proxy], [], redis, fast=True)
        session = one.open()
        clients = [stack.enter_context(one.client()) for _ in range(2)]
        fields = {**fleets.ACCEPT, "Mcp-Session-Id": session}
        for number, client in enumerate(clients):
            body = fleets.message("tools/call", number, name="count", arguments={"seconds": seconds - 2 * number})
            client.send(actors_message.format_request("POST", "/mcp", client.authority, fields, body))
            if not number:
                proxy.signal(signal.SIGTERM)
                time.sleep(1.0)
        counts = {client.response(seconds_max=seconds + 10).json()["result"]["count"] for client in clients}
        assert counts == {1, 2}
        assert proxy.wait(10) == 0
