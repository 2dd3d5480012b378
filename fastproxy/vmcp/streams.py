"""Clients' own streams (GET): one per session in the whole fleet, the newest; and what is merged into it.

    open_stream --> the older one is closed, here or (words.StreamOpened) elsewhere
    tend        --> the streams of the session's legs are listened to here, and of no others; resources that it has
                    subscribed to at backends without sessions are watched (watches.py)
    say         --> a message that belongs to no call

What the legs say goes through the hub (hub.py), which knows whose it is.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy._ext import core
from fastproxy.vmcp import backends, peer, record, sessions, voices, watches, words

logger = logging.getLogger(__name__)

SILENCE_SECONDS_MAX = 15.0  # as often as the SDKs' servers say something
LOOK_SECONDS = 1.0
LISTEN_PAUSE_SECONDS = (0.05, 0.2, 1.0, 5.0, 15.0)


class Streams:
    """Those that are open here."""

    def __init__(
        self,
        known: sessions.Sessions,
        group: backends.Backends,
        *,
        replica: str,
        tell: Callable[..., Any],
        hear: Callable[[str, backends.Backend, bytes], None],
        watched: watches.Watches,
        locate: Callable[[str], str | None],
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        """`tell(word)`: a word to the other processes of the fleet; `hear(session_id, backend, message)`: what a leg
        says on its own stream; `locate(uri)`: the backend of a resource."""
        self._backends = group
        self._replica = replica
        self._tell = tell
        self._hear = hear
        self._watches = watched
        self._locate = locate
        self._start_task = start_task
        self._streams: dict[str, sessions.Session] = {}  # by session id
        self._looking = False
        known.on_changed = self.tend
        known.on_ended = self._session_ended

    def __len__(self) -> int:
        return len(self._streams)

    def open_stream(self, session: sessions.Session, exchange: core.Exchange, fields: voices.Fields) -> None:
        """The newest wins, on whichever replica the older one is."""
        older = session.stream
        if older is not None:
            self._close(session, older)
        session_id = session.session_id
        exchange.note = session_id
        opened = session.stream = voices.Stream(exchange, fields, lambda stream: self._closed(session, stream))
        self._streams[session_id] = session
        self._tell(words.StreamOpened(session_id, self._replica, opened.opened_at))
        self.tend(session)
        if not self._looking:
            self._looking = True
            self._start_task(self._look_after(), name="look after streams")

    def opened_elsewhere(self, word: words.StreamOpened) -> None:
        """Another replica has a stream of the session: the older of two goes."""
        session = self._streams.get(word.session_id)
        stream = None if session is None else session.stream
        if session is not None and stream is not None and stream.opened_at < word.opened_at:
            self._close(session, stream)

    def tend(self, session: sessions.Session) -> None:
        """Listen to the legs that there are by now, and to no others."""
        stream = session.stream
        if stream is None:
            return
        legs = {leg.backend_id: leg for leg in session.record.backends}
        for backend_id, (leg, task) in list(stream.listening.items()):
            if legs.get(backend_id) != leg:
                task.cancel()
                del stream.listening[backend_id]
        for backend_id, leg in legs.items():
            backend = self._backends.get(backend_id)
            bound = leg.replica is not msgspec.UNSET
            if backend is None or backend_id in stream.listening or leg.backend_session_id is None or bound:
                continue
            task = self._start_task(self._listen(session.session_id, backend, leg), name=f"listen to {backend_id}")
            stream.listening[backend_id] = (leg, task)
        self._watch(session, stream)

    def _watch(self, session: sessions.Session, stream: voices.Stream) -> None:
        """What the session has subscribed to at backends that have no sessions."""
        wanted: dict[str, watches.Watch] = {}
        for uri in session.record.subscriptions:
            backend = self._backends.get(self._locate(uri) or "")
            watch = None if backend is None or backend.speaks_legacy else self._watches.of(backend.id)
            if watch is not None:
                wanted[uri] = watch
        for uri in [uri for uri in stream.watched if uri not in wanted]:
            stream.watched.pop(uri)()
        for uri, watch in wanted.items():
            if uri not in stream.watched:
                stream.watched[uri] = self._hear_of(watch, uri, stream)

    def _hear_of(self, watch: watches.Watch, uri: str, stream: voices.Stream) -> Callable[[], None]:
        def heard(updated: str) -> None:
            stream.say(peer.write_notification(watches.UPDATED, msgspec.json.encode({"uri": updated})))

        watch.add(uri, heard)
        return lambda: watch.remove(uri, heard)

    def _close(self, session: sessions.Session, stream: voices.Stream) -> None:
        stream.close()
        self._closed(session, stream)

    def _closed(self, session: sessions.Session, stream: voices.Stream) -> None:
        if stream.closed:
            return
        stream.closed = True
        for _, task in stream.listening.values():
            task.cancel()
        for forget in stream.watched.values():
            forget()
        if session.stream is stream:
            session.stream = None
            self._streams.pop(session.session_id, None)

    def _session_ended(self, session: sessions.Session) -> None:
        if session.stream is not None:
            self._close(session, session.stream)

    async def _look_after(self) -> None:
        """One look a second serves them all, so that a silent stream costs nothing."""
        try:
            while self._streams:
                await asyncio.sleep(LOOK_SECONDS)
                now = time.monotonic()
                for session in list(self._streams.values()):
                    stream = session.stream
                    if stream is not None and now - stream.spoke_at >= SILENCE_SECONDS_MAX:
                        stream.spoke_at = now
                        stream.keep_alive()
        finally:
            self._looking = False

    async def _listen(self, session_id: str, backend: backends.Backend, leg: record.Leg) -> None:
        """To a leg's own stream, for as long as the client's is open here."""
        tries = 0
        while True:
            started = time.monotonic()
            try:
                await backend.peer.listen(
                    leg_session_id=leg.backend_session_id,
                    protocol_version=leg.protocol_version,
                    headers=[],
                    on_message=lambda message: self._hear(session_id, backend, message),
                )
            except (peer.NoStream, peer.SessionLost, peer.Unauthorized) as error:
                logger.debug("a leg has no stream: backend=%s reason=%s", backend.id, error)
                return
            except peer.BackendError as error:
                logger.debug("a leg's stream is lost: backend=%s reason=%s", backend.id, error)
            tries = 0 if time.monotonic() - started > LISTEN_PAUSE_SECONDS[-1] else tries + 1
            await asyncio.sleep(LISTEN_PAUSE_SECONDS[min(tries, len(LISTEN_PAUSE_SECONDS) - 1)])

    def announce(self, kinds: frozenset[str]) -> None:
        """The catalog has changed: every client with a stream here is told which lists."""
        messages = [peer.write_notification(f"notifications/{kind}/list_changed") for kind in sorted(kinds)]
        for session in list(self._streams.values()):
            for message in messages:
                self.say(session, message)

    def say(self, session: sessions.Session, message: bytes) -> bool:
        """On the session's stream. False: it is not here, or takes nothing more."""
        stream = session.stream
        if stream is None:
            return False
        stream.spoke_at = time.monotonic()
        return stream.say(message)

    def say_here(self, session_id: str, message: bytes) -> None:
        """What another replica has heard, if the client's stream is here."""
        session = self._streams.get(session_id)
        if session is not None:
            self.say(session, message)
