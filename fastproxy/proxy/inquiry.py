"""Asking a replica on behalf of an exchange: this one, or whoever gets what is new.

A request is sent twice only when it surely did not run the first time. A replica that has as many requests as it may
is not asked (admission.py). What comes back is the answer's head, or a Refusal for the client; Unreachable when the
request has not been sent.
"""

from collections.abc import Callable

from fastproxy._ext import core
from fastproxy.mcp import envelope, reply
from fastproxy.proxy import admission, dialer
from fastproxy.routing import backends

BEGINNING_BYTES = 1024  # of a body too long to be kept: its id is there, or behind all of it
PEEK_BYTES_MAX = 65536  # interface §3.1: an `initialize` is looked for in bodies up to 64 KiB

Exchange = core.Exchange


class Inquiry:
    """`on_failure` hears of a replica that can't be reached, `on_loss` of one that got a request and did not answer."""

    def __init__(
        self,
        *,
        replicas: backends.Backends,
        dial: dialer.Dialer,
        bounds: admission.Admission,
        replay_bytes_max: int,
        response_seconds: float,
        on_failure: Callable[[backends.Replica, str], None],
        on_loss: Callable[[int, core.UpstreamLost], None],
        endpoint_of: Callable[[int], core.Endpoint],
    ) -> None:
        self._replicas = replicas
        self._dialer = dial
        self._bounds = bounds
        self._on_failure = on_failure
        self._on_loss = on_loss
        self._endpoint_of = endpoint_of
        self._beginnings: dict[Exchange, bytes] = {}  # of long bodies that are on their way
        self.set_bounds(replay_bytes_max=replay_bytes_max, response_seconds=response_seconds)

    def set_bounds(self, *, replay_bytes_max: int, response_seconds: float) -> None:
        """As the relay has them."""
        self._envelope_bytes_max = max(PEEK_BYTES_MAX, replay_bytes_max)
        self._response_seconds = response_seconds

    async def ask(
        self,
        exchange: Exchange,
        replica: backends.Replica,
        rule: int,
        session: bytes = b"",
        target: bytes | None = None,
    ) -> core.AnswerHead:
        """The answer's head of this replica."""
        endpoint = self._endpoint_of(replica.index)
        counts = self._bounds.counts(exchange)
        full = counts and self._bounds.is_full(replica.index) and await self._is_request(exchange)
        if full and self._bounds.is_full(replica.index):  # its body may have been awaited
            raise reply.backend_overloaded()
        if self._is_long(exchange) and exchange not in self._beginnings:
            self._beginnings[exchange] = (await exchange.peek(BEGINNING_BYTES))[0][:BEGINNING_BYTES]
        again = False
        while True:
            upstream = await self._connect(endpoint, replica, fresh=again, counts=counts)
            try:
                return await exchange.forward(upstream, rule, session, target)
            except core.UpstreamLost as lost:
                if lost.ran or lost.kind != "lost":
                    raise self.lose(replica.index, lost) from lost
                if again or not exchange.may_repeat:
                    raise dialer.Unreachable(f"{replica.url}: the connection was closed before the request") from lost
                again = True

    async def _connect(
        self, endpoint: core.Endpoint, replica: backends.Replica, *, fresh: bool, counts: bool
    ) -> core.Upstream:
        endpoint.expected += counts  # it has its place while the connection is made
        try:
            upstream = await self._dialer.connect(endpoint, fresh=fresh)
        except dialer.Unreachable as error:
            self._on_failure(replica, str(error))
            raise
        finally:
            endpoint.expected -= counts
        self._replicas.answered(replica)
        return upstream

    async def ask_any(
        self, exchange: Exchange, rule: int, *, for_session: bool, first: int | None = None
    ) -> core.AnswerHead:
        """The answer's head of whoever gets what is new; the next replica when one is full or can't be reached.
        `first`: the index of one that has been chosen already."""
        tried: set[int] = set()
        last: dialer.Unreachable | None = None
        while True:
            if first is not None and not tried:
                replica: backends.Replica | None = self._replicas.at(first)
            else:
                replica = await self._choose(exchange, tried, for_session=for_session)
            if replica is None:
                if last is not None:
                    raise last
                raise reply.backend_unavailable()
            tried.add(replica.index)
            if for_session:
                self._replicas.opening(replica.index)  # Opening says when it is over
            try:
                return await self.ask(exchange, replica, rule)
            except BaseException as error:
                if for_session:
                    self._replicas.opened(replica.index)
                if not isinstance(error, dialer.Unreachable) or not exchange.may_repeat:
                    raise
                last = error

    async def _choose(self, exchange: Exchange, tried: set[int], *, for_session: bool) -> backends.Replica | None:
        if not self._bounds.counts(exchange):
            return self._replicas.choose(for_session=for_session, without=tried)
        full = {replica.index for replica in self._replicas.live() if self._bounds.is_full(replica.index)} - tried
        replica = self._replicas.choose(for_session=for_session, without=tried | full)
        if replica is None and full:
            if await self._is_request(exchange):
                raise reply.backend_overloaded()
            replica = self._replicas.choose(for_session=for_session, without=tried)
        return replica

    async def _is_request(self, exchange: Exchange) -> bool:
        """Does somebody wait for an answer? Of a body too large to be read nobody knows: it is taken for one."""
        asked = await self.envelope(exchange)
        return asked is None or asked.is_request

    async def envelope(self, exchange: Exchange) -> envelope.Envelope | None:
        """The envelope of the request's message; None when it is none, or can't be had without harm. Of a message that
        is too long to be kept it is what the beginning tells."""
        beginning = self._beginnings.get(exchange)
        if beginning is not None:
            return envelope.read_beginning(beginning)
        body, whole = exchange.body
        if not whole and exchange.has_body and not exchange.awaits_continue and exchange.may_repeat:
            is_long = (exchange.body_length or 0) > self._envelope_bytes_max
            body, whole = await exchange.peek(BEGINNING_BYTES if is_long else self._envelope_bytes_max)
        if not body:
            return None
        return envelope.read(body) if whole else envelope.read_beginning(body)

    def _is_long(self, exchange: Exchange) -> bool:
        """Will its body be gone when something goes wrong?"""
        length = exchange.body_length
        return (
            exchange.has_body
            and (length is None or length > self._envelope_bytes_max)
            and not exchange.awaits_continue
            and exchange.may_repeat
        )

    def forget(self, exchange: Exchange) -> None:
        """Its answer has begun, or it has been refused."""
        self._beginnings.pop(exchange, None)

    def lose(self, index: int, lost: core.UpstreamLost) -> reply.Refusal:
        """A replica has not answered: it is remembered against it; what the client is told."""
        self._on_loss(index, lost)
        return self.refuse(lost)

    def refuse(self, lost: core.UpstreamLost) -> reply.Refusal:
        """What a client is told whose backend was lost."""
        if lost.kind == "timeout":
            return reply.backend_timeout(self._response_seconds)
        if lost.kind == "protocol":
            return reply.backend_protocol_error(lost.detail)
        return reply.backend_lost()
