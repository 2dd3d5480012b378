"""The catalog, alone: what a list, a name and a URI cost, and what it costs to make it. `pytest bench/micro`."""

import json

import pytest

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import catalog, offers, paging

SEAL = paging.Seal(b"k" * paging.KEY_BYTES)
SCHEMA = {"type": "object", "properties": {f"argument{number}": {"type": "string"} for number in range(6)}}


def make_offers(backend: str, count: int) -> offers.Offers:
    """So many tools of about 600 bytes, and a tenth as many resources and templates."""
    tools = [{"name": f"tool{number}", "description": "d" * 300, "inputSchema": SCHEMA} for number in range(count)]
    resources = [{"uri": f"{backend}://fixed/{number}", "name": "r"} for number in range(count // 10)]
    templates = [{"uriTemplate": f"{backend}://kind{number}/{{id}}", "name": "t"} for number in range(count // 10)]
    return offers.Offers(
        backend=backend,
        protocol_version="2025-11-25",
        tools=offers.read_tools(json.dumps(one).encode() for one in tools).offers,
        resources=offers.read_resources(json.dumps(one).encode() for one in resources).offers,
        templates=offers.read_templates(json.dumps(one).encode() for one in templates).offers,
    )


KNOWN = {f"b{number}": make_offers(f"b{number}", 50) for number in range(10)}
CATALOG = catalog.build(vmcp_schema.Aggregation(), KNOWN, seal=SEAL)


def test_the_list_of_500_tools(benchmark):
    assert benchmark(CATALOG.tools_page).count(b'"name"') == 500


def test_find_a_tool_by_its_name(benchmark):
    assert benchmark(CATALOG.tool, "b7_tool33").name == "tool33"


@pytest.mark.parametrize("uri", ["b9://fixed/3", "b9://kind4/any"], ids=["listed", "by a template, the last of 50"])
def test_find_who_has_a_uri(benchmark, uri):
    assert benchmark(CATALOG.resource, uri).backend == "b9"


def test_build_it_of_ten_backends(benchmark):
    benchmark(catalog.build, vmcp_schema.Aggregation(), KNOWN, seal=SEAL)


def test_build_it_again_when_one_backend_has_changed(benchmark):
    changed = KNOWN | {"b0": make_offers("b0", 51)}
    benchmark(catalog.build, vmcp_schema.Aggregation(), changed, seal=SEAL, before=CATALOG)


def test_read_fifty_tools(benchmark):
    items = [bytes(offer.raw) for offer in KNOWN["b0"].tools]
    assert len(benchmark(offers.read_tools, items).offers) == 50
