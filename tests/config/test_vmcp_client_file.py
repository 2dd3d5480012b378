"""A client's mcp.json, as clients write it, becomes a group; what cannot be used is named without showing a secret.

Documents are given as values; nothing else is needed.
"""

from typing import Any

import pytest

from fastproxy.config import vmcp_client_file, vmcp_place, vmcp_schema

ENVIRON = {"TOKEN": "hunter2", "EMPTY": "", "HOST": "h.example"}


def read(servers: Any) -> tuple[vmcp_schema.Group, list[str]]:
    notes = vmcp_place.Notes()
    group = vmcp_client_file.read(vmcp_place.Place(notes, ENVIRON), {"mcpServers": servers, "other": 1})
    return group, notes.problems


def one(entry: object) -> vmcp_schema.BackendConfig:
    group, problems = read({"it": entry})
    assert not problems
    (backend,) = group.backends
    return backend


def test_servers_of_every_kind_load_unchanged_under_their_names() -> None:
    group, problems = read(
        {
            "files": {
                "command": "npx",
                "args": ["-y", "server", ""],
                "env": {"A": "1", "B": ""},
                "cwd": "/tmp",
                "alwaysAllow": ["x"],
            },
            "My Web (beta)": {"type": "http", "url": "https://h/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}},
            "old": {"type": "sse", "url": "http://h:1/events"},
            "off": {"command": "x", "disabled": True},
            "also off": {"url": "nonsense", "enabled": False},
        }
    )
    assert not problems
    web, files, old = group.backends
    assert (web.id, web.transport, web.headers[0].value) == ("My Web (beta)", "streamable-http", "Bearer hunter2")
    assert (files.transport, files.command, files.directory) == ("stdio", ("npx", "-y", "server", ""), "/tmp")
    assert [(one.name, one.value) for one in files.environ] == [("A", "1"), ("B", "")]
    assert (old.transport, str(old.url)) == ("sse", "http://h:1/events")
    assert group.aggregation == vmcp_schema.Aggregation() and group.name is None


@pytest.mark.parametrize(
    ("entry", "transport"),
    [
        ({"url": "http://h/mcp"}, "streamable-http"),
        ({"url": "http://h/sse"}, "sse"),
        ({"type": "http", "url": "http://h/sse"}, "streamable-http"),
        ({"type": "streamable-http", "url": "http://h/mcp"}, "streamable-http"),
        ({"type": "streamableHttp", "url": "http://h/mcp"}, "streamable-http"),
        ({"transport": "sse", "url": "http://h/x"}, "sse"),
        ({"command": "x"}, "stdio"),
        ({"type": "stdio", "command": "x"}, "stdio"),
    ],
)
def test_the_transport_is_what_it_says_or_what_its_members_show(entry: object, transport: str) -> None:
    assert one(entry).transport == transport


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${TOKEN}", "hunter2"),
        ("${env:TOKEN}", "hunter2"),
        ("${NOPE:-other}", "other"),
        ("${NOPE:-}x", "x"),
        ("${TOKEN:-other}", "hunter2"),
        ("$TOKEN and ${}", "$TOKEN and ${}"),
    ],
)
def test_variables_are_replaced_as_clients_do(text: str, expanded: str) -> None:
    assert one({"command": "x", "args": [text]}).command == ("x", expanded)


def test_variables_may_stand_in_a_url() -> None:
    url = one({"url": "https://${HOST}/mcp?key=${TOKEN}"}).url
    assert url and (url.host, url.target, str(url)) == (
        "h.example",
        "/mcp?key=hunter2",
        "https://h.example:443/mcp?***",
    )


def test_a_server_at_the_root_stays_there_and_one_that_is_switched_off_is_no_mistake() -> None:
    url = one({"url": "https://mcp.example.com"}).url
    assert url and url.target == "/"
    notes = vmcp_place.Notes()
    vmcp_client_file.read(vmcp_place.Place(notes, {}), {"mcpServers": {"a": {"command": "x", "disabled": True}}})
    assert (notes.problems, len(notes.doubts)) == ([], 1)


@pytest.mark.parametrize(
    ("servers", "problem"),
    [
        ([], "mcpServers: expected a section of servers, got a list"),
        ({}, "mcpServers: expected at least one server, got nothing"),
        ({"a": []}, "mcpServers.a: expected a section, got a list"),
        ({"a b": {}}, "mcpServers.'a b': expected either a url or a command, got neither"),
        ({"a": {"url": "http://h", "command": "x"}}, "mcpServers.a: expected either a url or a command, got both"),
        ({"a": {"type": "ws", "url": "ws://h"}}, "mcpServers.a.type: expected http, sse or stdio, got 'ws'"),
        ({"a": {"url": "h"}}, "mcpServers.a.url: expected a URL that begins with http:// or https://, got 'h'"),
        ({"a": {"url": 5}}, "mcpServers.a.url: expected text (put it in quotes)"),
        ({"a": {"type": "http"}}, "mcpServers.a.url: expected text"),
        ({"a": {"type": "stdio"}}, "mcpServers.a.command: expected text"),
        ({"a": {"command": ""}}, "mcpServers.a.command: expected text, got nothing"),
        ({"a": {"command": "x", "args": "y"}}, "mcpServers.a.args: expected a list, got 'y'"),
        ({"a": {"command": "x", "args": [5]}}, "mcpServers.a.args[0]: expected text (put it in quotes)"),
        ({"a": {"command": "x", "env": ["A=1"]}}, "mcpServers.a.env: expected a section, got a list"),
        ({"a": {"command": "x", "env": {"PIN": 1234}}}, "mcpServers.a.env.PIN: expected text (put it in quotes)"),
        ({"a": {"url": "http://h", "headers": {"Host": "x"}}}, "mcpServers.a.headers.Host: expected a header that is"),
        ({"a": {"url": "http://h", "headers": {"X": "hunter2\n"}}}, "mcpServers.a.headers.X: expected the value of a"),
        ({"a": {"url": "http://h/${NOPE}"}}, "mcpServers.a.url: expected the variable NOPE to be set"),
        (
            {"a": {"command": "x", "env": {"K": "${EMPTY}"}}},
            "mcpServers.a.env.K: expected the variable EMPTY to be set",
        ),
        ({"a": {"command": "${input:key}"}}, "mcpServers.a.command: expected no ${input:…}"),
        ({"": {"command": "x"}}, "mcpServers.'': expected a name of at most 128 printable characters"),
    ],
)
def test_what_cannot_be_used_is_named(servers: object, problem: str) -> None:
    _, problems = read(servers)
    assert len(problems) == 1 and problems[0].startswith(problem), problems
    assert "hunter2" not in problems[0]
