"""A JSON-RPC message as an intermediary handles it: three members are looked at, all others pass as they were written.

Ids, progress tokens and subscription ids are written anew where peers share a wire; nothing else of a message is
decoded, so that big numbers, the order of members and unknown members survive. Sans-io.
"""

from typing import Any

import msgspec

from fastproxy.stdio import lines

Members = dict[str, msgspec.Raw]
PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

_NOTHING = msgspec.Raw(b"")
_decoder = msgspec.json.Decoder(Members)
_encode = msgspec.json.Encoder().encode
_KNOWN_AS_ID = b'"-0123456789'


class Message(msgspec.Struct, frozen=True, gc=False):
    """A request (method and id), a notification (method) or an answer (id). `id` is JSON text, empty without one."""

    method: str
    id: bytes
    members: Members

    @property
    def is_request(self) -> bool:
        """Does somebody wait for an answer to it?"""
        return bool(self.method and self.id)

    @property
    def is_answer(self) -> bool:
        """Is it one?"""
        return not self.method and ("result" in self.members or "error" in self.members)

    def params(self) -> Members:
        """The members of params; empty when it has none."""
        return members_of(self.members.get("params"))

    def meta(self) -> Members:
        """The members of params._meta."""
        return members_of(self.params().get("_meta"))

    def text(self, **changed: bytes) -> bytes:
        """The message with other members."""
        return text_of(self.members, changed)


def read(body: bytes) -> Message | None:
    """The message; None when this is no single JSON-RPC object in UTF-8."""
    try:
        members = _decoder.decode(body)
        body.decode("utf-8")
        method = members.get("method")
        name = "" if method is None else msgspec.json.decode(method, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    number = bytes(members.get("id", _NOTHING))
    if number and number[0] not in _KNOWN_AS_ID:
        number = b""
    return Message(name, number, members)


def members_of(raw: msgspec.Raw | bytes | None) -> Members:
    """The members of a JSON object; of anything else none."""
    try:
        return {} if raw is None else _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}


def text_in(raw: msgspec.Raw | None) -> str:
    """A JSON string; of anything else the empty one."""
    try:
        return "" if raw is None else msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        return ""


def text_of(members: Members, changed: dict[str, bytes]) -> bytes:
    """JSON of these members, some of them other ones."""
    return _encode({**members, **{name: msgspec.Raw(value) for name, value in changed.items()}})


def with_meta(message: Message, changed: dict[str, bytes], *, params_changed: dict[str, bytes] | None = None) -> bytes:
    """JSON of the message's params, some members of them or of their _meta other ones."""
    params = message.params()
    meta = text_of(members_of(params.get("_meta")), changed)
    return text_of(params, {"_meta": meta, **(params_changed or {})})


def request(number: bytes, method: str, params: bytes = b"{}") -> bytes:
    """A request of our own."""
    return b'{"jsonrpc":"2.0","id":%s,"method":%s,"params":%s}' % (number, _encode(method), params)


def notification(method: str, params: bytes = b"") -> bytes:
    """A notification of our own."""
    rest = b',"params":' + params if params else b""
    return b'{"jsonrpc":"2.0","method":%s%s}' % (_encode(method), rest)


def result(number: bytes, value: bytes) -> bytes:
    """An answer of our own."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (number, value)


def error(number: bytes, code: int, text: str, data: dict[str, Any] | None = None) -> bytes:
    """A refusal of our own."""
    problem: dict[str, Any] = {"code": code, "message": text}
    if data:
        problem["data"] = data
    member = b',"id":' + number if number else b""
    return b'{"jsonrpc":"2.0"%s,"error":%s}' % (member, _encode(problem))


def as_line(text: bytes) -> bytes:
    """As it goes over a pipe."""
    return lines.as_line(text)
