"""Every proxy is restarted, one by one, while clients call and listen: who noticed?

`run` is the whole story; `Outcome` says which promises were broken, if any: 0 failed POSTs, 0 streams cut in the middle
of an event, every proxy ended by itself with 0.
"""

import asyncio
import random
import time
from collections.abc import Sequence

import msgspec

from tests import kit
from tests.rollout import stage, traffic

SETTLED_SECONDS = 1.5  # before the first restart and after each
STEPS = 3  # progress notifications of a call that is answered by a stream; one client in ten calls so
RATE_SHARE_MIN = 0.9  # of the calls that were to be made; a machine that makes fewer has not shown what was asked


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    proxies: int
    restarts: int
    seconds: float
    calls: int
    calls_per_second: float
    calls_answered_by_streams: int
    failed_calls: int
    slowest_call_seconds: float
    streams: int
    streams_ended: int
    streams_cut: int
    stream_back_seconds: float
    events: int
    exit_codes: list[int]
    complaints: dict[str, int]
    broken: list[str]


async def run(
    proxies: Sequence[kit.Proxy],
    *,
    clients: int,
    calls_per_second: float,
    rounds: int,
    seed: int,
    keeps_connections: bool,
) -> Outcome:
    """All of them, `rounds` times. `keeps_connections`: a client calls on one connection until it is told to close it,
    else on a new one each time, which a Service gives to any live proxy."""
    lots = random.Random(seed)
    tally, end = traffic.Tally(), asyncio.Event()
    service = stage.Service(proxies, random.Random(lots.random()))
    watching = asyncio.create_task(service.watch())
    crowd = [
        traffic.Client(service, tally, random.Random(lots.random()), keeps_connection=keeps_connections)
        for _ in range(clients)
    ]
    for client in crowd:
        await client.open()
    every = clients / calls_per_second
    tasks = [asyncio.create_task(client.listen_until(end)) for client in crowd]
    tasks += [
        asyncio.create_task(client.call_until(end, every_seconds=every, steps=STEPS * (number % 10 == 0)))
        for number, client in enumerate(crowd)
    ]
    began = time.monotonic()
    await asyncio.sleep(SETTLED_SECONDS)
    codes = []
    for proxy in list(proxies) * rounds:
        codes.append(await asyncio.to_thread(proxy.stop))
        await asyncio.to_thread(proxy.start)
        await asyncio.to_thread(proxy.await_ready)
        await asyncio.sleep(SETTLED_SECONDS)
    seconds = time.monotonic() - began
    end.set()
    await asyncio.gather(*tasks)
    for client in crowd:
        await client.close()
    watching.cancel()
    return _judge(tally, codes, seconds, clients=clients, proxies=len(proxies), wanted=calls_per_second)


def _judge(
    tally: traffic.Tally, codes: list[int], seconds: float, *, clients: int, proxies: int, wanted: float
) -> Outcome:
    rate = tally.calls / seconds
    failed, cut = tally.failures.total(), tally.streams_cut.total()
    broken = [f"{failed} failed calls"] * bool(failed) + [f"{cut} streams cut"] * bool(cut)
    if tally.moves:
        broken.append(f"{tally.moves} sessions were opened anew on another replica, and none was gone")
    if any(codes):
        broken.append(f"exit codes {codes}")
    if rate < RATE_SHARE_MIN * wanted:
        broken.append(f"only {rate:.0f} calls a second")
    if tally.streams_ended < clients:
        broken.append(f"only {tally.streams_ended} streams were ended: a restart must end each")
    return Outcome(
        proxies=proxies,
        restarts=len(codes),
        seconds=round(seconds, 1),
        calls=tally.calls,
        calls_per_second=round(rate, 1),
        calls_answered_by_streams=tally.streamed_calls,
        failed_calls=failed,
        slowest_call_seconds=round(tally.slowest_call_seconds, 3),
        streams=clients,
        streams_ended=tally.streams_ended,
        streams_cut=cut,
        stream_back_seconds=round(max(tally.gaps, default=0.0), 3),
        events=tally.events,
        exit_codes=codes,
        complaints=dict(tally.failures + tally.streams_cut),
        broken=broken,
    )
