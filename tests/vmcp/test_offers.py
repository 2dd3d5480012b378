"""Lists of a backend, read item by item: what is good stays as it was said, what is not is named and nothing else lost.

Everything is real and pure. Not covered: how lists are asked for (test_discovery.py).
"""

import json

import msgspec
import pytest

from fastproxy.vmcp import offers

OBJECT = {"type": "object"}


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def tool(name: object = "good", **members: object) -> bytes:
    return encode({"name": name, "inputSchema": OBJECT} | members)


def names(listing: offers.Listing) -> list[str]:
    return [offer.name for offer in listing.offers]


def test_a_page_gives_its_items_and_its_cursor() -> None:
    page = offers.read_page(
        offers.TEMPLATES, b'{"resourceTemplates": [1, {"a": [ 2 ]}], "nextCursor": "x", "ttlMs": 5}'
    )
    assert [bytes(item) for item in page.items] == [b"1", b'{"a": [ 2 ]}']
    assert page.next_cursor == "x"
    assert offers.read_page(offers.TOOLS, b'{"tools": [], "nextCursor": null}').next_cursor is None


@pytest.mark.parametrize(
    "result",
    [b"", b"[]", b"{}", b'{"tools": 5}', b'{"tools": {}}', b'{"tools": [], "nextCursor": 5}', b'{"tools": [\xff]}'],
)
def test_what_is_no_page_is_said_to_be_none(result: bytes) -> None:
    with pytest.raises(offers.WrongPage):
        offers.read_page(offers.TOOLS, result)


def test_unknown_members_and_their_spelling_stay() -> None:
    schema = b'{"type":"object","x-more":1E2}'
    raw = b'{"name":"a","inputSchema":%s,"_meta":{"com.example/x":[1.0,9007199254740993]},"new":1}' % schema
    (offer,) = offers.read_tools([raw]).offers
    assert bytes(offer.raw) == raw


def test_line_breaks_between_tokens_go_and_those_inside_of_text_stay() -> None:
    raw = b'{\r\n "name": "a",\n "inputSchema": {"type": "object"},\n "description": "one\\ntwo", "n": 1.50\n}'
    (offer,) = offers.read_tools([raw]).offers
    assert bytes(offer.raw) == b'{"name":"a","inputSchema":{"type":"object"},"description":"one\\ntwo","n":1.50}'


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        (b"5", "tool [1]: expected object, got int"),
        (b'{"name":"bad"}', "tool bad: object missing required field inputSchema"),
        (b'{"inputSchema":{"type":"object"}}', "tool [1]: object missing required field name"),
        (tool(5), "tool [1]: expected str, got int - at $.name"),
        (tool(""), "tool '': expected a name of printable characters"),
        (tool("a\nb"), "tool 'a\\nb': expected a name of printable characters"),
        (tool("x" * 129), f"tool {'x' * 80}…: a name of 129 characters, expected at most 128"),
        (tool("bad", description=7), "tool bad: expected str | null, got int - at $.description"),
        (tool("bad", inputSchema=[]), "tool bad: expected object, got array - at $.inputSchema"),
        (tool("bad", inputSchema={"type": "string"}), 'tool bad: expected an inputSchema with "type": "object"'),
        (tool("bad", inputSchema={"type": "object", "properties": []}), "tool bad: expected properties of the"),
        (tool("bad", inputSchema={"type": "object", "properties": {"a": 5}}), "tool bad: expected properties of the"),
        (tool("bad", inputSchema={"type": "object", "required": [5]}), "tool bad: expected required of the"),
        (tool("bad", outputSchema="x"), "tool bad: expected object | null, got str - at $.outputSchema"),
        (tool("bad", annotations={"readOnlyHint": "yes"}), "tool bad: expected bool | null, got str"),
        (tool("bad", _meta=[]), "tool bad: expected object | null, got array - at $._meta"),
        (b'{"name":"bad","inputSchema":{"type":"object","title":"\xff"}}', "tool bad: 'utf-8' codec can't decode"),
        (b'{"name":"bad","inputSchema":{"type":"object","x":' + b"[" * 100 + b"]" * 100 + b"}}", "tool bad: nested"),
        (tool("bad", description="x" * (offers.ITEM_BYTES_MAX)), "tool bad: 262"),
        (tool("good"), "tool good: offered twice"),
    ],
)
def test_a_bad_tool_is_named_and_the_others_stay(bad: bytes, line: str) -> None:
    listing = offers.read_tools([tool(), bad, tool("other")])
    assert names(listing) == ["good", "other"]
    (said,) = listing.rejected
    assert said.startswith(line), said
    assert said.isprintable() and len(said) < 400


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "integer", "x-mcp-header": "B"}}, None),
        ({"a": {"type": "object", "properties": {"b": {"type": "boolean", "x-mcp-header": "B"}}}}, None),
        ({"x-mcp-header": {"type": "string"}}, None),
        ({"a": {"type": "string", "x-mcp-header": "no token"}}, "expected a header's token"),
        ({"a": {"type": "string", "x-mcp-header": 5}}, "expected a header's token"),
        ({"a": {"type": "number", "x-mcp-header": "A"}}, "expected it on a plain"),
        ({"a": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}}, "expected it on a plain"),
        ({"a": {"oneOf": [{"type": "string", "x-mcp-header": "A"}]}}, "expected it on a plain"),
        ({"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}, "each once"),
    ],
)
def test_a_tool_that_mirrors_arguments_wrongly_is_not_offered(schema: object, why: str | None) -> None:
    listing = offers.read_tools([tool(inputSchema={"type": "object", "properties": schema})])
    assert names(listing) == ([] if why else ["good"])
    assert (why or "") in "".join(listing.rejected)


def test_optional_members_may_be_null_as_some_servers_write_them() -> None:
    assert names(offers.read_tools([tool(title=None, description=None, annotations=None, outputSchema=None)])) == [
        "good"
    ]


def test_resources_templates_and_prompts_go_by_their_own_names() -> None:
    resources = [encode({"uri": "a://1", "name": "x"}), encode({"uri": "a://2"}), encode({"uri": "a://1", "name": "y"})]
    assert names(offers.read_resources(resources)) == ["a://1"]
    assert offers.read_resources(resources).rejected == (
        "resource a://2: object missing required field name",
        "resource a://1: offered twice",
    )
    listing = offers.read_templates([encode({"uriTemplate": one, "name": "x"}) for one in ("a://{b}", "a://{b")])
    assert names(listing) == ["a://{b}"]
    assert listing.rejected == ("template a://{b: not a URI template (RFC 6570): expected each { to have its }",)
    prompts = [encode({"name": "p", "arguments": [{"name": "a"}]}), encode({"name": "q", "arguments": ["a"]})]
    assert names(offers.read_prompts(prompts)) == ["p"]


def test_an_endless_list_is_cut_and_said_to_be() -> None:
    most = offers.COUNT_MAX["templates"]
    listing = offers.read_templates(
        encode({"uriTemplate": f"a://{number}", "name": "x"}) for number in range(10 * most)
    )
    assert len(listing.offers) == most
    assert listing.rejected == (f"resourceTemplates[{most}]…: the list is longer than {most} items and 8 MiB",)


def test_a_list_of_huge_items_is_cut_by_its_size() -> None:
    listing = offers.read_tools(tool(f"t{number}", description="x" * 200_000) for number in range(1000))
    assert 30 < len(listing.offers) < 45 and len(listing.rejected) == 1


def test_what_is_said_about_a_list_of_nonsense_is_bounded() -> None:
    listing = offers.read_tools(b"[]" for _ in range(5000))
    assert len(listing.rejected) == offers.REJECTED_MAX + 1
    assert listing.rejected[-1] == "tools: 4900 more that cannot be used"


def test_offers_can_be_kept_and_compared() -> None:
    one = offers.Offers(backend="a", protocol_version="2025-06-18", tools=offers.read_tools([tool()]).offers)
    assert [bytes(offer.raw) for offer in msgspec.structs.replace(one, backend="b").tools] == [tool()]
