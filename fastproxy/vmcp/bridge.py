"""A call that is made in one era and answered in the other: its params, result and errors, each as the other side knows
them. Pure; bytes of JSON in and out, and what needs no change is not written anew.

    2026-07-28 client --to_legacy_params--> legacy backend      result, error: to_modern_result, to_modern_error
    legacy client --to_modern_params--> 2026-07-28 backend      result, error: to_legacy_result, to_legacy_error

What is asked of the client in the middle of a call is another matter (inquiries.py). Members of `_meta` under the
protocol's own prefix belong to one hop and are never passed on; a progress token, a trace and vendors' members are.
"""

import msgspec

from fastproxy.vmcp import mirrors

META = "io.modelcontextprotocol/"
RESULT_COMPLETE, RESULT_INPUT_REQUIRED = "complete", "input_required"
INVALID_PARAMS, METHOD_NOT_FOUND, INTERNAL = -32602, -32601, -32603
RESOURCE_NOT_FOUND = -32002  # until 2025-11-25; INVALID_PARAMS since
HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION = -32020, -32021, -32022

_CACHEABLE = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)
_RETRY_MEMBERS = ("inputResponses", "requestState")
_RESULT_MEMBERS = ("resultType", "ttlMs", "cacheScope")
_SAFE_INTEGER = 2**53 - 1  # beyond it a header may not say what the body says
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Members = dict[str, msgspec.Raw]


class Caller(msgspec.Struct, frozen=True):
    """Who makes a call, as a modern request says of itself and a legacy session has said once."""

    client_info: msgspec.Raw = msgspec.Raw(b"{}")
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    log_level: str | None = None


def read_members(data: bytes | msgspec.Raw) -> Members:
    """The members of an object, each as it was written; empty when it is none."""
    try:
        return msgspec.json.decode(data, type=Members)
    except _FAULTS:
        return {}


def read_text(raw: bytes | msgspec.Raw) -> str | None:
    """A JSON string; None when it is something else."""
    try:
        return msgspec.json.decode(raw, type=str)
    except _FAULTS:
        return None


def read_caller(params: bytes) -> Caller:
    """Who makes this modern call."""
    meta = read_members(read_members(params).get("_meta", b"{}"))
    level = meta.get(META + "logLevel")
    return Caller(
        msgspec.Raw(bytes(meta.get(META + "clientInfo", b"{}"))),
        msgspec.Raw(bytes(meta.get(META + "clientCapabilities", b"{}"))),
        read_text(level) if level is not None else None,
    )


# ---- params


def to_legacy_params(params: bytes) -> bytes:
    """Of a modern call, for a session."""
    members = read_members(params)
    for name in _RETRY_MEMBERS:
        members.pop(name, None)
    _put_meta(members, _foreign(members))
    return msgspec.json.encode(members) if members else b""


def to_modern_params(params: bytes, caller: Caller, version: str) -> bytes:
    """Of a call in a session, for a backend that has none: it says who asks with every call."""
    members = read_members(params)
    meta = _foreign(members)
    meta[META + "protocolVersion"] = msgspec.Raw(msgspec.json.encode(version))
    meta[META + "clientInfo"] = caller.client_info
    meta[META + "clientCapabilities"] = caller.capabilities
    if caller.log_level is not None:
        meta[META + "logLevel"] = msgspec.Raw(msgspec.json.encode(caller.log_level))
    _put_meta(members, meta)
    return msgspec.json.encode(members)


def parameter_fields(input_schema: bytes | msgspec.Raw, params: bytes) -> mirrors.Fields:
    """The arguments that a tool's schema wants mirrored into headers (x-mcp-header), as far as they are there."""
    members = read_members(params)
    try:
        schema = msgspec.json.decode(input_schema)
        arguments = msgspec.json.decode(members.get("arguments", b"{}"))
    except _FAULTS:
        return []
    fields: mirrors.Fields = []
    _collect(schema, arguments, fields)
    return fields


def _collect(schema: object, arguments: object, fields: mirrors.Fields) -> None:
    if not isinstance(schema, dict) or not isinstance(arguments, dict):
        return
    properties = schema.get("properties")
    for name, each in properties.items() if isinstance(properties, dict) else ():
        if not isinstance(each, dict) or name not in arguments:
            continue
        value = arguments[name]
        word = each.get("x-mcp-header")
        if isinstance(word, str) and word.isascii() and word.isprintable():
            text = _header_text(value)
            if text is not None:
                fields.append((b"Mcp-Param-" + word.encode("ascii"), mirrors.header_value(text)))
        _collect(each, value, fields)


def _header_text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) <= _SAFE_INTEGER:
        return str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= _SAFE_INTEGER:
        return str(int(value))
    return value if isinstance(value, str) else None


# ---- results


class _Typed(msgspec.Struct):
    resultType: str = RESULT_COMPLETE


def result_type(result: bytes) -> str:
    """Of a modern result; one that does not say is complete."""
    try:
        return msgspec.json.decode(result, type=_Typed).resultType
    except _FAULTS:
        return RESULT_COMPLETE


def to_modern_result(method: str, result: bytes, server_info: bytes) -> bytes:
    """Of a session's call: complete, for nobody else and not to be kept, said by us."""
    members = read_members(result)
    members["resultType"] = msgspec.Raw(b'"complete"')
    if method in _CACHEABLE:
        members.setdefault("ttlMs", msgspec.Raw(b"0"))
        members.setdefault("cacheScope", msgspec.Raw(b'"private"'))
    if method == "tools/call":
        members.setdefault("content", msgspec.Raw(b"[]"))
    meta = _foreign(members)
    meta[META + "serverInfo"] = msgspec.Raw(server_info)
    _put_meta(members, meta)
    return msgspec.json.encode(members)


def to_legacy_result(result: bytes) -> bytes:
    """Of a modern call: strict peers refuse members that they do not know."""
    members = read_members(result)
    for name in _RESULT_MEMBERS:
        members.pop(name, None)
    _put_meta(members, _foreign(members))
    return msgspec.json.encode(members)


# ---- errors


def to_modern_error(error: bytes) -> tuple[int, bytes]:
    """Of a session's call: the HTTP status, and the error. A code of the legacy time becomes what it is called now."""
    members = read_members(error)
    code = _read_code(members)
    if code == METHOD_NOT_FOUND:
        return 404, error
    if code == RESOURCE_NOT_FOUND:
        members["code"] = msgspec.Raw(b"%d" % INVALID_PARAMS)
        return 200, msgspec.json.encode(members)
    if (
        code is None or -32099 <= code <= -32020 or code == -32042
    ):  # reserved: what it would mean, it does not mean here
        members["code"] = msgspec.Raw(b"%d" % INTERNAL)
        members.setdefault("message", msgspec.Raw(b'"the backend failed"'))
        return 200, msgspec.json.encode(members)
    return 200, error


def to_legacy_error(method: str, error: bytes) -> bytes:
    """Of a modern call. What concerns the hop between us and the backend is no business of the client's."""
    members = read_members(error)
    code = _read_code(members)
    if code == INVALID_PARAMS and method == "resources/read":
        members["code"] = msgspec.Raw(b"%d" % RESOURCE_NOT_FOUND)
        return msgspec.json.encode(members)
    if code is None or -32099 <= code <= -32020:
        members["code"] = msgspec.Raw(b"%d" % INTERNAL)
        members.setdefault("message", msgspec.Raw(b'"the backend failed"'))
        members.pop("data", None)
        return msgspec.json.encode(members)
    return error


# ---- notifications


_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


def to_other_notification(message: bytes) -> bytes:
    """Of either era, without what belongs to the hop that it came by."""
    members = read_members(message)
    params = read_members(members.get("params", b"{}"))
    if "_meta" not in params:
        return message
    _put_meta(params, _foreign(params))
    members["params"] = msgspec.Raw(msgspec.json.encode(params))
    return msgspec.json.encode(members)


def passes(params: bytes, level: str | None) -> bool:
    """Does a log message of these params reach a client that asked for this level? None: it asked for none."""
    if level not in _LEVELS:
        return False
    said = read_text(read_members(params).get("level", b'""'))
    return said not in _LEVELS or _LEVELS.index(said) >= _LEVELS.index(level)


# ---- parts


def _foreign(members: Members) -> Members:
    """What `_meta` holds that is not the protocol's own."""
    meta = read_members(members.get("_meta", b"{}"))
    return {name: value for name, value in meta.items() if not name.startswith(META)}


def _put_meta(members: Members, meta: Members) -> None:
    if meta:
        members["_meta"] = msgspec.Raw(msgspec.json.encode(meta))
    else:
        members.pop("_meta", None)


def _read_code(members: Members) -> int | None:
    try:
        return msgspec.json.decode(members.get("code", b"null"), type=int)
    except _FAULTS:
        return None
