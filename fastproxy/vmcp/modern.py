"""The era without sessions (2026-07-28) at the front of vMCP: each request for itself, on any replica.

    entrance.py: is it what it says? -> a row of the table
        discover, lists     out of the catalog
        calls               a modern backend: as they are, but for the name; a legacy one: in a session of ours, parked
                            while the client is asked something (parking.py, errands.py)
        subscriptions/listen  subscriptions.py

A client that goes ends its call, at the backend too. Results are for nobody else and not to be kept, whatever a backend
says of its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from fastproxy._ext import core
from fastproxy.vmcp import (
    backends,
    berths,
    bridge,
    calls,
    catalog,
    connections,
    entrance,
    errands,
    faults,
    messages,
    paging,
    parking,
    peer,
    subscriptions,
    voices,
)
from fastproxy.wire import request as requests

logger = logging.getLogger(__name__)

ANONYMOUS = ""
_NO_COMPLETION = b'{"completion":{"values":[]}}'
_PASSED_STATUSES = (400, 404)

CallComposite = Callable[[catalog.Composite, parking.Visit, connections.Fields, peer.OnMessage], Awaitable[bytes]]


class _Asked(msgspec.Struct):
    """One request. `fields`: those of its head that go to a backend."""

    request: requests.Request
    entry: entrance.Entry
    call: voices.Call
    fields: connections.Fields


class Modern:
    """Serves requests of that era."""

    def __init__(
        self,
        group: backends.Backends,
        *,
        parked: parking.Parking,
        carried: errands.Errands,
        ours: berths.Berths,
        listeners: subscriptions.Subscriptions,
        catalog_of: Callable[[], catalog.Catalog],
        pass_on: Callable[[connections.Fields], connections.Fields],
        call_composite: CallComposite,
        server_info: bytes,
    ) -> None:
        """`pass_on`: of a client's fields those that go to backends."""
        self._backends = group
        self._parking = parked
        self._errands = carried
        self._berths = ours
        self._subscriptions = listeners
        self._catalog = catalog_of
        self._pass_on = pass_on
        self._call_composite = call_composite
        self._server_info = server_info
        self._methods: Mapping[str, Callable[[_Asked], Awaitable[bytes]]] = {
            "server/discover": self._discover,
            "tools/list": self._list_tools,
            "tools/call": self._call_tool,
            "prompts/list": self._list_prompts,
            "prompts/get": self._get_prompt,
            "resources/list": self._list_resources,
            "resources/templates/list": self._list_templates,
            "resources/read": self._read_resource,
            "completion/complete": self._complete,
        }

    async def serve(self, exchange: core.Exchange, request: requests.Request, body: bytes) -> None:
        """One request."""
        message = peer.read_message(body)
        request_id = bytes(message.id) if message is not None and bytes(message.method) else b""
        try:
            entry = entrance.read(request, message, body)
            if not entry.id:
                exchange.answer(202, [], b"")
            elif entry.method == "subscriptions/listen":
                self._subscriptions.listen(exchange, entry.id, entry.params)
            else:
                await self._serve_call(exchange, request, entry)
        except entrance.Turned as error:
            _refuse(exchange, error.status, request_id, faults.encode(error.code, str(error), error.data))
        except subscriptions.WrongFilter as error:
            _refuse(exchange, 400, request_id, faults.encode(faults.INVALID_PARAMS, str(error)))

    async def _serve_call(self, exchange: core.Exchange, request: requests.Request, entry: entrance.Entry) -> None:
        call = voices.Call(exchange, entry.id, [])
        call.token = messages.asked_token(entry.params)
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None
        exchange.on_end = lambda _: None if call.over else task.cancel()
        act = self._methods.get(entry.method)
        try:
            if act is None:
                raise entrance.Turned(404, faults.METHOD_NOT_FOUND, "Method not found")
            result = await act(_Asked(request, entry, call, self._pass_on(request.fields)))
            call.answer(messages.result(entry.id, result))
        except (entrance.Turned, faults.Fault, peer.BackendError, parking.UnknownState, parking.NotDeclared) as error:
            status, text = _explain(error)
            if call.opened:
                call.answer(messages.error(entry.id, text))
            else:
                call.over = True
                _refuse(exchange, status, entry.id, text)
        except asyncio.CancelledError:
            if exchange.over is None:
                raise
            logger.info("a client has left its call: method=%s", entry.method)

    # ---- answered here

    async def _discover(self, _asked: _Asked) -> bytes:
        known = self._catalog()
        result: dict[str, object] = {
            "supportedVersions": [peer.MODERN_VERSION],
            "capabilities": known.capabilities(),
        }
        if known.instructions is not None:
            result["instructions"] = known.instructions
        return bridge.to_modern_result("server/discover", msgspec.json.encode(result), self._server_info)

    async def _list_tools(self, asked: _Asked) -> bytes:
        return self._page(self._catalog().tools_page_unnarrowed, asked)

    async def _list_prompts(self, asked: _Asked) -> bytes:
        return self._page(self._catalog().prompts_page, asked)

    async def _list_resources(self, asked: _Asked) -> bytes:
        return self._page(self._catalog().resources_page, asked)

    async def _list_templates(self, asked: _Asked) -> bytes:
        return self._page(self._catalog().templates_page, asked)

    def _page(self, page: Callable[[str | None], bytes], asked: _Asked) -> bytes:
        cursor = bridge.read_members(asked.entry.params).get("cursor")
        text = None if cursor is None else bridge.read_text(cursor)
        if cursor is not None and text is None:
            raise faults.missing_param("cursor")
        try:
            members = page(text)
        except paging.WrongCursor as error:
            raise faults.Fault(faults.INVALID_PARAMS, str(error)) from error
        meta = b'{"%sserverInfo":%s}' % (bridge.META.encode(), self._server_info)
        return b'{%s,"resultType":"complete","ttlMs":0,"cacheScope":"private","_meta":%s}' % (members, meta)

    # ---- asked of a backend

    async def _call_tool(self, asked: _Asked) -> bytes:
        params, name = _named(asked, "name")
        known = self._catalog()
        target = known.tool(name)
        if target is None:
            raise faults.unknown_tool(name)
        if isinstance(target, catalog.Composite):
            visit = self._visit(asked, asked.entry.params)
            return await self._call_composite(target, visit, asked.fields, asked.call.tell)
        definition = known.definition(target)
        if definition is not None and b"x-mcp-header" in definition:
            schema = bridge.read_members(definition).get("inputSchema", b"{}")
            entrance.check_arguments(asked.request, bytes(schema), asked.entry.params)
        return await self._ask_named(asked, target, params)

    async def _get_prompt(self, asked: _Asked) -> bytes:
        params, name = _named(asked, "name")
        target = self._catalog().prompt(name)
        if target is None:
            raise faults.unknown_prompt(name)
        return await self._ask_named(asked, target, params)

    async def _read_resource(self, asked: _Asked) -> bytes:
        _, uri = _named(asked, "uri")
        target = self._catalog().resource(uri)
        backend = self._backends.get(target.backend) if target is not None else None
        if backend is None and len(self._backends) == 1:
            (backend,) = self._backends
        if backend is None:
            raise faults.Fault(faults.INVALID_PARAMS, "Resource not found", {"uri": uri[:4096]})
        return await self._ask(asked, backend, asked.entry.params)

    async def _complete(self, asked: _Asked) -> bytes:
        params = bridge.read_members(asked.entry.params)
        try:
            ref = msgspec.json.decode(params.get("ref", b""), type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise faults.Fault(faults.INVALID_PARAMS, "expected ref to be an object") from error
        target = self._catalog().completion(ref)
        backend = self._backends.get(target.backend) if target is not None else None
        if target is None or backend is None:
            return bridge.to_modern_result("completion/complete", _NO_COMPLETION, self._server_info)
        if ref.get("type") == "ref/prompt":
            own = messages.with_member(bytes(params["ref"]), "name", msgspec.json.encode(target.name))
            params["ref"] = msgspec.Raw(own)
        try:
            return await self._ask(asked, backend, messages.write(params))
        except peer.Refused as refused:
            if refused.code == faults.METHOD_NOT_FOUND:
                return bridge.to_modern_result("completion/complete", _NO_COMPLETION, self._server_info)
            raise

    async def _ask_named(self, asked: _Asked, target: catalog.Target, params: bridge.Members) -> bytes:
        backend = self._backends.get(target.backend)
        if backend is None:
            raise faults.unknown_tool(target.name)
        params["name"] = msgspec.Raw(msgspec.json.encode(target.name))
        return await self._ask(asked, backend, messages.write(params))

    async def _ask(self, asked: _Asked, backend: backends.Backend, params: bytes) -> bytes:
        asked.call.goes_to(backend.id, backend.endpoint)
        if not backend.admit():
            raise calls.Unavailable(backend.id, "its last calls got no answer; it is left alone for a while")
        try:
            if backend.speaks_modern:
                result = await self._ask_as_it_is(asked, backend, params)
            else:
                result = await self._ask_in_session(asked, backend, params)
        except peer.BackendError as error:
            backend.note_failure(error.reason)
            raise
        backend.note_success()
        return result

    async def _ask_as_it_is(self, asked: _Asked, backend: backends.Backend, params: bytes) -> bytes:
        """The client's own words, said by us."""
        whole = bridge.to_modern_params(params, asked.entry.caller, peer.MODERN_VERSION)
        again = False
        while True:
            mirrored = []
            if asked.entry.method == "tools/call":
                mirrored = bridge.parameter_fields(backend.input_schema(whole), whole)
            try:
                result = await backend.peer.request(
                    asked.entry.method,
                    whole,
                    leg_session_id=None,
                    protocol_version=peer.MODERN_VERSION,
                    headers=[*asked.fields, *mirrored],
                    on_message=lambda message: self._pass_back(asked, message),
                    seconds_max=backend.timeout_seconds,
                )
                return _restamp(asked.entry.method, result, self._server_info)
            except peer.Refused as error:
                if error.code != bridge.HEADER_MISMATCH or again:
                    raise
                again = True
                await backend.reread(seconds_max=10.0)

    def _pass_back(self, asked: _Asked, data: bytes) -> None:
        message = peer.read_message(data)
        if message is not None and not bytes(message.id):
            asked.call.say(bridge.to_other_notification(data))

    async def _ask_in_session(self, asked: _Asked, backend: backends.Backend, params: bytes) -> bytes:
        visit = self._visit(asked, params)
        members = bridge.read_members(params)
        state = bridge.read_text(members.get("requestState", b""))
        if state is not None:
            return await self._errands.resume(visit, state, on_message=asked.call.tell)
        berth = await self._berths.find(backend, visit, asked.fields)
        try:
            return await self._parking.begin(visit, berth, on_message=asked.call.tell)
        except peer.SessionLost:
            self._berths.forget(berth, visit.principal)
            berth = await self._berths.find(backend, visit, asked.fields)
            return await self._parking.begin(visit, berth, on_message=asked.call.tell)

    def _visit(self, asked: _Asked, params: bytes) -> parking.Visit:
        return parking.Visit(asked.entry.method, params, ANONYMOUS, asked.entry.caller)


def _restamp(method: str, result: bytes, server_info: bytes) -> bytes:
    """A modern backend's result, said by us: it is we whom the client has asked."""
    members = bridge.read_members(result)
    meta = bridge.read_members(members.get("_meta", b"{}"))
    meta[bridge.META + "serverInfo"] = msgspec.Raw(server_info)
    members["_meta"] = msgspec.Raw(messages.write(meta))
    members.setdefault("resultType", msgspec.Raw(b'"complete"'))
    if method == "resources/read" and bridge.result_type(result) == bridge.RESULT_COMPLETE:
        members |= {"ttlMs": msgspec.Raw(b"0"), "cacheScope": msgspec.Raw(b'"private"')}
    return messages.write(members)


def _named(asked: _Asked, member: str) -> tuple[bridge.Members, str]:
    params = bridge.read_members(asked.entry.params)
    name = bridge.read_text(params.get(member, b""))
    if name is None:
        raise faults.missing_param(member)
    return params, name


def _explain(error: Exception) -> tuple[int, bytes]:
    """Status and error member."""
    match error:
        case entrance.Turned():
            return error.status, faults.encode(error.code, str(error), error.data)
        case parking.UnknownState():
            return 400, faults.encode(faults.INVALID_PARAMS, "requestState: of no call that waits for you")
        case parking.NotDeclared():
            data: dict[str, object] = {"requiredCapabilities": error.required}
            return 400, faults.encode(bridge.MISSING_CAPABILITY, str(error), data)
        case faults.Fault():
            return 400 if error.code == faults.INVALID_PARAMS else 200, faults.explain(error)
        case peer.Refused():
            if error.code in (bridge.HEADER_MISMATCH, bridge.UNSUPPORTED_VERSION):  # between us and the backend
                return 200, faults.encode(faults.INTERNAL_ERROR, str(error))
            return error.status if error.status in _PASSED_STATUSES else 200, error.error
        case peer.BackendError():
            return 200, faults.explain(error)
    raise AssertionError(error)


def _refuse(exchange: core.Exchange, status: int, request_id: bytes, error: bytes) -> None:
    fields = [voices.JSON]
    if status == 405:
        fields.append((b"Allow", b"POST"))
    member = b'"id":%s,' % request_id if request_id else b""
    exchange.answer(status, fields, b'{"jsonrpc":"2.0",%s"error":%s}' % (member, error))
