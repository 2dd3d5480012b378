"""One look at a backend: which era it speaks, and all that it offers. When to look is for discovery.py to say.

    introduce --server/discover, initialize--> Contact --every page of every list--> Offers

Every question has a deadline and every list an end, whatever the backend says; the bounds are offers.py's. A list that
is refused or malformed costs itself: what was known of it before stays, and a line says why. BackendError means that
the backend was not to be spoken to.
"""

import asyncio
from collections.abc import Callable

import msgspec

from fastproxy.vmcp import era, offers, peer

ROUND_SECONDS_MAX = 120.0  # for all lists of a backend
PAGES_MAX = 1000
AT_ONCE_MAX = 200  # items, some 20 µs each
METHOD_NOT_FOUND = -32601
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NEEDED = {"tools": "tools", "resources": "resources", "templates": "resources", "prompts": "prompts"}


class _Initialized(msgspec.Struct):
    capabilities: dict[str, msgspec.Raw] = {}
    instructions: str | None = None
    serverInfo: msgspec.Raw = msgspec.Raw(b"{}")


class _ListChanged(msgspec.Struct):
    listChanged: bool = False


class Contact(msgspec.Struct, frozen=True):
    """A backend that has answered: what it speaks, and the session of ours there, if it has sessions.

    `era_in_doubt`: whether it is modern could not be told, and is to be asked again. `beside`: how else a backend of
    both eras is spoken to; what it says unasked it may say in one of them only."""

    era: str
    protocol_version: str
    session_id: str | None
    capabilities: dict[str, msgspec.Raw]
    instructions: str | None
    server_info: msgspec.Raw
    era_in_doubt: bool = False
    beside: tuple["Contact", ...] = ()

    @property
    def is_modern(self) -> bool:
        """Is it asked without a session?"""
        return self.era == era.MODERN

    @property
    def tells_changes(self) -> bool:
        """Has it promised to say when a list changes?"""
        return any(_list_changed(raw) for raw in self.capabilities.values())


class Surveyor:
    """Asks one backend. `on_message` hears what comes beside the answers; `seconds_max` is for each question."""

    def __init__(
        self,
        backend_id: str,
        asked: peer.Peer,
        *,
        may_be_modern: bool,
        seconds_max: float,
        on_message: Callable[[bytes], None],
    ) -> None:
        self._backend_id = backend_id
        self._peer = asked
        self._may_be_modern = may_be_modern
        self._seconds_max = seconds_max
        self._on_message = on_message

    async def introduce(self) -> Contact:
        """Open a session of ours, unless the backend has none."""
        found, doubt = None, False
        if self._may_be_modern:
            try:
                found = await era.ask_modern(self._peer, seconds_max=self._seconds_max)
            except peer.BackendError as error:
                if error.reason in ("backend_unreachable", "backend_unauthorized"):
                    raise
                doubt = True  # it may answer the other question all the same
        try:
            opened = await self._peer.open(
                era.initialize_params(), headers=[], on_message=self._on_message, seconds_max=self._seconds_max
            )
        except peer.BackendError as error:
            if found is None or not era.denies_legacy(error):
                raise
            return _modern(found)
        try:
            initialized = msgspec.json.decode(opened.result, type=_Initialized)
        except _FAULTS as error:
            raise self._wrong(f"its initialize result is malformed: {error}") from error
        return Contact(
            era.combined(legacy=True, modern=found is not None),
            opened.protocol_version,
            opened.session_id,
            initialized.capabilities,
            initialized.instructions,
            initialized.serverInfo,
            doubt,
            () if found is None else (_modern(found),),
        )

    async def clear_doubt(self, contact: Contact) -> Contact:
        """The same contact, with its era as far as it can be told now."""
        try:
            found = await era.ask_modern(self._peer, seconds_max=self._seconds_max)
        except peer.BackendError:
            return contact
        name = era.combined(legacy=True, modern=found is not None)
        beside = () if found is None else (_modern(found),)
        return msgspec.structs.replace(contact, era=name, era_in_doubt=False, beside=beside)

    async def read_offers(self, contact: Contact, known: offers.Offers | None) -> offers.Offers:
        """All lists. `known`: what they were, for a list that can't be read now."""
        try:
            async with asyncio.timeout(ROUND_SECONDS_MAX):
                listings = {kind.field: await self._read_list(contact, kind, known) for kind in offers.KINDS}
        except TimeoutError as error:
            detail = f"its lists were not read within {ROUND_SECONDS_MAX:g} s"
            raise peer.BackendError(self._backend_id, detail, reason="backend_timeout") from error
        return offers.Offers(
            backend=self._backend_id,
            protocol_version=contact.protocol_version,
            server_info=contact.server_info,
            capabilities=contact.capabilities,
            instructions=contact.instructions,
            tools=listings["tools"].offers,
            resources=listings["resources"].offers,
            templates=listings["templates"].offers,
            prompts=listings["prompts"].offers,
            rejected=tuple(line for listing in listings.values() for line in listing.rejected),
        )

    async def ask(self, contact: Contact, method: str, params: dict[str, object], *, seconds_max: float) -> bytes:
        """A question of ours, in the backend's era."""
        whole = era.with_meta(params) if contact.is_modern else msgspec.json.encode(params) if params else b""
        return await self._peer.request(
            method,
            whole,
            leg_session_id=contact.session_id,
            protocol_version=contact.protocol_version,
            headers=[],
            on_message=self._on_message,
            seconds_max=seconds_max,
        )

    async def _read_list(self, contact: Contact, kind: offers.Kind, known: offers.Offers | None) -> offers.Listing:
        if _NEEDED[kind.field] not in contact.capabilities:
            return offers.Listing()
        try:
            return await self._read_pages(contact, kind)
        except (peer.Refused, offers.WrongPage) as error:
            if isinstance(error, peer.Refused) and error.code == METHOD_NOT_FOUND:
                return offers.Listing()
            before = () if known is None else getattr(known, kind.field)
            return offers.Listing(before, (f"{kind.member}: the list can't be read: {str(error)[:200]}",))

    async def _read_pages(self, contact: Contact, kind: offers.Kind) -> offers.Listing:
        items: list[msgspec.Raw] = []
        size = 0
        cursors: set[str] = set()
        cursor: str | None = None
        while True:
            params: dict[str, object] = {} if cursor is None else {"cursor": cursor}
            result = await self.ask(contact, kind.method, params, seconds_max=self._seconds_max)
            page = offers.read_page(kind, result)
            items += page.items
            size += sum(len(bytes(item)) for item in page.items)
            cursor = page.next_cursor
            if cursor is None or len(items) > offers.COUNT_MAX[kind.field] or size > offers.LIST_BYTES_MAX:
                return await _judge(kind, items)
            if cursor in cursors or len(cursors) + 1 >= PAGES_MAX:
                listing = await _judge(kind, items)
                line = f"{kind.member}: the list has no end ({len(cursors) + 1} pages were read)"
                return offers.Listing(listing.offers, (line, *listing.rejected))
            cursors.add(cursor)

    def _wrong(self, detail: str) -> peer.BackendError:
        return peer.BackendError(self._backend_id, detail, reason="backend_protocol_error")


def _modern(found: era.Discovered) -> Contact:
    return Contact(era.MODERN, peer.MODERN_VERSION, None, found.capabilities, found.instructions, found.name)


async def _judge(kind: offers.Kind, items: list[msgspec.Raw]) -> offers.Listing:
    """A long list takes a fraction of a second to look through, for which nobody else's call should wait."""
    if len(items) <= AT_ONCE_MAX:
        return offers.read(kind, items)
    return await asyncio.to_thread(offers.read, kind, items)


def _list_changed(raw: msgspec.Raw) -> bool:
    try:
        return msgspec.json.decode(raw, type=_ListChanged).listChanged
    except _FAULTS:
        return False
