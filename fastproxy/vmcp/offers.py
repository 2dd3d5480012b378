"""What one backend offers, as it said it: tools, resources, templates, prompts.

    tools/list … ─ read_page ─ raw items ─ read: each by itself ─> offers, and the names of those that are no good

JSON is kept as it came, so that members which nobody here knows reach the client. What a client's parser would choke on
is rejected item by item: one bad tool must not cost its backend the list, nor one bad backend the others. For the same
reason everything is bounded. Pure.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from fastproxy.vmcp import templates

ITEM_BYTES_MAX = 256 << 10  # the largest schemas seen (generated from OpenAPI) are 60 KB
DEPTH_MAX = 64  # of a schema's nesting; clients' parsers recurse, and some stop at a hundred
LIST_BYTES_MAX = 8 << 20  # of one list of one backend: ten times 1,000 ordinary tools
NAME_CHARACTERS_MAX = 128  # what the specification allows for a tool
URI_CHARACTERS_MAX = 4096  # a request line takes no more either
TEMPLATE_CHARACTERS_MAX = 1024  # each is matched, character by character, with URIs that clients ask for
REJECTED_MAX = 100  # lines kept about one backend's list; the rest is counted
_SHOWN_CHARACTERS_MAX = 80

_HEADER_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_HEADER_TYPES = frozenset({"string", "integer", "boolean"})


class Offer(msgspec.Struct, frozen=True):
    """One thing on offer. `name` is a tool's or prompt's name, a resource's URI, a template's URI template."""

    name: str
    raw: msgspec.Raw


class Listing(msgspec.Struct, frozen=True):
    """One list of a backend: what is good, in its order, and a line for each item that is not ("tool NAME: why")."""

    offers: tuple[Offer, ...] = ()
    rejected: tuple[str, ...] = ()


class Offers(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of what a backend offers."""

    backend: str
    protocol_version: str
    server_info: msgspec.Raw = msgspec.Raw(b"{}")
    capabilities: dict[str, msgspec.Raw] = {}
    instructions: str | None = None
    tools: tuple[Offer, ...] = ()
    resources: tuple[Offer, ...] = ()
    templates: tuple[Offer, ...] = ()
    prompts: tuple[Offer, ...] = ()
    rejected: tuple[str, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """One page of a list as it came."""

    items: tuple[msgspec.Raw, ...]
    next_cursor: str | None


class Kind(msgspec.Struct, frozen=True):
    """One of the four lists: the field of Offers, the method that asks for it, the member that holds it."""

    field: str
    method: str
    member: str
    noun: str
    shape: type


class WrongPage(ValueError):
    """The result of a list request is no list."""


class _Annotations(msgspec.Struct):
    title: str | None = None
    readOnlyHint: bool | None = None
    destructiveHint: bool | None = None
    idempotentHint: bool | None = None
    openWorldHint: bool | None = None


class _Tool(msgspec.Struct):
    """What every client's parser asks of a tool; other members are the client's business."""

    name: str
    inputSchema: dict[str, object]
    title: str | None = None
    description: str | None = None
    outputSchema: dict[str, object] | None = None
    annotations: _Annotations | None = None
    icons: list[object] | None = None
    _meta: dict[str, object] | None = None


class _Resource(msgspec.Struct):
    uri: str
    name: str
    title: str | None = None
    description: str | None = None
    mimeType: str | None = None
    size: int | float | None = None
    annotations: dict[str, object] | None = None
    icons: list[object] | None = None
    _meta: dict[str, object] | None = None


class _Template(msgspec.Struct):
    uriTemplate: str
    name: str
    title: str | None = None
    description: str | None = None
    mimeType: str | None = None
    annotations: dict[str, object] | None = None
    icons: list[object] | None = None
    _meta: dict[str, object] | None = None


class _Argument(msgspec.Struct):
    name: str
    title: str | None = None
    description: str | None = None
    required: bool | None = None


class _Prompt(msgspec.Struct):
    name: str
    title: str | None = None
    description: str | None = None
    arguments: list[_Argument] | None = None
    icons: list[object] | None = None
    _meta: dict[str, object] | None = None


TOOLS = Kind("tools", "tools/list", "tools", "tool", _Tool)
RESOURCES = Kind("resources", "resources/list", "resources", "resource", _Resource)
TEMPLATES = Kind("templates", "resources/templates/list", "resourceTemplates", "template", _Template)
PROMPTS = Kind("prompts", "prompts/list", "prompts", "prompt", _Prompt)
KINDS = (TOOLS, RESOURCES, TEMPLATES, PROMPTS)
COUNT_MAX: Mapping[str, int] = {"tools": 10_000, "resources": 50_000, "templates": 1_000, "prompts": 10_000}


def read_page(kind: Kind, result: bytes | msgspec.Raw) -> Page:
    """The items of a list's result and where the next page begins. WrongPage says what is wrong with it."""
    try:
        members = msgspec.json.decode(result, type=dict[str, msgspec.Raw])
        if kind.member not in members:
            raise WrongPage(f"expected {kind.member} in the answer to {kind.method}")
        items = msgspec.json.decode(members[kind.member], type=tuple[msgspec.Raw, ...])
        cursor = msgspec.json.decode(members.get("nextCursor", b"null"), type=str | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WrongPage(f"not a list in the answer to {kind.method}: {error}") from error
    return Page(items, cursor or None)


def read_tools(items: Iterable[bytes | msgspec.Raw]) -> Listing:
    """The tools that clients can use."""
    return read(TOOLS, items)


def read_resources(items: Iterable[bytes | msgspec.Raw]) -> Listing:
    """The resources that clients can use."""
    return read(RESOURCES, items)


def read_templates(items: Iterable[bytes | msgspec.Raw]) -> Listing:
    """The resource templates that clients can use."""
    return read(TEMPLATES, items)


def read_prompts(items: Iterable[bytes | msgspec.Raw]) -> Listing:
    """The prompts that clients can use."""
    return read(PROMPTS, items)


def read(kind: Kind, items: Iterable[bytes | msgspec.Raw]) -> Listing:
    """All good items of a list, each name once, and a line for each of the others."""
    good: dict[str, Offer] = {}
    rejected: list[str] = []
    size = 0
    for index, item in enumerate(items):
        content = bytes(item)
        size += len(content)
        if index >= COUNT_MAX[kind.field] or size > LIST_BYTES_MAX:
            bounds = f"{COUNT_MAX[kind.field]} items and {LIST_BYTES_MAX >> 20} MiB"
            rejected.insert(0, f"{kind.member}[{index}]…: the list is longer than {bounds}")
            break
        try:
            offer = _read_one(kind, content)
        except _Unusable as why:
            rejected.append(f"{kind.noun} {_name(kind, content, index)}: {why}")
            continue
        if offer.name in good:
            rejected.append(f"{kind.noun} {_shorten(offer.name)}: offered twice")
        else:
            good[offer.name] = offer
    if len(rejected) > REJECTED_MAX:
        more = len(rejected) - REJECTED_MAX
        rejected[REJECTED_MAX:] = [f"{kind.member}: {more} more that cannot be used"]
    return Listing(tuple(good.values()), tuple(rejected))


class _Unusable(ValueError):
    """Why an item cannot be offered."""


def _read_one(kind: Kind, content: bytes) -> Offer:
    if len(content) > ITEM_BYTES_MAX:
        raise _Unusable(f"{len(content)} bytes, expected at most {ITEM_BYTES_MAX}")
    try:
        # Whole, not only the shape: text inside of a schema that is no UTF-8 would break the client's whole list.
        whole = msgspec.json.decode(content)
        shaped: object = msgspec.json.decode(content, type=kind.shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _Unusable(_flatten(str(error))) from error
    except RecursionError as error:
        raise _Unusable(f"nested deeper than {DEPTH_MAX}") from error
    if _is_deeper(whole, DEPTH_MAX):
        raise _Unusable(f"nested deeper than {DEPTH_MAX}")
    name = _name_of(shaped)
    if isinstance(shaped, _Tool):
        _check_tool(shaped)
    elif isinstance(shaped, _Template):
        try:
            templates.read(name)
        except templates.WrongTemplate as wrong:
            raise _Unusable(f"not a URI template (RFC 6570): {wrong}") from wrong
    # A line break between tokens would end an event of a stream in its middle.
    packed = msgspec.json.format(content, indent=-1) if b"\n" in content or b"\r" in content else content
    return Offer(name, msgspec.Raw(packed))


def _name_of(shaped: object) -> str:
    name: str
    if isinstance(shaped, _Resource):
        name, most = shaped.uri, URI_CHARACTERS_MAX
    elif isinstance(shaped, _Template):
        name, most = shaped.uriTemplate, TEMPLATE_CHARACTERS_MAX
    else:
        assert isinstance(shaped, _Tool | _Prompt)
        name, most = shaped.name, NAME_CHARACTERS_MAX
    if not name or not name.isprintable():
        raise _Unusable("expected a name of printable characters")
    if len(name) > most:
        raise _Unusable(f"a name of {len(name)} characters, expected at most {most}")
    return name


def _check_tool(tool: _Tool) -> None:
    if tool.inputSchema.get("type") != "object":
        raise _Unusable('expected an inputSchema with "type": "object"')
    properties = tool.inputSchema.get("properties", {})
    if not isinstance(properties, dict) or not all(isinstance(one, dict | bool) for one in properties.values()):
        raise _Unusable("expected properties of the inputSchema to be an object of schemas")
    required = tool.inputSchema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        raise _Unusable("expected required of the inputSchema to be a list of names")
    _check_headers(tool.inputSchema)


def _check_headers(schema: dict[str, object]) -> None:
    """SEP-2243: arguments that a client mirrors into headers. A tool with a wrong one must not be offered."""
    seen: set[str] = set()
    stack: list[tuple[object, bool]] = [(schema, True)]  # and whether only `properties` lead there
    while stack:
        value, plain = stack.pop()
        if isinstance(value, list):
            stack += [(one, False) for one in value]
        if not isinstance(value, dict):
            continue
        if "x-mcp-header" in value:
            header = value["x-mcp-header"]
            if not isinstance(header, str) or not _HEADER_TOKEN.fullmatch(header):
                raise _Unusable("x-mcp-header: expected a header's token")
            if not plain or value.get("type") not in _HEADER_TYPES:
                raise _Unusable(f"x-mcp-header {header}: expected it on a plain string, integer or boolean property")
            if header.lower() in seen:
                raise _Unusable(f"x-mcp-header {header}: expected each once")
            seen.add(header.lower())
        for key, child in value.items():
            if key == "properties" and isinstance(child, dict):
                stack += [(one, plain) for one in child.values()]
            else:
                stack.append((child, False))


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return False
    return True


def _name(kind: Kind, content: bytes, index: int) -> str:
    """What the item calls itself, or its place in the list."""
    key = {"resources": "uri", "templates": "uriTemplate"}.get(kind.field, "name")
    try:
        members = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        return _shorten(msgspec.json.decode(members[key], type=str))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        return f"[{index}]"


def _shorten(name: str) -> str:
    shown = name if name.isprintable() and name else ascii(name)
    return shown if len(shown) <= _SHOWN_CHARACTERS_MAX else shown[:_SHOWN_CHARACTERS_MAX] + "…"


def _flatten(message: str) -> str:
    return message[:1].lower() + message[1:200].replace("\n", " ").replace("`", "")
