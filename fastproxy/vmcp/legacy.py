"""What a client of the era of sessions can ask, method by method. A row of the table each; story.py finds the row.

    answered here      initialize (story.py), ping, the four lists out of the catalog, logging/setLevel
    asked of a backend tools/call, prompts/get, resources/read, completion/complete, resources/(un)subscribe

A handler answers with the bytes of a result, or raises: Fault, BackendError, Refusal. Only a name that is told under
another one is changed on its way; every other member of params passes as it was written.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from fastproxy.vmcp import (
    backends,
    calls,
    catalog,
    connections,
    faults,
    legs,
    messages,
    paging,
    peer,
    record,
    sessions,
    voices,
)

logger = logging.getLogger(__name__)

_NO_COMPLETION = b'{"completion":{"values":[]}}'
_LEVELS = frozenset(("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"))
SUBSCRIPTIONS_MAX = 1000  # of one session; the record is read and written whole

RunComposite = Callable[[sessions.Session, catalog.Composite, bytes, voices.Call, connections.Fields], Awaitable[bytes]]


class Asked(msgspec.Struct):
    """One request of a client. `fields`: those of its head that go to a backend."""

    session: sessions.Session
    method: str
    params: bytes
    call: voices.Call
    fields: connections.Fields


class Legacy:
    """`catalog_of()`: the present one. `run_composite` runs a tool of our own; `tend` has a session's stream follow
    its record."""

    def __init__(
        self,
        known: sessions.Sessions,
        group: backends.Backends,
        caller: calls.Calls,
        *,
        catalog_of: Callable[[], catalog.Catalog],
        run_composite: RunComposite,
        tend: Callable[[sessions.Session], None],
    ) -> None:
        self._sessions = known
        self._backends = group
        self._calls = caller
        self._catalog = catalog_of
        self._run_composite = run_composite
        self._tend = tend
        self.methods: Mapping[str, Callable[[Asked], Awaitable[bytes]]] = {
            "ping": self._ping,
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
            "prompts/list": self._list_prompts,
            "prompts/get": self._get_prompt,
            "resources/list": self._list_resources,
            "resources/templates/list": self._list_templates,
            "resources/read": self._read_resource,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
            "completion/complete": self._complete,
            "logging/setLevel": self._set_level,
        }

    # ---- answered here

    async def _ping(self, _asked: Asked) -> bytes:
        return b"{}"

    async def _list_tools(self, asked: Asked) -> bytes:
        return _page(self._catalog().tools_page, asked)

    async def _list_prompts(self, asked: Asked) -> bytes:
        return _page(self._catalog().prompts_page, asked)

    async def _list_resources(self, asked: Asked) -> bytes:
        return _page(self._catalog().resources_page, asked)

    async def _list_templates(self, asked: Asked) -> bytes:
        return _page(self._catalog().templates_page, asked)

    async def _set_level(self, asked: Asked) -> bytes:
        """For every backend of the session, those that are called later included."""
        level = messages.text_of(messages.members(asked.params).get("level", msgspec.Raw(b"")))
        if level not in _LEVELS:
            raise faults.Fault(faults.INVALID_PARAMS, "expected level to be one of " + ", ".join(sorted(_LEVELS)))

        def change(kept: record.VmcpRecord) -> record.VmcpRecord:
            return kept if kept.log_level == level else msgspec.structs.replace(kept, log_level=level)

        await self._sessions.amend(asked.session, change)
        there = [self._backends.get(leg.backend_id) for leg in asked.session.record.backends]
        told = [backend for backend in there if backend is not None and legs.has_logging(backend.offers)]
        params = msgspec.json.encode({"level": level})
        outcomes = await asyncio.gather(
            *(self._ask(asked, backend, params=params) for backend in told), return_exceptions=True
        )
        for backend, outcome in zip(told, outcomes, strict=True):
            if isinstance(outcome, peer.BackendError):
                logger.warning("a backend was not told the level of logging: backend=%s reason=%s", backend.id, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
        return b"{}"

    # ---- asked of a backend

    async def _call_tool(self, asked: Asked) -> bytes:
        params, name = _named(asked, "name")
        target = self._catalog().tool(name)
        if target is None:
            raise faults.unknown_tool(name)
        if isinstance(target, catalog.Composite):
            arguments = bytes(params.get("arguments", b"{}"))
            return await self._run_composite(asked.session, target, arguments, asked.call, asked.fields)
        return await self._ask_named(asked, target, params, "name")

    async def _get_prompt(self, asked: Asked) -> bytes:
        params, name = _named(asked, "name")
        target = self._catalog().prompt(name)
        if target is None:
            raise faults.unknown_prompt(name)
        return await self._ask_named(asked, target, params, "name")

    async def _read_resource(self, asked: Asked) -> bytes:
        return await self._ask(asked, self._holder_of(asked))

    async def _subscribe(self, asked: Asked) -> bytes:
        _, uri = _named(asked, "uri")
        backend = self._holder_of(asked)

        def change(kept: record.VmcpRecord) -> record.VmcpRecord:
            if uri in kept.subscriptions:
                return kept
            if len(kept.subscriptions) >= SUBSCRIPTIONS_MAX:
                raise faults.Fault(faults.INVALID_PARAMS, f"a session has at most {SUBSCRIPTIONS_MAX} subscriptions")
            return msgspec.structs.replace(kept, subscriptions=(*kept.subscriptions, uri))

        result = await self._ask(asked, backend) if backend.speaks_legacy else b"{}"
        await self._sessions.amend(asked.session, change)
        self._tend(asked.session)
        return result

    async def _unsubscribe(self, asked: Asked) -> bytes:
        _, uri = _named(asked, "uri")
        backend = self._holder_of(asked)

        def change(kept: record.VmcpRecord) -> record.VmcpRecord:
            left = tuple(known for known in kept.subscriptions if known != uri)
            return kept if left == kept.subscriptions else msgspec.structs.replace(kept, subscriptions=left)

        await self._sessions.amend(asked.session, change)
        self._tend(asked.session)
        return await self._ask(asked, backend) if backend.speaks_legacy else b"{}"

    async def _complete(self, asked: Asked) -> bytes:
        """What nobody can complete has no completions, which is no error."""
        params = messages.members(asked.params)
        try:
            ref = msgspec.json.decode(params.get("ref", msgspec.Raw(b"{}")), type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise faults.Fault(faults.INVALID_PARAMS, "expected ref to be an object") from error
        target = self._catalog().completion(ref)
        backend = self._backends.get(target.backend) if target is not None else None
        if target is None or backend is None:
            return _NO_COMPLETION
        if ref.get("type") == "ref/prompt" and ref.get("name") != target.name:
            own = messages.with_member(bytes(params["ref"]), "name", msgspec.json.encode(target.name))
            asked.params = messages.write(params | {"ref": msgspec.Raw(own)})
        try:
            return await self._ask(asked, backend)
        except peer.Refused as refused:
            if refused.code == faults.METHOD_NOT_FOUND:
                return _NO_COMPLETION
            raise

    # ---- how it is asked

    def _holder_of(self, asked: Asked) -> backends.Backend:
        """Who has a resource. With a single backend nobody else can have it."""
        _, uri = _named(asked, "uri")
        target = self._catalog().resource(uri)
        backend = self._backends.get(target.backend) if target is not None else None
        if backend is None and target is None and len(self._backends) == 1:
            (backend,) = self._backends
        if backend is None:
            raise faults.unknown_resource(uri)
        return backend

    async def _ask_named(self, asked: Asked, target: catalog.Target, params: messages.Members, member: str) -> bytes:
        backend = self._backends.get(target.backend)
        if backend is None:
            raise faults.unknown_tool(target.name)
        params[member] = msgspec.Raw(msgspec.json.encode(target.name))
        return await self._ask(asked, backend, params=messages.write(params))

    async def _ask(self, asked: Asked, backend: backends.Backend, *, params: bytes | None = None) -> bytes:
        asked.call.goes_to(backend.id, backend.endpoint)
        return await self._calls.ask(
            asked.session,
            backend,
            asked.method,
            asked.params if params is None else params,
            fields=asked.fields,
            call=asked.call,
        )


def _page(page: Callable[[str | None], bytes], asked: Asked) -> bytes:
    cursor = messages.members(asked.params).get("cursor")
    text = None if cursor is None or bytes(cursor) == b"null" else messages.text_of(cursor)
    if cursor is not None and text is None and bytes(cursor) != b"null":
        raise faults.missing_param("cursor")
    try:
        return b"{" + page(text) + b"}"
    except paging.WrongCursor as error:
        raise faults.Fault(faults.INVALID_PARAMS, str(error)) from error


def _named(asked: Asked, member: str) -> tuple[messages.Members, str]:
    params = messages.members(asked.params)
    name = messages.text_of(params.get(member, msgspec.Raw(b"")))
    if name is None:
        raise faults.missing_param(member)
    return params, name
