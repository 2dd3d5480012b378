"""Offers made by hand, for tests of what becomes of them."""

import json
from collections.abc import Sequence

from fastproxy.vmcp import offers, paging

SEAL = paging.Seal(b"k" * paging.KEY_BYTES)


def tool(name: str, **members: object) -> bytes:
    return json.dumps({"name": name, "inputSchema": {"type": "object"}} | members).encode()


def offer(
    backend: str,
    *,
    tools: Sequence[str | bytes] = (),
    resources: Sequence[str] = (),
    templates: Sequence[str] = (),
    prompts: Sequence[str] = (),
    instructions: str | None = None,
) -> offers.Offers:
    """What a backend offers; tools by their names or as JSON. Resources and templates say whose they are."""
    listings = [
        offers.read_tools(one if isinstance(one, bytes) else tool(one, description=backend) for one in tools),
        offers.read_resources(json.dumps({"uri": uri, "name": backend}).encode() for uri in resources),
        offers.read_templates(json.dumps({"uriTemplate": uri, "name": backend}).encode() for uri in templates),
        offers.read_prompts(json.dumps({"name": name, "description": backend}).encode() for name in prompts),
    ]
    return offers.Offers(
        backend=backend,
        protocol_version="2025-11-25",
        instructions=instructions,
        tools=listings[0].offers,
        resources=listings[1].offers,
        templates=listings[2].offers,
        prompts=listings[3].offers,
        rejected=tuple(line for listing in listings for line in listing.rejected),
    )
