"""JSON-RPC messages as bytes: what is changed is one member, and everything beside it stays as it was written. Pure."""

from collections.abc import Callable

import msgspec

from fastproxy.vmcp import peer

Members = dict[str, msgspec.Raw]

_members_decoder = msgspec.json.Decoder(Members)
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NOTHING = msgspec.Raw(b"")


def members(text: bytes | msgspec.Raw) -> Members:
    """Of an object, each as it was written; none when it is no object."""
    if not bytes(text):
        return {}
    try:
        return _members_decoder.decode(text)
    except _FAULTS:
        return {}


def write(found: Members) -> bytes:
    """An object of members."""
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + bytes(value) for name, value in found.items()) + b"}"


def text_of(raw: bytes | msgspec.Raw) -> str | None:
    """A JSON string, None when it is something else."""
    try:
        return msgspec.json.decode(raw, type=str) if bytes(raw)[:1] == b'"' else None
    except _FAULTS:
        return None


def with_member(params: bytes, name: str, value: bytes) -> bytes:
    """The same object with one member in another form."""
    return write(members(params) | {name: msgspec.Raw(value)})


# ---- whole messages


def request(request_id: bytes, method: str, params: bytes) -> bytes:
    """A request under an id as it is written."""
    member = b',"params":' + params if params else b""
    return b'{"jsonrpc":"2.0","id":%s,"method":%s%s}' % (request_id, msgspec.json.encode(method), member)


def result(request_id: bytes, value: bytes) -> bytes:
    """An answer."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (request_id, value)


def error(request_id: bytes, value: bytes) -> bytes:
    """An answer that is an error, as it is written."""
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (request_id, value)


def answer_members(message: peer.Message) -> bytes:
    """`"result":…` or `"error":…` of an answer."""
    if bytes(message.error):
        return b'"error":' + bytes(message.error)
    return b'"result":' + (bytes(message.result) or b"{}")


def answer(request_id: bytes, message: peer.Message) -> bytes:
    """The same answer under another id."""
    return b'{"jsonrpc":"2.0","id":%s,%s}' % (request_id, answer_members(message))


# ---- members of params


def asked_token(params: bytes) -> bytes:
    """The progressToken that a request asks to be told of its progress with; empty without."""
    if b"progressToken" not in params:
        return b""
    return bytes(members(members(params).get("_meta", _NOTHING)).get("progressToken", _NOTHING))


def with_asked_token(params: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The same with another such token, if there is one."""
    token = asked_token(params)
    if not token:
        return params
    meta = with_member(bytes(members(params)["_meta"]), "progressToken", change(token))
    return with_member(params, "_meta", meta)


def token_of(params: bytes) -> bytes:
    """Whose progress a notification tells."""
    return bytes(members(params).get("progressToken", _NOTHING))


def cancelled_id(params: bytes) -> bytes:
    """The request that a notification cancels."""
    return bytes(members(params).get("requestId", _NOTHING))
