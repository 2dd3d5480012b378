"""Composite tools in the catalog and at work: the world that composite/runner.py runs in.

    a session's call    steps are calls of the session's legs, questions go to its client, on any replica
    a 2026-07-28 call   steps are calls for themselves, or in our sessions at legacy backends; nobody can be asked

Steps may call tools that clients do not see. What backends ask in the middle of a step goes to a session's client as
with any call of its own; without a session it is refused at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.vmcp import (
    backends,
    berths,
    bridge,
    calls,
    catalog,
    connections,
    faults,
    hub,
    inquiries,
    messages,
    parking,
    peer,
    rounds,
    sessions,
    voices,
)
from fastproxy.vmcp.composite import advertising, definition, runner, validation

logger = logging.getLogger(__name__)

OWNER = "composite tools"  # whose they are, where others have a backend
_NO_QUESTIONS = faults.encode(faults.INTERNAL_ERROR, "a step of a composite tool has nobody to ask")

Ask = Callable[[backends.Backend, bytes], Awaitable[bytes]]


class Composites:
    """Those of one group. `raw`: as the file has them, and checked."""

    def __init__(
        self,
        raw: Iterable[Mapping[str, object]],
        group: backends.Backends,
        *,
        caller: calls.Calls,
        hub_of: hub.Hub,
        ours: berths.Berths,
        catalog_of: Callable[[], catalog.Catalog],
        server_info: bytes,
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        self._definitions = validation.check(list(raw)).definitions
        self._backends = group
        self._calls = caller
        self._hub = hub_of
        self._berths = ours
        self._catalog = catalog_of
        self._server_info = server_info
        self._start_task = start_task

    def add_to(self, known: catalog.Catalog) -> catalog.Catalog:
        """The catalog with the tools that can run now."""
        if not self._definitions:
            return known

        def look_up(name: str) -> Mapping[str, Any] | None:
            target = known.step_tool(name)
            told = None if target is None else known.definition(target)
            return None if told is None else msgspec.json.decode(told, type=dict[str, Any])

        shown, hidden = advertising.show(self._definitions, look_up)
        return known.with_composites(
            (catalog.Composite(one.definition.name, one.raw, one.definition) for one in shown),
            (catalog.LeftOut(OWNER, f"tool {name}", why) for name, why in hidden),
        )

    async def run_in_session(
        self,
        session: sessions.Session,
        tool: catalog.Composite,
        arguments: bytes,
        call: voices.Call,
        fields: connections.Fields,
    ) -> bytes:
        """The result of tools/call."""

        async def ask_backend(backend: backends.Backend, params: bytes) -> bytes:
            return await self._calls.ask(session, backend, "tools/call", params, fields=fields, call=call)

        async def ask_user(question: inquiries.Inquiry) -> bytes:
            missing = inquiries.missing_capability(session.record.client_capabilities, question)
            if missing is not None:
                raise runner.CannotAsk("the client has declared no elicitation")
            return await self._hub.ask(session, question, call)

        world = _World(self._catalog(), self._backends, ask_backend, ask_user, call.token, call.tell)
        return await _run(tool, arguments, world)

    async def run_for_visit(
        self, tool: catalog.Composite, visit: parking.Visit, fields: connections.Fields, on_message: peer.OnMessage
    ) -> bytes:
        """The result of tools/call, of a client without a session."""

        async def ask_backend(backend: backends.Backend, params: bytes) -> bytes:
            if backend.speaks_modern:
                return await self._ask_modern(backend, params, visit, fields)
            return await self._ask_berth(backend, params, visit, fields)

        async def ask_user(_question: inquiries.Inquiry) -> bytes:
            raise runner.CannotAsk("a client without a session can't be asked in the middle of a workflow")

        arguments = bytes(messages.members(visit.params).get("arguments", b"{}"))
        token = messages.asked_token(visit.params)
        world = _World(self._catalog(), self._backends, ask_backend, ask_user, token, on_message)
        result = await _run(tool, arguments, world)
        return bridge.to_modern_result("tools/call", result, self._server_info)

    # ---- steps without a session

    async def _ask_modern(
        self, backend: backends.Backend, params: bytes, visit: parking.Visit, fields: connections.Fields
    ) -> bytes:
        whole = bridge.to_modern_params(params, visit.caller, peer.MODERN_VERSION)
        result = await backend.peer.request(
            "tools/call",
            whole,
            leg_session_id=None,
            protocol_version=peer.MODERN_VERSION,
            headers=[*fields, *bridge.parameter_fields(backend.input_schema(whole), whole)],
            on_message=peer.ignore,
            seconds_max=backend.timeout_seconds,
        )
        if bridge.result_type(result) != bridge.RESULT_COMPLETE:
            raise peer.BackendError(backend.id, "it asks for input, which a step has not", reason="input_required")
        return bridge.to_legacy_result(result)

    async def _ask_berth(
        self, backend: backends.Backend, params: bytes, visit: parking.Visit, fields: connections.Fields
    ) -> bytes:
        berth = await self._berths.find(backend, visit, fields)
        try:
            return await self._ask_at(berth, params)
        except peer.SessionLost:
            self._berths.forget(berth, visit.principal)
            return await self._ask_at(await self._berths.find(backend, visit, fields), params)

    async def _ask_at(self, berth: parking.Berth, params: bytes) -> bytes:
        def refuse(data: bytes) -> None:
            message = peer.read_message(data)
            if message is not None and bytes(message.id) and bytes(message.method):
                answer = messages.error(bytes(message.id), _NO_QUESTIONS)
                self._start_task(self._send(berth, answer), name=f"refuse a question of {berth.backend.id}")

        return await berth.backend.peer.request(
            "tools/call",
            params,
            leg_session_id=berth.session_id,
            protocol_version=berth.protocol_version,
            headers=berth.headers,
            on_message=refuse,
            seconds_max=berth.backend.timeout_seconds,
        )

    async def _send(self, berth: parking.Berth, message: bytes) -> None:
        try:
            await berth.backend.peer.send(
                message,
                leg_session_id=berth.session_id,
                protocol_version=berth.protocol_version,
                headers=[],
                seconds_max=berth.backend.timeout_seconds,
            )
        except peer.BackendError as error:
            logger.info("a refusal did not reach its backend: reason=%s", error)


class _World:
    """One run's. `token`: of the client's progress, as it wrote it."""

    def __init__(
        self,
        known: catalog.Catalog,
        group: backends.Backends,
        ask_backend: Ask,
        ask_user: Callable[[inquiries.Inquiry], Awaitable[bytes]],
        token: bytes,
        tell: peer.OnMessage,
    ) -> None:
        self._catalog = known
        self._backends = group
        self._ask_backend = ask_backend
        self._ask_user = ask_user
        self._token = token
        self._tell = tell

    def schema_of(self, tool: str) -> Mapping[str, Any]:
        target = self._catalog.step_tool(tool)
        told = None if target is None else self._catalog.definition(target)
        schema = None if told is None else msgspec.json.decode(told, type=dict[str, Any]).get("inputSchema")
        return schema if isinstance(schema, dict) else {}

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        target = self._catalog.step_tool(tool)
        backend = None if target is None else self._backends.get(target.backend)
        if target is None or backend is None:
            raise runner.CallFailed("nobody offers this tool")
        params = msgspec.json.encode({"name": target.name, "arguments": arguments})
        try:
            result = msgspec.json.decode(await self._ask_backend(backend, params))
        except (peer.BackendError, errors.StoreError) as error:
            raise runner.CallFailed(f"{error.reason}: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise runner.CallFailed(f"{backend.id}: a result that can't be read") from error
        if not isinstance(result, dict):
            raise runner.CallFailed(f"{backend.id}: a result that is no object")
        return result

    async def ask(self, message: str, schema: Mapping[str, Any]) -> runner.Answer:
        params = msgspec.json.encode({"message": message, "requestedSchema": schema})
        try:
            answer = await self._ask_user(inquiries.Inquiry("elicitation", inquiries.ELICIT, params))
            return msgspec.json.decode(answer, type=runner.Answer)
        except rounds.ClientRefused as error:
            raise runner.CannotAsk(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise runner.CannotAsk("the client's answer can't be read") from error

    def progress(self, done: int, total: int) -> None:
        if self._token:
            params = {"progressToken": msgspec.Raw(self._token), "progress": done, "total": total}
            self._tell(peer.write_notification("notifications/progress", msgspec.json.encode(params)))


async def _run(tool: catalog.Composite, arguments: bytes, world: _World) -> bytes:
    assert isinstance(tool.definition, definition.Definition)
    try:
        given = msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise faults.Fault(faults.INVALID_PARAMS, "expected arguments to be an object") from error
    result = await runner.run(tool.definition, given, world)
    if result.error:
        logger.info("composite tool failed: tool=%s reason=%s", tool.name, result.error)
    return result.render()
