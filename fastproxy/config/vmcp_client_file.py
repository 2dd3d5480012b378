"""A client's mcp.json as a group: what `mcpServers` lists, unchanged, under the names that it has there.

    {"mcpServers": {"NAME": {"url": …, "headers": …} | {"command": …, "args": […], "env": {…}}}}

Clients add members of their own, so that unknown ones are ignored here, alone among configuration formats; an entry
that is switched off (`disabled`, `enabled: false`) is left out. `${VARIABLE}` and `${VARIABLE:-otherwise}` are replaced
from the environment, as clients do. Every tool is offered as NAME_tool. Sans-io.
"""

import re
from collections.abc import Mapping
from typing import Any

from fastproxy.config import units, vmcp_backend, vmcp_headers, vmcp_schema
from fastproxy.config.vmcp_place import INVALID, Place

NAME_CHARACTERS_MAX = 128
_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_TRANSPORTS = {
    **dict.fromkeys(("http", "streamable-http", "streamableHttp", "streamable_http"), vmcp_schema.STREAMABLE),
    "sse": vmcp_schema.SSE,
    "stdio": vmcp_schema.STDIO,
}


def is_client_file(values: Mapping[str, object]) -> bool:
    """Told by its content."""
    return "mcpServers" in values


def read(place: Place, values: Mapping[str, object]) -> vmcp_schema.Group:
    """The group. What is wrong is noted at its place."""
    at = place.key("mcpServers")
    servers = values["mcpServers"]
    if not isinstance(servers, dict):
        at.refuse(f"expected a section of servers, got {units.quote(servers)}")
        return vmcp_schema.Group()
    if not servers:
        at.refuse("expected at least one server, got nothing")
    backends = [_read_server(at.key(str(name)), name, entry) for name, entry in servers.items()]
    kept = [one for one in backends if isinstance(one, vmcp_schema.BackendConfig)]
    if servers and not kept and not place.notes.problems:
        at.doubt("every server is switched off: nothing will be offered")
    return vmcp_schema.Group(backends=tuple(sorted(kept, key=lambda one: one.id)))


def _read_server(place: Place, name: object, entry: object) -> object:
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > NAME_CHARACTERS_MAX:
        return place.refuse(f"expected a name of at most {NAME_CHARACTERS_MAX} printable characters")
    if not isinstance(entry, dict):
        return place.refuse(f"expected a section, got {units.quote(entry)}")
    if entry.get("disabled") is True or entry.get("enabled") is False:
        return INVALID
    transport = _read_transport(place, entry)
    if transport is INVALID:
        return INVALID
    if transport == vmcp_schema.STDIO:
        return _read_command(place, name, entry)
    return _read_remote(place, name, entry, transport)


def _read_transport(place: Place, entry: Mapping[str, object]) -> Any:
    """As it says, or as its other members show."""
    key = "transport" if "type" not in entry and "transport" in entry else "type"
    said = entry.get(key)
    url, command = entry.get("url") is not None, entry.get("command") is not None
    if said is not None:
        if not isinstance(said, str) or said not in _TRANSPORTS:
            return place.key(key).refuse(f"expected http, sse or stdio, got {units.quote(said)}")
        return _TRANSPORTS[said]
    if url == command:
        return place.refuse(f"expected either a url or a command, got {'both' if url else 'neither'}")
    if command:
        return vmcp_schema.STDIO
    path = str(entry["url"]).partition("?")[0]
    return vmcp_schema.SSE if path.endswith("/sse") else vmcp_schema.STREAMABLE


def _read_remote(place: Place, name: str, entry: Mapping[str, object], transport: str) -> object:
    headers = []
    for key, raw in _members(place.key("headers"), entry.get("headers")).items():
        at = place.key("headers").key(key)
        value = _expand(at, raw)
        if value is INVALID:
            continue
        try:
            headers.append(vmcp_schema.Header(vmcp_headers.read_injected(key), vmcp_headers.read_value(value)))
        except units.WrongValue as wrong:
            at.refuse(str(wrong))
    url = _expand(place.key("url"), entry.get("url"))
    if url is INVALID:
        return INVALID
    try:
        read_url = vmcp_backend.read_url(url)
    except units.WrongValue as wrong:
        return place.key("url").refuse(str(wrong))
    return vmcp_schema.BackendConfig(
        id=name, transport=transport, url=read_url, headers=tuple(headers), timeout_seconds=0.0
    )


def _read_command(place: Place, name: str, entry: Mapping[str, object]) -> object:
    words = entry.get("args")
    if words is not None and not isinstance(words, list):
        return place.key("args").refuse(f"expected a list, got {units.quote(words)}")
    at = place.key("args")
    command = [_expand(place.key("command"), entry.get("command"))]
    command += [_expand(at.item(index), word, empty=True) for index, word in enumerate(words or ())]
    variables = []
    for key, raw in _members(place.key("env"), entry.get("env")).items():
        value = _expand(place.key("env").key(key), raw, empty=True)
        if value is not INVALID:
            variables.append(vmcp_schema.Header(key, value))
    directory = None if entry.get("cwd") is None else _expand(place.key("cwd"), entry["cwd"])
    if INVALID in command or directory is INVALID:
        return INVALID
    return vmcp_schema.BackendConfig(
        id=name,
        transport=vmcp_schema.STDIO,
        command=tuple(command),
        environ=tuple(variables),
        directory=directory,
        timeout_seconds=0.0,
    )


def _members(place: Place, raw: object) -> dict[str, object]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        place.refuse(f"expected a section, got {units.quote(raw)}")
        return {}
    return {str(key): value for key, value in raw.items()}


def _expand(place: Place, raw: object, *, empty: bool = False) -> Any:
    """Text with its variables replaced. Never shown in a message: it may hold a key."""
    if not isinstance(raw, str):
        hint = " (put it in quotes)" if isinstance(raw, bool | int | float) else ""
        return place.refuse(f"expected text{hint}")
    if not raw and not empty:
        return place.refuse("expected text, got nothing")
    if "${input:" in raw:
        return place.refuse("expected no ${input:…}: there is nobody to be asked (use ${VARIABLE})")
    problems = len(place.notes.problems)
    for match in _VARIABLE.finditer(raw):
        if match[2] is None and not place.environ.get(match[1]):
            place.refuse(f"expected the variable {match[1]} to be set in the environment")
    if len(place.notes.problems) > problems:
        return INVALID
    expanded = _VARIABLE.sub(lambda match: place.environ.get(match[1]) or match[2] or "", raw)
    return expanded if "\0" not in expanded else place.refuse("expected text without a zero byte")
