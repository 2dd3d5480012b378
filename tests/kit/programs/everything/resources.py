"""Resources: one text, one picture, one to be watched, one template."""

import base64
import json
import re

import mcp_types as types
from everything import content
from mcp.shared.exceptions import MCPError

TEMPLATE = types.ResourceTemplate(
    uri_template="test://template/{id}/data",
    name="template",
    description="Repeats the id of its address",
    mime_type="application/json",
)
TEMPLATE_PATTERN = re.compile(r"test://template/([^/]+)/data")
TEXTS = {
    "test://static-text": "This is the content of the static text resource.",
    "test://watched-resource": "Watched",
}
PICTURE = "test://static-binary"
RESOURCES = (
    types.Resource(uri="test://static-text", name="static-text", description="A text", mime_type="text/plain"),
    types.Resource(uri=PICTURE, name="static-binary", description="A picture", mime_type="image/png"),
    types.Resource(uri="test://watched-resource", name="watched", description="A text", mime_type="text/plain"),
)


def read(uri: str) -> types.TextResourceContents | types.BlobResourceContents:
    if uri in TEXTS:
        return types.TextResourceContents(uri=uri, mime_type="text/plain", text=TEXTS[uri])
    if uri == PICTURE:
        blob = base64.b64encode(content.PICTURE).decode()
        return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=blob)
    matched = TEMPLATE_PATTERN.fullmatch(uri)
    if matched is None:
        raise MCPError(types.INVALID_PARAMS, "resource not found", {"uri": uri})
    data = {"id": matched[1], "templateTest": True, "data": f"Data for ID: {matched[1]}"}
    return types.TextResourceContents(uri=uri, mime_type="application/json", text=json.dumps(data))
