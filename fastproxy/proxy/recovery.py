"""A session whose replica is gone, or has forgotten it, opened anew on another one (interface §3.4).

    claim in the store (one recovery at a time, over all replicas of the proxy)
      -> the stored `initialize` and `notifications/initialized` on a replica chosen anew
      -> compare-and-set of the record  -> lost: what we opened is ended again, the winner's place holds

Whoever waits for a claim watches the record: it changes when the other has finished, and is gone when the session was
ended. Nothing here brings a record back: the update is refused when the record is not there.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.mcp import envelope, reply
from fastproxy.proxy import dialogue
from fastproxy.routing import backends
from fastproxy.session import book, record

CLAIM_SECONDS = 3.0  # a proxy that dies in the middle holds the others up for no longer
CLAIM_RENEWAL_SECONDS = 1.0
CLAIM_POLL_SECONDS = 0.05
WAIT_SECONDS_MAX = 20.0  # for somebody else's recovery, before the request is refused

_ACCEPT = (b"Accept", b"application/json, text/event-stream")
_JSON = (b"Content-Type", b"application/json")
_INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'

Fields = list[tuple[bytes, bytes]]
StartTask = Callable[..., asyncio.Task[Any]]
Ask = Callable[..., Coroutine[Any, Any, dialogue.Answer]]


class Recovery:
    """`ask(replica, method, target, fields, body)` speaks to a replica; `counts` is by (reason, outcome)."""

    def __init__(self, sessions: book.Book, replicas: backends.Backends, ask: Ask, start_task: StartTask) -> None:
        self._book = sessions
        self._replicas = replicas
        self._ask = ask
        self._start_task = start_task
        self._running: dict[str, asyncio.Task[book.Place | None]] = {}
        self.counts: dict[tuple[str, str], int] = {}

    async def recover(
        self, place: book.Place, *, reason: str, avoid: Iterable[int], fields: Fields
    ) -> book.Place | None:
        """Where the session lives now; None when it has ended. `place` is what failed; `avoid` are endpoints not to
        choose. Callers at the same moment share one recovery. Refusal when no replica takes the session."""
        running = self._running.get(place.session_id)
        if running is None:
            running = self._start_task(self._recover(place, frozenset(avoid), fields), name="recover a session")
            self._running[place.session_id] = running
            running.add_done_callback(lambda done: self._over(place.session_id, reason, done))
        return await asyncio.shield(running)

    def _over(self, session_id: str, reason: str, done: asyncio.Task[book.Place | None]) -> None:
        del self._running[session_id]
        if done.cancelled() or done.exception() is not None:
            outcome = "failed"
        else:
            outcome = "gone" if done.result() is None else "recovered"
        self.counts[reason, outcome] = self.counts.get((reason, outcome), 0) + 1

    async def _recover(self, place: book.Place, avoid: frozenset[int], fields: Fields) -> book.Place | None:
        owner = uuid.uuid4().hex
        session_id = place.session_id
        give_up = time.monotonic() + WAIT_SECONDS_MAX
        while True:
            session = await self._book.load(session_id)
            if session is None or self._has_moved(session, place):
                return await self._look_again(session_id)
            if await self._book.store.claim(session_id, owner, CLAIM_SECONDS):
                break
            if time.monotonic() > give_up:
                raise reply.backend_unreachable("another proxy has been recovering the session for too long")
            await asyncio.sleep(CLAIM_POLL_SECONDS)
        renewal = self._start_task(self._keep_claim(session_id, owner), name="keep a claim")
        try:
            return await self._move(place, avoid, fields)
        finally:
            renewal.cancel()
            await self._release(session_id, owner)

    def _has_moved(self, session: record.SessionRecord, place: book.Place) -> bool:
        """Has somebody recovered it since the caller last looked? By its generation, for a backend may hand out the
        same id again; by its place too, for an id that was ended and opened anew begins with the first generation."""
        replica = self._replicas.find(session.backend_url, session.backend_pod)
        return not place.is_of(session) or (replica is not None and replica.index != place.endpoint)

    async def _keep_claim(self, session_id: str, owner: str) -> None:
        while True:
            await asyncio.sleep(CLAIM_RENEWAL_SECONDS)
            with contextlib.suppress(errors.StoreError):  # the compare-and-set at the end is what protects the record
                await self._book.store.claim(session_id, owner, CLAIM_SECONDS)

    async def _release(self, session_id: str, owner: str) -> None:
        try:
            await self._book.store.release(session_id, owner)
        except errors.StoreError:
            return  # it ends by itself

    async def _move(self, place: book.Place, avoid: frozenset[int], fields: Fields) -> book.Place | None:
        session = await self._book.load(place.session_id)  # again: the claim may have come after a winner's release
        if session is None or self._has_moved(session, place):
            return await self._look_again(place.session_id)
        moved = await self._open_anew(session, avoid, fields)
        try:
            found = await self._book.move(moved, expected_generation=session.generation)
        except errors.StoreError:
            await self.end_at_backend(moved, fields)  # should the update have come through, the next recovery mends it
            raise
        if found is not None:
            return found
        await self.end_at_backend(moved, fields)
        return await self._look_again(place.session_id)

    async def _look_again(self, session_id: str) -> book.Place | None:
        """Where somebody else has brought it; None when it has ended."""
        self._book.drop(session_id)
        return await self._book.find(session_id)

    async def _open_anew(
        self, session: record.SessionRecord, avoid: frozenset[int], fields: Fields
    ) -> record.SessionRecord:
        tried = set(avoid)
        detail = "none is live"
        while True:
            replica = self._replicas.choose(for_session=True, without=tried)
            if replica is None:
                raise reply.backend_unreachable(detail)
            tried.add(replica.index)
            try:
                return await self._handshake(session, replica, fields)
            except dialogue.DialogueFailed as error:
                detail = f"{replica.url}: {error}"

    async def _handshake(
        self, session: record.SessionRecord, replica: backends.Replica, fields: Fields
    ) -> record.SessionRecord:
        message = {"jsonrpc": "2.0", "id": "fastproxy-recovery", "method": "initialize", "params": session.initialize}
        opening = [*fields, _JSON, _ACCEPT]
        answer = await self._ask(replica, "POST", session.path, opening, msgspec.json.encode(message))
        result, error = envelope.outcome(answer.message)
        backend_id = answer.header(b"mcp-session-id")
        if not 200 <= answer.status < 300 or result is None or backend_id is None:
            raise dialogue.DialogueFailed(f"initialize was answered {answer.status} {_describe(error)}".strip())
        version = result.get("protocolVersion")
        version = version if isinstance(version, str) else session.protocol_version
        moved = record.moved(
            session,
            backend_url=replica.url,
            backend_pod=replica.pod,
            backend_session_id=backend_id.decode("latin-1"),
            protocol_version=version,
            unix_seconds=time.time(),
        )
        initialized = [*opening, *session_fields(moved)]
        try:
            ready = await self._ask(replica, "POST", session.path, initialized, _INITIALIZED)
            if not 200 <= ready.status < 300:
                raise dialogue.DialogueFailed(f"notifications/initialized was answered {ready.status}")
        except dialogue.DialogueFailed:
            await self.end_at_backend(moved, fields)
            raise
        return moved

    async def end_at_backend(self, session: record.SessionRecord, fields: Fields) -> None:
        """DELETE the backend's half, best effort."""
        replica = self._replicas.find(session.backend_url, session.backend_pod)
        if replica is None or session.transport != "streamable-http":
            return
        try:
            await self._ask(replica, "DELETE", session.path, [*fields, _ACCEPT, *session_fields(session)], b"")
        except dialogue.DialogueFailed:
            return  # it is gone, or will expire there


def session_fields(session: record.SessionRecord) -> Fields:
    """The fields that name a session to its backend."""
    backend_id = session.backend_session_id or session.session_id
    fields = [(b"Mcp-Session-Id", backend_id.encode("latin-1"))]
    if session.protocol_version:
        fields.append((b"MCP-Protocol-Version", session.protocol_version.encode("latin-1")))
    return fields


def _describe(error: dict[str, object] | None) -> str:
    return "" if error is None else f"with error {error.get('code')}"
