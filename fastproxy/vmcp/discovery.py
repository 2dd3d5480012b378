"""What one backend offers, kept up to date: one session per backend and process, never used for a client's call.

    away --introduce--> met --lists--> on_found
      ^                  | it says list_changed, or time has passed: the lists again
      '- back-off - lost-' every interval a probe: a ping on this session, or server/discover

A backend that is slow, dead or lying costs this task and nobody else. While it is away its last offers stay known;
whether they are shown is health.py's to say. What is asked, and how much is believed, stands in survey.py.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy.vmcp import health, offers, peer, survey

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 300.0  # between two readings of lists that change with a word that we hear, or never
POLL_SECONDS = 30.0  # of lists that may change without one
COALESCE_SECONDS = 0.05  # after a word of change: servers that start add their tools one by one
READING_SHARE = 4.0  # times as long as the last reading took is waited before the next: a flood of changes costs little
AWAY_SECONDS_MIN = 0.1
AWAY_SECONDS_MAX = 5.0  # a backend that is back is noticed within that
LEAVE_SECONDS_MAX = 5.0
DOUBT_SECONDS_MIN = 0.5  # between two looks because of calls that failed
STREAM_PAUSE_SECONDS = 1.0  # between two streams, growing while they end early
STREAM_PAUSE_SECONDS_MAX = 30.0
LISTEN_SECONDS_MAX = 3600.0  # a modern stream is opened anew after that
_LIST_CHANGED = {f"notifications/{kind}/list_changed": kind for kind in ("tools", "resources", "prompts")}


class Told(msgspec.Struct, frozen=True):
    """Who hears of it; each is quick. `contact` hears None when the backend is lost; `found` also of which lists the
    backend has said that they have changed ("tools", "resources", "prompts")."""

    contact: Callable[[survey.Contact | None], None]
    found: Callable[[offers.Offers, frozenset[str]], None]
    health: Callable[[health.Health], None]


class Discovery:
    """One backend's."""

    def __init__(
        self,
        backend_id: str,
        asked: peer.Peer,
        *,
        rules: health.Rules,
        call_seconds_max: float,
        may_be_modern: bool,
        told: Told,
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        self.backend_id = backend_id
        self.health = health.Health()
        self.last_error: str | None = None
        self._peer = asked
        self._rules = rules
        self._call_seconds_max = call_seconds_max
        self._told = told
        self._start_task = start_task
        self._surveyor = survey.Surveyor(
            backend_id, asked, may_be_modern=may_be_modern, seconds_max=call_seconds_max, on_message=self._hear
        )
        self._contact: survey.Contact | None = None
        self._introduction_seconds = 0.0
        self._pause = AWAY_SECONDS_MIN
        self._offers: offers.Offers | None = None
        self._woken = asyncio.Event()
        self._lists_changed = False
        self._said: set[str] = set()  # of which lists the backend has said so itself
        self._doubted = False
        self._hears: set[str] = set()  # eras in which a stream of its is open

    # ---- what others may say

    def refresh(self, said: str = "") -> None:
        """The lists may have changed. `said`: the notification in which the backend has said so."""
        if said in _LIST_CHANGED:
            self._said.add(_LIST_CHANGED[said])
        self._lists_changed = True
        self._woken.set()

    def doubt(self) -> None:
        """A call has failed: see now whether the backend is there."""
        self._doubted = True
        self._woken.set()

    # ---- its life

    async def run(self) -> None:
        """For ever."""
        while True:
            lost = False
            try:
                await self._meet()
                await self._stay()
            except peer.SessionLost as error:
                lost = True
                logger.info("backend has begun anew: backend=%s reason=%s", self.backend_id, error)
            except peer.BackendError as error:
                self._failed(error)
            except Exception:
                logger.exception("fault in the discovery of a backend: backend=%s", self.backend_id)
            contact, self._contact = self._contact, None
            self._told.contact(None)
            if contact is not None and not lost:  # the next session must not be one more
                self._start_task(self._end(contact, LEAVE_SECONDS_MAX), name=f"leave {self.backend_id}")
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(2 * self._pause, AWAY_SECONDS_MAX)

    async def leave(self, *, seconds_max: float) -> None:
        """End our session at the backend, best effort."""
        contact, self._contact = self._contact, None
        if contact is not None:
            await self._end(contact, seconds_max)

    async def _end(self, contact: survey.Contact, seconds_max: float) -> None:
        if contact.session_id is None:
            return
        try:
            await self._peer.end(
                contact.session_id, protocol_version=contact.protocol_version, headers=[], seconds_max=seconds_max
            )
        except peer.BackendError as error:
            logger.debug("discovery session not ended: backend=%s reason=%s", self.backend_id, error)

    async def _meet(self) -> None:
        started = time.monotonic()
        contact = await self._surveyor.introduce()
        self._introduction_seconds = time.monotonic() - started
        self._set_contact(contact)

    async def _read_lists(self, contact: survey.Contact) -> None:
        self._lists_changed = False
        said, self._said = frozenset(self._said), set()
        found = await self._surveyor.read_offers(contact, self._offers)
        if self._offers is None or found.rejected != self._offers.rejected:
            for line in found.rejected:
                logger.warning("left out: backend=%s %s", self.backend_id, line)
        self._offers = found
        self._told.found(found, said)

    async def _stay(self) -> None:
        """Until it is lost."""
        assert self._contact is not None
        listening = [
            self._start_task(self._listen(contact), name=f"listen to {self.backend_id}")
            for contact in (self._contact, *self._contact.beside)
        ]
        now = time.monotonic
        pause = COALESCE_SECONDS
        try:
            await asyncio.sleep(0)  # its streams first: no change shall fall between them and the lists
            await self._read_lists(self._contact)
            self._answered(self._introduction_seconds)
            self._pause = AWAY_SECONDS_MIN
            probed_at = read_at = now()
            while True:
                probe_at = probed_at + (DOUBT_SECONDS_MIN if self._doubted else self._rules.interval_seconds)
                read_at_latest = read_at + self._refresh_seconds()
                await self._wait(min(probe_at, read_at_latest) - now())
                if now() >= probe_at:
                    self._doubted = False
                    await self._probe()
                    probed_at = now()
                if self._lists_changed or now() >= read_at_latest:
                    await asyncio.sleep(pause)
                    started = now()
                    await self._read_again()
                    read_at = now()
                    pause = min(max(COALESCE_SECONDS, READING_SHARE * (read_at - started)), POLL_SECONDS)
        finally:
            for each in listening:
                each.cancel()
            self._hears = set()

    async def _wait(self, seconds: float) -> None:
        self._woken.clear()
        if self._lists_changed:
            return
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._woken.wait()
        except TimeoutError:
            pass

    def _refresh_seconds(self) -> float:
        assert self._contact is not None
        return POLL_SECONDS if self._contact.tells_changes and not self._hears else REFRESH_SECONDS

    async def _read_again(self) -> None:
        """Without a session of ours nobody would tell that another program has taken the backend's place."""
        assert self._contact is not None
        if self._contact.session_id is None:
            self._set_contact(await self._surveyor.introduce())
        await self._read_lists(self._contact)

    async def _probe(self) -> None:
        """Is it there, and does it know us? A hung one keeps its session: it may come to itself."""
        contact = self._contact
        assert contact is not None
        started = time.monotonic()
        seconds_max = self._rules.timeout_seconds or self._call_seconds_max
        try:
            await self._surveyor.ask(
                contact, "server/discover" if contact.is_modern else "ping", {}, seconds_max=seconds_max
            )
        except peer.Refused:
            pass  # whoever can say no is well
        except peer.BackendError as error:
            if error.reason != "backend_timeout":
                raise
            self._failed(error)
            return
        self._answered(time.monotonic() - started)
        if contact.era_in_doubt:
            self._set_contact(await self._surveyor.clear_doubt(contact))

    # ---- what it says unasked

    async def _listen(self, contact: survey.Contact) -> None:
        """For as long as it has a stream for that. Its end is also the first that is heard of a backend's."""
        pause, hears = STREAM_PAUSE_SECONDS, self._hears
        while contact.session_id is not None or (contact.is_modern and contact.tells_changes):
            started = time.monotonic()
            hears.add(contact.era)
            try:
                await self._hear_stream(contact)
            except (peer.NoStream, peer.Refused) as error:
                logger.debug("no stream of changes: backend=%s reason=%s", self.backend_id, error)
                return
            except peer.BackendError as error:
                logger.debug("stream of changes lost: backend=%s reason=%s", self.backend_id, error)
                self.doubt()
            finally:
                hears.discard(contact.era)
            pause = STREAM_PAUSE_SECONDS if time.monotonic() - started > pause else pause * 2
            await asyncio.sleep(min(pause, STREAM_PAUSE_SECONDS_MAX))
            self.refresh()  # nobody has listened for a while

    async def _hear_stream(self, contact: survey.Contact) -> None:
        if not contact.is_modern:
            await self._peer.listen(
                leg_session_id=contact.session_id,
                protocol_version=contact.protocol_version,
                headers=[],
                on_message=self._hear,
            )
            return
        lists = ("tools", "resources", "prompts")
        wanted: dict[str, object] = {f"{name}ListChanged": True for name in lists if name in contact.capabilities}
        try:
            await self._surveyor.ask(
                contact, "subscriptions/listen", {"notifications": wanted}, seconds_max=LISTEN_SECONDS_MAX
            )
        except peer.BackendError as error:
            if error.reason != "backend_timeout":
                raise

    def _hear(self, data: bytes) -> None:
        message = peer.read_message(data)
        if message is None:
            return
        if message.method_name in _LIST_CHANGED:
            self.refresh(message.method_name)
            return
        answer = peer.answer_for_nobody(message)
        if answer is not None and self._contact is not None:
            self._start_task(self._reply(answer, self._contact), name=f"answer {self.backend_id}")

    async def _reply(self, answer: bytes, contact: survey.Contact) -> None:
        await self._peer.send(
            answer,
            leg_session_id=contact.session_id,
            protocol_version=contact.protocol_version,
            headers=[],
            seconds_max=self._call_seconds_max,
        )

    # ---- how it is

    def _set_contact(self, contact: survey.Contact | None) -> None:
        self._contact = contact
        self._told.contact(contact)

    def _answered(self, seconds: float) -> None:
        self.last_error = None
        self._set_health(health.answered(self.health, time.time(), seconds=seconds))

    def _failed(self, error: peer.BackendError) -> None:
        if self.last_error is None:
            logger.warning("backend failed: backend=%s reason=%s error=%s", self.backend_id, error.reason, error)
        self.last_error = str(error)
        now = time.time()
        if health.counts(self.health, now, self._rules):
            self._set_health(health.failed(self.health, now, error.reason, self._rules))

    def _set_health(self, found: health.Health) -> None:
        before, self.health = self.health, found
        if before.status != found.status:
            logger.info("backend health: backend=%s status=%s before=%s", self.backend_id, found.status, before.status)
        self._told.health(found)
