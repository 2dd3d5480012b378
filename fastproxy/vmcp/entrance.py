"""What a request of 2026-07-28 must be before anything of it is acted on. Pure: a head and a body in, an Entry out.

The order of the checks is that of the SDKs' servers, so that a client is told the same by us: method, message,
revision, what `_meta` must say, then the headers that mirror the body. A mirrored header that differs from the body is
refused, since somebody on the way may have acted on it.
"""

import base64
import binascii

import msgspec

from fastproxy.vmcp import bridge, faults, peer
from fastproxy.wire import request as requests

_NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
_SUPPORTED = [peer.MODERN_VERSION]
_PARAM = b"mcp-param-"


class Turned(Exception):
    """Not let in: an HTTP status and a JSON-RPC error."""

    def __init__(self, status: int, code: int, message: str, data: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.data = data


class Entry(msgspec.Struct, frozen=True):
    """One message. `id` is empty for a notification."""

    method: str
    id: bytes
    params: bytes
    caller: bridge.Caller


def read(request: requests.Request, message: peer.Message | None, body: bytes) -> Entry:
    """The message of a request. Turned."""
    if request.method != "POST":
        raise Turned(405, faults.INVALID_REQUEST, "this revision is spoken by POST alone")
    if message is None:
        single = body.lstrip()[:1] != b"["
        raise Turned(400, faults.PARSE_ERROR if single else faults.INVALID_REQUEST, "expected one JSON-RPC message")
    if not message.method_name:
        raise Turned(400, faults.INVALID_REQUEST, "expected a request or a notification")
    params = bytes(message.params)
    entry = Entry(message.method_name, bytes(message.id), params, bridge.read_caller(params))
    if not entry.id:
        return entry
    if entry.id[:1] not in b'"-0123456789':
        raise Turned(400, faults.INVALID_REQUEST, "expected id to be a string or a number")
    _check_meta(request, params)
    _check_mirrors(request, entry)
    return entry


def _check_meta(request: requests.Request, params: bytes) -> None:
    meta = bridge.read_members(bridge.read_members(params).get("_meta", b""))
    said = bridge.read_text(meta.get(bridge.META + "protocolVersion", b""))
    header = request.header(b"mcp-protocol-version")
    if said is None:
        raise Turned(400, faults.INVALID_PARAMS, f"expected _meta to name {bridge.META}protocolVersion")
    if header != said:
        raise Turned(400, bridge.HEADER_MISMATCH, f"MCP-Protocol-Version is {header}, the body says {said[:40]}")
    if said not in _SUPPORTED:
        data: dict[str, object] = {"supported": _SUPPORTED, "requested": said}
        raise Turned(400, bridge.UNSUPPORTED_VERSION, f"Unsupported protocol version: {said[:40]}", data)
    if bytes(meta.get(bridge.META + "clientCapabilities", b""))[:1] != b"{":
        raise Turned(400, faults.INVALID_PARAMS, f"expected _meta to hold {bridge.META}clientCapabilities")


def _check_mirrors(request: requests.Request, entry: Entry) -> None:
    if request.header(b"mcp-method") != entry.method:
        said = request.header(b"mcp-method")
        raise Turned(400, bridge.HEADER_MISMATCH, f"Mcp-Method is {said}, the body says {entry.method[:100]}")
    member = _NAMED_BY.get(entry.method)
    if member is None:
        return
    name = bridge.read_text(bridge.read_members(entry.params).get(member, b""))
    said = request.header(b"mcp-name")
    if said is None or decode(said) != name:
        raise Turned(400, bridge.HEADER_MISMATCH, f"expected Mcp-Name to be what params.{member} says")


def check_arguments(request: requests.Request, input_schema: bytes, params: bytes) -> None:
    """The headers that a tool's schema wants its arguments mirrored into. Turned."""
    expected = {name.lower(): decode(value.decode("latin-1")) for name, value in _mirrored(input_schema, params)}
    for name in _declared(input_schema):
        said = request.header(name)
        wanted = expected.get(name)
        shown = name.decode("latin-1")
        if wanted is None and said is not None:
            raise Turned(400, bridge.HEADER_MISMATCH, f"{shown}: the body has no such argument")
        if wanted is not None and (said is None or not _is_same(decode(said), wanted)):
            raise Turned(400, bridge.HEADER_MISMATCH, f"{shown} is not what the body says")


def _mirrored(input_schema: bytes, params: bytes) -> list[tuple[bytes, bytes]]:
    return bridge.parameter_fields(input_schema, params)


def _declared(input_schema: bytes) -> list[bytes]:
    """The headers that a schema names."""
    found: list[bytes] = []
    try:
        schemas = [msgspec.json.decode(input_schema)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return []
    while schemas:
        schema = schemas.pop()
        properties = schema.get("properties") if isinstance(schema, dict) else None
        for each in properties.values() if isinstance(properties, dict) else ():
            word = each.get("x-mcp-header") if isinstance(each, dict) else None
            if isinstance(word, str) and word.isascii():
                found.append(_PARAM + word.lower().encode("ascii"))
            schemas.append(each)
    return found


def _is_same(said: str | None, wanted: str | None) -> bool:
    if said == wanted or said is None or wanted is None:
        return said == wanted
    try:
        return float(said) == float(wanted) and wanted.lstrip("-").isdigit()
    except ValueError:
        return False


def decode(value: str) -> str | None:
    """What a header's value says: itself, or the text in its base64 form. None: neither can be made of it."""
    if not value.isascii() or not value.isprintable():
        return None
    if not (value.startswith("=?base64?") and value.endswith("?=") and len(value) >= len("=?base64??=")):
        return value
    encoded = value.removeprefix("=?base64?").removesuffix("?=")
    try:
        decoded = base64.b64decode(encoded, validate=True)
        if base64.b64encode(decoded).decode("ascii") != encoded:
            return None  # bits that mean nothing
        return decoded.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
