"""Active health: replicas are asked something cheap now and then, so that one that hangs is found before clients wait.

    live         every --health-interval; after a failure, and while it is just back, every second
    failed       every second: a connect, or the question when a connect has proved nothing (routing/health.py)
    leaving      never: nothing new goes there

The question is `OPTIONS {path}/`, which opens no session and no stream at any server; whoever can say no is well. Only
faults count (5xx but 501, which is an honest answer to a method that is not known), and silence.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy._ext import core
from fastproxy.config import schema
from fastproxy.mcp import reply
from fastproxy.proxy import dialer, dialogue
from fastproxy.routing import backends, health

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5  # between two looks at who is due
AGAIN_SECONDS = 1.0  # after a failure
JITTER = 0.1  # of the interval, so that the proxies of a fleet do not ask at the same moment
_NOT_IMPLEMENTED = 501


class Rules(msgspec.Struct, frozen=True):
    """An interval of 0: nobody is asked; only connects that fail or succeed say something."""

    interval_seconds: float
    timeout_seconds: float
    threshold: int


def rules_of(config: schema.ServeConfig) -> Rules:
    """What the owner wants."""
    return Rules(config.health_interval, config.health_timeout, config.health_threshold)


class Unwell(Exception):
    """It took the connection, and that was all."""


class Prober:
    """`on_failure` hears of a replica that can't be reached. `rules` may be replaced at any time."""

    def __init__(
        self,
        replicas: backends.Backends,
        reactor: core.Reactor,
        dial: dialer.Dialer,
        *,
        rules: Rules,
        endpoint_of: Callable[[int], core.Endpoint],
        on_failure: Callable[[backends.Replica, str], None],
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        self._replicas = replicas
        self._reactor = reactor
        self._dialer = dial
        self._endpoint_of = endpoint_of
        self._on_failure = on_failure
        self._start_task = start_task
        self._asked_at: dict[str, float] = {}
        self._asking: set[str] = set()
        self.rules = rules

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            known = self._replicas.all()
            if len(self._asked_at) > len(known):
                urls = {replica.url for replica in known}
                self._asked_at = {url: at for url, at in self._asked_at.items() if url in urls}
            for replica in known:
                if self._is_due(replica, loop.time()):
                    self._asking.add(replica.url)
                    self._start_task(self._probe(replica), name="probe a replica")

    def _is_due(self, replica: backends.Replica, now: float) -> bool:
        if replica.url in self._asking or replica.state == "leaving" or not replica.named:
            return False
        passed = now - self._asked_at.setdefault(replica.url, now)
        if replica.condition.cause == health.CONNECT:
            return passed >= AGAIN_SECONDS
        if not self.rules.interval_seconds:
            return False
        known = replica.condition
        doubtful = known.cause is not None or known.failures > 0 or health.share(known, time.monotonic()) < 1.0
        return passed >= (min(AGAIN_SECONDS, self.rules.interval_seconds) if doubtful else self.rules.interval_seconds)

    def request_lost(self, index: int, lost: core.UpstreamLost) -> None:
        """A replica was sent a request and has not answered."""
        if not self.rules.interval_seconds:
            return  # nobody would ask whether it is well again
        replica = self._replicas.at(index)
        ended = sum(count for _, _, count in self._endpoint_of(index).answers())
        reason = f"{replica.url}: requests were lost ({lost.kind})"
        if self._replicas.request_lost(replica, reason, ended=ended):
            logger.warning("replica failed: backend=%s reason=%s", replica.url, reason)

    async def _probe(self, replica: backends.Replica) -> None:
        try:
            if replica.condition.cause == health.CONNECT:
                await self._connect(replica)
            else:
                await self._question(replica)
        except dialer.Unreachable as error:
            self._on_failure(replica, str(error))
        except Unwell as error:
            if self._replicas.probe_failed(replica, str(error), threshold=self.rules.threshold):
                logger.warning("replica failed: backend=%s reason=%s", replica.url, error)
        except reply.Refusal:  # our own trouble: of the replica we have learned nothing
            pass
        finally:
            self._asking.discard(replica.url)
            early = random.uniform(0, JITTER) * self.rules.interval_seconds
            self._asked_at[replica.url] = asyncio.get_running_loop().time() - early

    async def _connect(self, replica: backends.Replica) -> None:
        self._reactor.give_back(await self._dialer.connect(self._endpoint_of(replica.index), fresh=True))
        if self._replicas.answered(replica):
            logger.info("replica answers again: backend=%s", replica.url)

    async def _question(self, replica: backends.Replica) -> None:
        endpoint = self._endpoint_of(replica.index)
        address = await self._dialer.address(endpoint)
        request = b"OPTIONS %s/ HTTP/1.1\r\nHost: %s\r\nUser-Agent: fastproxy-health\r\nConnection: close\r\n\r\n"
        try:
            answer = await dialogue.open_events(
                address,
                endpoint.port,
                request=request % (replica.path.encode("ascii"), endpoint.authority),
                tls=endpoint.tls_context,
                hostname=endpoint.hostname,
                connect_seconds_max=self.rules.timeout_seconds,
                head_seconds_max=self.rules.timeout_seconds,
            )
        except dialogue.NotConnected:
            await self._connect(replica)  # it may have another address, or its name may have moved
            return
        except dialogue.DialogueFailed as error:
            raise Unwell(f"{replica.url}: health: {error}") from error
        answer.close()
        if answer.status >= 500 and answer.status != _NOT_IMPLEMENTED:
            raise Unwell(f"{replica.url}: health: answered {answer.status}")
        if self._replicas.probe_answered(replica):
            logger.info("replica answers again: backend=%s", replica.url)
