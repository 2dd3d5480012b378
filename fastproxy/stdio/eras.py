"""A client of 2026-07-28 in front of a server that knows only the handshake: what is said, put into the other's words.

    request   its envelope in _meta goes; methods of this era alone are answered here, those of the other are unknown
    result    `resultType`, and how long it may be kept (not at all); who the server is
    error     -32002 is -32602; an unknown method is a 404

The server asks nothing on the way: it was told of no capability. Sans-io.
"""

import msgspec

from fastproxy.stdio import message

_ENVELOPE = "io.modelcontextprotocol/"
_CACHEABLE = frozenset(
    ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read", "server/discover")
)
_OF_THE_OLDER_ERA = frozenset(
    ("initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list")
)
_WITHHELD = ("tasks", "logging", "experimental")

Message = message.Message


def is_known(method: str) -> bool:
    """May a client of this era ask that?"""
    return method not in _OF_THE_OLDER_ERA


def as_older(asked: Message) -> Message:
    """The request as the server knows it."""
    params = asked.params()
    meta = {name: value for name, value in message.members_of(params.get("_meta")).items() if _is_foreign(name)}
    rest = {name: value for name, value in params.items() if name != "_meta"}
    changed = {"_meta": message.text_of(meta, {})} if meta else {}
    if not rest and not changed:
        text = message.text_of({name: value for name, value in asked.members.items() if name != "params"}, {})
    else:
        text = asked.text(params=message.text_of(rest, changed))
    older = message.read(text)
    assert older is not None
    return older


def _is_foreign(name: str) -> bool:
    return not name.startswith(_ENVELOPE)


def as_newer(method: str, answer: Message, server_info: bytes) -> Message:
    """The answer as the client knows it."""
    if "error" in answer.members:
        problem = message.members_of(answer.members["error"])
        if bytes(problem.get("code", b"")) == b"-32002":
            return _again(answer.text(error=message.text_of(problem, {"code": b"-32602"})))
        return answer
    result = message.members_of(answer.members.get("result"))
    changed = {"resultType": b'"complete"'}
    if method in _CACHEABLE:
        changed |= {"ttlMs": b"0", "cacheScope": b'"private"'}
    if server_info:
        meta = message.members_of(result.get("_meta"))
        changed["_meta"] = message.text_of(meta, {_ENVELOPE + "serverInfo": server_info})
    return _again(answer.text(result=message.text_of(result, changed)))


def discovery(asked: Message, greeting: message.Members, version: str) -> Message:
    """The answer to `server/discover`, from what the server has said at the handshake."""
    offered = message.members_of(greeting.get("capabilities"))
    capabilities = {name: value for name, value in offered.items() if name not in _WITHHELD}
    result = {
        "supportedVersions": msgspec.Raw(msgspec.json.encode([version])),
        "capabilities": msgspec.Raw(message.text_of(capabilities, {})),
    }
    if "instructions" in greeting:
        result["instructions"] = greeting["instructions"]
    answer = _again(message.result(asked.id, message.text_of(result, {})))
    return as_newer("server/discover", answer, bytes(greeting.get("serverInfo", b"")))


def _again(text: bytes) -> Message:
    read = message.read(text)
    assert read is not None
    return read


class Wanted(msgspec.Struct, frozen=True):
    """What a `subscriptions/listen` asks for."""

    lists: frozenset[str]  # tools, prompts, resources
    uris: tuple[str, ...]


_LISTS = {"toolsListChanged": "tools", "promptsListChanged": "prompts", "resourcesListChanged": "resources"}


def wanted(asked: Message) -> Wanted:
    """Of this request."""
    said = message.members_of(asked.params().get("notifications"))
    lists = frozenset(kind for name, kind in _LISTS.items() if bytes(said.get(name, b"")) == b"true")
    try:
        uris = tuple(msgspec.json.decode(said.get("resourceSubscriptions", b"[]"), type=list[str]))
    except msgspec.DecodeError:
        uris = ()
    return Wanted(lists, uris)


def acknowledgement(number: bytes, granted: Wanted) -> bytes:
    """The first message of the stream: what will be told."""
    honoured: dict[str, object] = {name: True for name, kind in _LISTS.items() if kind in granted.lists}
    if granted.uris:
        honoured["resourceSubscriptions"] = list(granted.uris)
    params = b'{"_meta":{"%s":%s},"notifications":%s}' % (
        message.SUBSCRIPTION_ID.encode(),
        number,
        msgspec.json.encode(honoured),
    )
    return message.notification("notifications/subscriptions/acknowledged", params)


def news(number: bytes, granted: Wanted, said: Message) -> bytes | None:
    """A server's notification as a listener gets it; None: it has not asked for that."""
    kind = said.method.removeprefix("notifications/").removesuffix("/list_changed")
    if said.method.endswith("/list_changed"):
        if kind not in granted.lists:
            return None
    elif said.method != "notifications/resources/updated":
        return None
    return said.text(params=message.with_meta(said, {message.SUBSCRIPTION_ID: number}))
