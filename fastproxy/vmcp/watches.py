"""Resources that somebody wants to hear of, watched at their backend: one watch per backend and process, for all.

    add(uri, heard) -> legacy backend: a session of ours, resources/subscribe, its stream
                       modern backend: one subscriptions/listen over all URIs, opened anew when they change
    notifications/resources/updated -> whoever has added that URI, or one that it lies under

For who has no session at the backend: clients of 2026-07-28, and sessions at modern backends. While a watch was broken
something may have changed, so that its return counts as an update of each URI.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy.vmcp import backends, bridge, era, peer

logger = logging.getLogger(__name__)

UPDATED = "notifications/resources/updated"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
AWAY_SECONDS = (0.2, 1.0, 5.0, 15.0)  # between two tries
ACKNOWLEDGE_SECONDS_MAX = 5.0  # for the next stream to be there before the one before it is closed
LISTEN_SECONDS_MAX = 3600.0
END_SECONDS_MAX = 2.0

Heard = Callable[[str], None]


class Watch:
    """Of one backend. It works as long as anybody wants anything."""

    def __init__(self, backend: backends.Backend, *, start_task: Callable[..., asyncio.Task[Any]]) -> None:
        self.backend = backend
        self._start_task = start_task
        self._wanted: dict[str, list[Heard]] = {}
        self._changed = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._wanted)

    def add(self, uri: str, heard: Heard) -> None:
        """Call `heard(uri)` at each update of a resource, from about now on."""
        self._wanted.setdefault(uri, []).append(heard)
        self._changed.set()
        if self._working is None:
            self._working = self._start_task(self._work(), name=f"watch {self.backend.id}")

    def remove(self, uri: str, heard: Heard) -> None:
        """No more, for this one."""
        hearers = self._wanted.get(uri, [])
        if heard in hearers:
            hearers.remove(heard)
        if not hearers:
            self._wanted.pop(uri, None)
        self._changed.set()

    async def _work(self) -> None:
        tries = 0
        try:
            while self._wanted:
                try:
                    if tries:
                        self._tell_all()
                    await (self._stay_modern() if not self.backend.speaks_legacy else self._stay_in_session())
                    return
                except peer.BackendError as error:
                    logger.debug("a watch is broken: backend=%s reason=%s", self.backend.id, error)
                await asyncio.sleep(AWAY_SECONDS[min(tries, len(AWAY_SECONDS) - 1)])
                tries += 1
        finally:
            self._working = None
            if self._wanted and not self._cancelled():  # somebody came while it ended
                self._working = self._start_task(self._work(), name=f"watch {self.backend.id}")

    @staticmethod
    def _cancelled() -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    # ---- a backend with sessions

    async def _stay_in_session(self) -> None:
        asked, seconds_max = self.backend.peer, self.backend.timeout_seconds
        opened = await asked.open(era.initialize_params(), headers=[], on_message=self._hear, seconds_max=seconds_max)
        listening = self._start_task(
            asked.listen(
                leg_session_id=opened.session_id,
                protocol_version=opened.protocol_version,
                headers=[],
                on_message=lambda data: self._hear(data, opened),
            ),
            name=f"hear {self.backend.id}",
        )
        subscribed: set[str] = set()
        try:
            while self._wanted:
                self._changed.clear()
                wanted = set(self._wanted)
                for uri in sorted(wanted - subscribed):
                    await self._ask(opened, "resources/subscribe", uri)
                for uri in sorted(subscribed - wanted):
                    await self._ask(opened, "resources/unsubscribe", uri)
                subscribed = wanted
                await self._until_changed(listening)
        finally:
            listening.cancel()
            if opened.session_id is not None and not self._cancelled():
                self._start_task(self._end(opened), name="end a watch")

    async def _ask(self, opened: peer.Opened, method: str, uri: str) -> None:
        try:
            await self.backend.peer.request(
                method,
                msgspec.json.encode({"uri": uri}),
                leg_session_id=opened.session_id,
                protocol_version=opened.protocol_version,
                headers=[],
                on_message=self._hear,
                seconds_max=self.backend.timeout_seconds,
            )
        except peer.Refused as error:
            logger.info("a resource can't be watched: backend=%s reason=%s", self.backend.id, error)

    async def _end(self, opened: peer.Opened) -> None:
        try:
            await self.backend.peer.end(
                str(opened.session_id),
                protocol_version=opened.protocol_version,
                headers=[],
                seconds_max=END_SECONDS_MAX,
            )
        except peer.BackendError as error:
            logger.debug("a watch's session was not ended: backend=%s reason=%s", self.backend.id, error)

    # ---- a backend without

    async def _stay_modern(self) -> None:
        listening: asyncio.Task[bytes] | None = None
        try:
            while self._wanted:
                self._changed.clear()
                acknowledged = asyncio.Event()
                following = self._start_task(self._listen(acknowledged), name=f"hear {self.backend.id}")
                waiting = asyncio.ensure_future(acknowledged.wait())
                await asyncio.wait(
                    {following, waiting}, timeout=ACKNOWLEDGE_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED
                )
                waiting.cancel()
                if listening is not None:
                    listening.cancel()
                listening = following
                await self._until_changed(listening)
        finally:
            if listening is not None:
                listening.cancel()

    async def _listen(self, acknowledged: asyncio.Event) -> bytes:
        def hear(data: bytes) -> None:
            acknowledged.set()
            self._hear(data)

        return await self.backend.peer.request(
            "subscriptions/listen",
            era.with_meta({"notifications": {"resourceSubscriptions": sorted(self._wanted)}}),
            leg_session_id=None,
            protocol_version=peer.MODERN_VERSION,
            headers=[],
            on_message=hear,
            seconds_max=LISTEN_SECONDS_MAX,
        )

    # ---- both

    async def _until_changed(self, listening: "asyncio.Task[Any]") -> None:
        """Until something else is wanted. BackendError: the stream is lost."""
        waiting = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({listening, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if listening.done() and not self._changed.is_set():
                listening.result()
                raise peer.BackendError(self.backend.id, "its stream has ended", reason="backend_lost")
        finally:
            waiting.cancel()

    def _hear(self, data: bytes, opened: peer.Opened | None = None) -> None:
        message = peer.read_message(data)
        if message is None:
            return
        if message.method_name != UPDATED:
            answer = peer.answer_for_nobody(message)
            if answer is not None and opened is not None:
                self._start_task(self._reply(answer, opened), name=f"answer {self.backend.id}")
            return
        updated = bridge.read_text(bridge.read_members(message.params).get("uri", b"")) or ""
        for uri, hearers in list(self._wanted.items()):
            if updated == uri or updated.startswith(uri.rstrip("/") + "/"):
                for heard in list(hearers):
                    heard(updated)

    async def _reply(self, answer: bytes, opened: peer.Opened) -> None:
        await self.backend.peer.send(
            answer,
            leg_session_id=opened.session_id,
            protocol_version=opened.protocol_version,
            headers=[],
            seconds_max=self.backend.timeout_seconds,
        )

    def _tell_all(self) -> None:
        for uri, hearers in list(self._wanted.items()):
            for heard in list(hearers):
                heard(uri)


class Watches:
    """Of all backends."""

    def __init__(self, group: backends.Backends, *, start_task: Callable[..., asyncio.Task[Any]]) -> None:
        self._group = group
        self._start_task = start_task
        self._by_backend: dict[str, Watch] = {}

    def of(self, backend_id: str) -> Watch | None:
        """The watch of a backend; None: there is no such backend."""
        backend = self._group.get(backend_id)
        if backend is None:
            return None
        if backend_id not in self._by_backend:
            self._by_backend[backend_id] = Watch(backend, start_task=self._start_task)
        return self._by_backend[backend_id]
