"""Authentication in a vMCP file: who may come in, and what is said to backends.

    incomingAuth   anonymous; whatever asks for more is refused by its name
    outgoingAuth   a default strategy and one per backend ─> headers of every request there

Values of headers are secrets: no message here repeats one. Sans-io.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from fastproxy.config import units, vmcp_headers, vmcp_schema
from fastproxy.config import vmcp_place as places
from fastproxy.config.vmcp_place import INVALID, Place, Row

_SUPPORTED_STRATEGIES = {
    "unauthenticated": "unauthenticated",
    "header_injection": "header_injection",
    "headerInjection": "header_injection",  # as custom resources write it
}
_OTHER_STRATEGIES = (
    *("token_exchange", "tokenExchange", "upstream_inject", "upstreamInject", "aws_sts", "awsSts"),
    *("obo", "xaa"),
)


class Outgoing(msgspec.Struct, frozen=True):
    """Headers for backends: those of the default strategy, and by name of the backend."""

    default: tuple[vmcp_schema.Header, ...] = ()
    backends: Mapping[str, tuple[vmcp_schema.Header, ...]] = {}


def _make_outgoing(place: Place, values: dict[str, Any]) -> object:
    return Outgoing(values["default"], values["backends"])


def _read_source(place: Place, raw: object) -> object:
    if raw == "discovered":
        return place.refuse("not supported yet: discovered (backends are listed in the file: inline)")
    return raw if raw == "inline" else place.refuse(f"expected inline, got {units.quote(raw)}")


def _read_strategy(place: Place, raw: object) -> object:
    """Headers that a strategy adds."""
    values = places.read_section(place, raw, _STRATEGY)
    kind = values["type"]
    if place.is_refused:
        return INVALID  # what is missing may well be what could not be read
    nested = values["headerInjection"] or {}
    for key, value in nested.items():
        if value is not None and values[key] is not None:
            place.key("headerInjection").key(key).refuse("expected it once, here or beside the type")
    given = {key: values[key] if values[key] is not None else nested.get(key) for key in _HEADER}
    if kind == "unauthenticated":
        for key, value in given.items():
            if value is not None:
                place.key(key).refuse("expected it only with type: header_injection")
        return ()
    return _make_header(place, given)


def _make_header(place: Place, given: Mapping[str, Any]) -> object:
    name, value, variable = given["headerName"], given["headerValue"], given["headerValueEnv"]
    if name is None:
        place.key("headerName").refuse("expected the name of a header, got nothing")
    if (value is None) == (variable is None):
        found = "neither" if value is None else "both"
        place.refuse(f"expected exactly one of headerValue and headerValueEnv, got {found}")
    elif value is None:
        value = place.environ.get(variable, "")
        at = place.key("headerValueEnv")
        if not value:
            at.refuse(f"expected the variable {variable} to be set in the environment")
        else:
            value = places.value(vmcp_headers.VALUE)(at, value)
    if place.is_refused:
        return INVALID
    return (vmcp_schema.Header(name, value),)


def _read_strategy_type(place: Place, raw: object) -> object:
    if isinstance(raw, str) and raw in _SUPPORTED_STRATEGIES:
        return _SUPPORTED_STRATEGIES[raw]
    if raw in _OTHER_STRATEGIES:
        return place.refuse(f"not supported yet: {raw} (header_injection and unauthenticated are)")
    return place.refuse(f"expected unauthenticated or header_injection, got {units.quote(raw)}")


def _read_header_block(place: Place, raw: object) -> object:
    return places.read_section(place, raw, _HEADER)


def _read_incoming_type(place: Place, raw: object) -> object:
    if raw in ("oidc", "local"):
        return place.refuse(f"not supported yet: {raw} (anonymous is)")
    return raw if raw == "anonymous" else place.refuse(f"expected anonymous, got {units.quote(raw)}")


def _read_authorization(place: Place, raw: object) -> object:
    if isinstance(raw, dict) and raw.get("type") == "none" and len(raw) == 1:
        return INVALID
    return place.refuse("not supported yet (type: none is)")


_HEADER: Mapping[str, Row] = {
    "headerName": Row(places.value(vmcp_headers.INJECTED)),
    "headerValue": Row(places.value(vmcp_headers.VALUE)),
    "headerValueEnv": Row(places.value(units.text("NAME", pattern=r"[A-Za-z_][A-Za-z0-9_]*", expected="a variable"))),
}
_STRATEGY: Mapping[str, Row] = {
    "type": Row(_read_strategy_type, required="unauthenticated or header_injection"),
    **_HEADER,
    "headerInjection": Row(_read_header_block),
    **{key: Row(places.unsupported()) for key in ("tokenExchange", "upstreamInject", "awsSts", "obo", "xaa")},
}
_INCOMING: Mapping[str, Row] = {
    "type": Row(_read_incoming_type, required="anonymous"),
    "oidc": Row(places.unsupported()),
    "authz": Row(_read_authorization),
}
_OUTGOING: Mapping[str, Row] = {
    "source": Row(_read_source, required="inline"),
    "default": Row(_read_strategy, default=()),
    "backends": Row(places.table(_read_strategy), default={}),
}
INCOMING = places.section(_INCOMING, lambda place, values: values)
OUTGOING = places.section(_OUTGOING, _make_outgoing)
