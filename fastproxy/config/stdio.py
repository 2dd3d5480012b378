"""What a stdio server is started with, as files write it: words, `command` with `args`, `env`, an entry of `mcp.json`.

    command: npx                       {"mcpServers": {"files": {"command": "npx", "args": ["-y", "…"], "env": {…}}}}
    args: [-y, some-server, /data]
    env: {TOKEN: secret}

Clients' files have one entry per server: `serve` takes the only one, or the one that --name names. Sans-io.
"""

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from fastproxy.config import address, units
from fastproxy.config.setting import describe

WORD_CHARACTERS_MAX = 32768
_VARIABLE = re.compile(r"[^=\0]+")


def _read_word(value: object) -> str:
    if not isinstance(value, str):
        raise units.WrongValue(f"expected a word of a command, got {units.quote(value)} (put it in quotes)")
    if "\0" in value or len(value) > WORD_CHARACTERS_MAX:
        raise units.WrongValue(f"expected a word of a command, without NUL and of at most {WORD_CHARACTERS_MAX}")
    return value


def _read_environment(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise units.WrongValue(f"expected names with values, as in {{TOKEN: secret}}, got {units.quote(value)}")
    read = []
    for name, text in value.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise units.WrongValue(f"expected the name of a variable, got {units.quote(name)}")
        if not isinstance(text, str) or "\0" in text:
            raise units.WrongValue(f"{units.quote(name)}: expected text (a number has to be put in quotes)")
        read.append((name, text))
    return tuple(read)


def _mask_environment(value: object) -> object:
    assert isinstance(value, tuple)
    return dict.fromkeys((name for name, _ in value), "***")


WORD = units.Kind("COMMAND", _read_word, str)
ENVIRONMENT = units.Kind("MAP", _read_environment, _mask_environment)


class StdioConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a stdio server, a part of those of `serve`."""

    command: Annotated[
        tuple[str, ...],
        describe(
            "Stdio servers",
            WORD,
            "instead of backends: start this stdio MCP server and bridge it; on the command line it stands after --, "
            "in a file it is a list, or a word with args beside it",
            restart=True,
            flag=False,
            variable=False,
            repeatable=True,
        ),
    ] = ()
    env: Annotated[
        tuple[tuple[str, str], ...],
        describe(
            "Stdio servers",
            ENVIRONMENT,
            "variables of the stdio server, beside those of the proxy",
            restart=True,
            flag=False,
            variable=False,
        ),
    ] = ()
    cwd: Annotated[
        str | None,
        describe(
            "Stdio servers",
            units.path(),
            "working directory of the stdio server",
            default="the proxy's",
            restart=True,
            flag=False,
            variable=False,
        ),
    ] = None
    stdio_mode: Annotated[
        str,
        describe(
            "Stdio servers",
            units.choice("per-session", "shared", "pool"),
            "a process for each session, so that all of MCP passes; one for all sessions; or some for all. Those that "
            "are shared carry no sampling, elicitation, roots, logging and tasks",
            restart=True,
        ),
    ] = "per-session"
    stdio_max_processes: Annotated[
        int | None,
        describe(
            "Stdio servers",
            units.count(minimum=1, maximum=100_000),
            "of the stdio server, spares included, at a time and proxy process; a session that would need one more is "
            "refused, in a pool it shares one",
            default="100; in a pool 4",
            restart=True,
        ),
    ] = None
    stdio_spares: Annotated[
        int,
        describe(
            "Stdio servers",
            units.count(minimum=0, maximum=1000),
            "processes that wait warm for the next session",
            restart=True,
        ),
    ] = 0
    stdio_max_line: Annotated[
        int,
        describe(
            "Stdio servers",
            units.size(minimum_bytes=1 << 10, maximum_bytes=1 << 30),
            "a message of the stdio server beyond that ends its process: nobody knows where the next one begins",
            restart=True,
        ),
    ] = 16 << 20
    stdio_address: Annotated[
        address.Address | None,
        describe(
            "Stdio servers",
            address.LISTEN,
            "where this replica of the proxy serves sessions whose process it has to the others, which must reach it "
            "by that address; port 0: any",
            default="the address of this machine towards the store, any port",
            restart=True,
        ),
    ] = None


_OF_AN_ENTRY = ("command", "args", "env", "cwd")


def take_entry(values: Mapping[str, object], name: str, problems: list[str]) -> dict[str, object]:
    """The settings in a client's `mcp.json`; what its entry says beside is the client's own."""
    entries = values["mcpServers"]
    if not isinstance(entries, Mapping) or not entries:
        problems.append("mcpServers: expected an entry for a server")
        return {}
    if not name and len(entries) > 1:
        problems.append(f"mcpServers: expected one server, got {len(entries)} (say which by --name)")
        return {}
    chosen = name if name in entries or len(entries) > 1 else str(next(iter(entries)))
    entry = entries.get(chosen)
    if not isinstance(entry, Mapping):
        problems.append(f"mcpServers: expected an entry {units.quote(chosen)}")
        return {}
    if "command" not in entry:
        problems.append(f"mcpServers: {units.quote(chosen)}: expected a command (for one at a URL give --backend)")
        return {}
    return {key: entry[key] for key in _OF_AN_ENTRY if key in entry}


def join_command(values: dict[str, object]) -> dict[str, object]:
    """`command` and `args` as the one list that `command` is."""
    command, arguments = values.get("command"), values.get("args")
    if isinstance(command, str):
        command = [command]
    if isinstance(command, list) and isinstance(arguments, list):
        command = [*command, *arguments]
        arguments = None
    joined = {key: value for key, value in values.items() if key not in ("command", "args")}
    if command is not None:
        joined["command"] = command
    if arguments is not None:
        joined["args"] = arguments  # nothing to join it to: it is called unknown
    return joined
