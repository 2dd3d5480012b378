"""The command line: reads what the owner wants and hands it to the room that does it. Nobody imports it.

Exit codes: 0 done; 1 a failure while running; 2 wrong usage or configuration, one line per problem on standard error;
130 interrupted. Every line of ours there begins with the program's name, and no traceback is ever an answer to input.
Commands: serve and validate here, those that ask a running proxy in admin_commands.py, those around Kubernetes in
operator_commands.py.
"""

import difflib
import importlib
import os
import re
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import click

import fastproxy
from fastproxy import admin_commands, errors, flags, operator_commands, pipe_command
from fastproxy.config import document, load, schema, vmcp_flags, vmcp_load, watch

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


@click.group(
    cls=flags.Group,
    context_settings={"max_content_width": 110},
    no_args_is_help=False,
    epilog="""\b
Examples:
  fastproxy serve --backend http://127.0.0.1:8001 --backend http://127.0.0.1:8002
  fastproxy vmcp --backend github=http://127.0.0.1:8001/mcp --backend docs=http://127.0.0.1:8002/mcp
  fastproxy sessions list
  fastproxy validate proxy.yaml
""",
)
@click.version_option(fastproxy.__version__, prog_name="fastproxy", message="%(prog)s %(version)s")
def program() -> None:
    """The session-aware proxy for MCP servers."""


def _serve(given: dict[str, object]) -> int:
    watched = watch.Watch(given, os.environ)
    loaded = watched.load()
    _complain(f"warning: {warning}" for warning in loaded.warnings)
    return _run(loaded.config, watched)


def _run(config: schema.ServeConfig, watched: watch.Watch) -> int:
    server = _import("fastproxy.proxy.server" if config.workers == 1 else "fastproxy.proxy.workers")
    return int(server.run(config, watched))


def _serve_group(given: dict[str, object]) -> int:
    loaded = vmcp_load.load(given, os.environ, _check_composites)
    _complain(f"warning: {warning}" for warning in loaded.warnings)
    return int(_import("fastproxy.vmcp.server").run(loaded.config))


def _check_composites(definitions: Sequence[Mapping[str, object]]) -> tuple[Iterable[str], Iterable[str]]:
    """Problems and doubts of `compositeTools`. Where there are none, nothing of that room is loaded."""
    if not definitions:
        return (), ()
    checked = _import("fastproxy.vmcp.composite.validation").check(definitions)
    return checked.problems, checked.doubts


def _import(room: str) -> types.ModuleType:
    # Loaded late: no other command should pay for the event loop, the store's client and the compiled core.
    try:
        return importlib.import_module(room)
    except ImportError as error:
        raise errors.StartError(f"{error} (is fastproxy built and installed? pip install . does both)") from error


program.add_command(
    flags.SettingsCommand(
        "serve",
        schema.SETTINGS,
        act=_serve,
        summary="Proxy of one MCP server with one or more replicas.",
        help="""Session-aware proxy of one MCP server: every request of a session reaches the replica that owns it.

A flag wins over its environment variable, that over the file. Several values of a repeatable flag are separated by
commas in the environment, and are a list in the file. Durations: 250ms, 5s, 30m, 2h or seconds; sizes: 512KiB, 8MiB or
bytes.

\b
A backend is an MCP server that speaks streamable HTTP or legacy HTTP+SSE:
  http://HOST:PORT[/PATH]  or  https://…     one replica
  dns://NAME:PORT[?srv=http]                 what DNS names, asked again and again
  statefulset://NAME.SERVICE.NAMESPACE:PORT?replicas=N[&domain=cluster.local]
                                             NAME-0, NAME-1 … by headless Service

After -- stands a stdio MCP server to start instead.
""",
        epilog="""\b
Examples:
  fastproxy serve --backend http://127.0.0.1:8001 --backend http://127.0.0.1:8002
  fastproxy serve --listen 0.0.0.0:8080 --allowed-host mcp.example.com \\
      --backend 'statefulset://mcp.mcp-headless.default:8000?replicas=3' \\
      --store redis://redis:6379/0
  fastproxy serve --config proxy.yaml --log-level debug
  fastproxy serve --stdio-mode shared -- npx -y @modelcontextprotocol/server-everything
""",
        takes_command=True,
    )
)
program.add_command(
    flags.SettingsCommand(
        "vmcp",
        vmcp_flags.SETTINGS,
        act=_serve_group,
        summary="Many MCP servers as one.",
        help="""Many MCP servers as one, at /mcp: their tools, resources and prompts under one set of names.

A client has one session, which any replica of this program serves; what each server behind keeps for it stays there.
Servers come by flags, or by a file:

\b
  --backend NAME=URL        a server by the URL of its MCP endpoint; its tools become NAME_tool
  --config group.yaml       ToolHive's vMCP format: names and conflicts, filters, overrides, timeouts, health,
                            composite tools
  --config mcp.json         what a client's mcpServers lists, unchanged

A flag wins over its environment variable, that over the file. Durations: 250ms, 5s, 30m, 2h or seconds; sizes: 512KiB,
8MiB or bytes.

\b
A file begins like this:
  name: tools
  groupRef: tools
  backends:
    - {name: github, url: "http://127.0.0.1:8001/mcp", transport: streamable-http}
    - {name: docs, url: "http://127.0.0.1:8002/mcp", transport: streamable-http}
  incomingAuth: {type: anonymous}
  outgoingAuth: {source: inline}
  aggregation:
    conflictResolution: prefix                  # or priority, manual
    conflictResolutionConfig: {prefixFormat: "{workload}_"}
""",
        epilog="""\b
Examples:
  fastproxy vmcp --backend github=http://127.0.0.1:8001/mcp --backend docs=http://127.0.0.1:8002/mcp
  fastproxy vmcp --config ~/.cursor/mcp.json
  fastproxy vmcp --config group.yaml --listen 0.0.0.0:8080 --allowed-host mcp.example.com \\
      --store redis://redis:6379/0
  fastproxy validate group.yaml
""",
    )
)
for _command in (admin_commands.sessions, admin_commands.backends, admin_commands.drain):
    program.add_command(_command)
for _command in (
    pipe_command.stdio,
    operator_commands.operator,
    operator_commands.crds,
    operator_commands.render,
    operator_commands.inject,
):
    program.add_command(_command)


@program.command("validate")
@click.argument("file", metavar="FILE")
def _validate(file: str) -> int:
    """Check a configuration file and name every problem in it.

    Exit code 0: it is good; 1: it is not; 2: it cannot be read.
    """
    sort = "serve"
    try:
        if document.looks_like_vmcp(document.read(file).values):
            sort, notes = vmcp_load.validate(file, os.environ, _check_composites)
        else:
            notes = load.validate(file)
    except document.Unreadable:
        raise
    except errors.ConfigError as error:
        _print_lines(error.problems)
        return EXIT_FAILURE
    _print_lines(f"{note}" for note in notes)
    click.echo(f"{file}: OK ({sort})")
    return 0


def main() -> NoReturn:
    """The console script."""
    try:
        code = program.main(prog_name="fastproxy", standalone_mode=False)
    except click.UsageError as error:
        _complain([_flatten(error)])
        code = EXIT_USAGE
    except errors.ConfigError as error:
        _complain(error.problems)
        code = EXIT_USAGE
    except errors.FastproxyError as error:
        _complain([str(error)])
        code = EXIT_FAILURE
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    sys.exit(code)


def _flatten(error: click.UsageError) -> str:
    """click's words as one line in our manner, with what was probably meant or the place to look at."""
    message = error.message if isinstance(error, click.NoSuchOption) else error.format_message()
    message = re.sub(r"\s+", " ", message).strip().removesuffix(".")
    message = message[:1].lower() + message[1:]
    if isinstance(error, click.NoSuchOption) and error.possibilities:
        (closest,) = difflib.get_close_matches(error.option_name, error.possibilities, n=1, cutoff=0)
        return f"{message} (did you mean {closest}?)"
    path = error.ctx.command_path if error.ctx else "fastproxy"
    return message if message.endswith("?)") else f"{message} (see {path} --help)"


def _complain(lines: Iterable[str]) -> None:
    _print_lines(f"fastproxy: {line}" for line in lines)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        # The name of a file may hold a line break: one problem is one line all the same.
        click.echo("".join(character if character.isprintable() else "?" for character in line), err=True)
