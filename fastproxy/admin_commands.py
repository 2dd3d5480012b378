"""The commands that ask or steer a running proxy: sessions list, show and end; backends; drain.

Each asks through admin_client.py and prints: aligned columns for people, or the JSON of the admin address for programs.
What does not come from us is printed without control characters, since a terminal would obey them.
"""

import json
from collections.abc import Callable, Iterable, Sequence

import click
import msgspec

from fastproxy import admin_client, flags
from fastproxy.config import units

SESSION_COLUMNS = (
    ("SESSION", ("session_id",)),
    ("BACKEND", ("backend_pod", "backend_url", "backends")),
    ("TRANSPORT", ("transport",)),
    ("PROTOCOL", ("protocol_version",)),
    ("GENERATION", ("generation",)),
    ("CREATED", ("created_at",)),
    ("UPDATED", ("updated_at",)),
)
BACKEND_COLUMNS = (
    ("URL", ("url",)),
    ("POD", ("pod",)),
    ("STATE", ("state",)),
    ("SESSIONS", ("sessions",)),
    ("IN-FLIGHT", ("in_flight",)),
    ("LAST ERROR", ("last_error",)),
)
GROUP_COLUMNS = (
    ("NAME", ("name",)),
    ("URL", ("url",)),
    ("STATE", ("state",)),
    ("HEALTH", ("health",)),
    ("ERA", ("era",)),
    ("SESSIONS", ("sessions",)),
    ("IN-FLIGHT", ("in_flight",)),
    ("LAST ERROR", ("last_error",)),
)
Columns = tuple[tuple[str, tuple[str, ...]], ...]


def _read_client(_context: click.Context, _parameter: click.Parameter, text: str) -> admin_client.AdminClient:
    try:
        return admin_client.AdminClient(admin_client.read_admin_address(text))
    except units.WrongValue as error:
        raise click.UsageError(f"--admin: {error}") from error


def _read_limit(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else int(str(units.count(minimum=1, maximum=1_000_000_000).read(text)))
    except units.WrongValue as error:
        raise click.UsageError(f"--limit: {error}") from error


def _read_output(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    try:
        return str(units.choice("table", "json").read(text))
    except units.WrongValue as error:
        raise click.UsageError(f"--output: {error}") from error


_admin = click.option(
    "--admin",
    "client",
    metavar="URL",
    envvar="FASTPROXY_ADMIN",
    default="http://127.0.0.1:9901",
    callback=_read_client,
    help="admin address of the running proxy, as a URL or HOST:PORT  [default: http://127.0.0.1:9901; FASTPROXY_ADMIN]",
)
_output = click.option(
    "--output",
    "-o",
    metavar="table|json",
    default="table",
    callback=_read_output,
    help="columns for people or JSON for programs  [default: table]",
)


@click.group(cls=flags.Group, no_args_is_help=False)
def sessions() -> None:
    """Ask a running proxy for its sessions, or end one."""


@sessions.command("list")
@_admin
@_output
@click.option("--limit", metavar="N", callback=_read_limit, help="stop after about so many  [default: all]")
@click.option("--cursor", metavar="CURSOR", help="go on where an earlier list has stopped")
def list_sessions(client: admin_client.AdminClient, output: str, limit: int | None, cursor: str | None) -> int:
    """All sessions, page by page."""
    pages = client.page_sessions(cursor, limit)
    if output == "json":
        records: list[object] = []
        following = None
        for page, after in pages:
            records += page
            following = after
        _print_json({"sessions": records, "next_cursor": following})
        return 0
    print_rows = _make_printer(SESSION_COLUMNS)
    following = None
    for page, after in pages:
        print_rows(page)
        following = after
    if following is not None:
        click.echo(f"fastproxy: there are more: --cursor {_clean(following)}", err=True)
    return 0


@sessions.command("show")
@_admin
@_output
@click.argument("session_id", metavar="ID")
def show_session(client: admin_client.AdminClient, output: str, session_id: str) -> int:
    """One session's record."""
    record = client.find_session(session_id) if session_id else None
    if record is None:
        raise _unknown(session_id)
    if output == "json":
        _print_json(record)
        return 0
    width = max(map(len, record), default=0)
    for name, value in record.items():
        legs = value if name == "backends" and isinstance(value, list) else []
        lines = [_write_leg(leg) for leg in legs] or [_write(value)]
        for number, line in enumerate(lines):
            click.echo(f"{_clean(name) if number == 0 else '':<{width}}  {line}")
    return 0


@sessions.command("end")
@_admin
@click.argument("session_id", metavar="ID")
def end_session(client: admin_client.AdminClient, session_id: str) -> int:
    """End a session, at its backend too."""
    if not session_id or not client.end_session(session_id):
        raise _unknown(session_id)
    click.echo("ended")
    return 0


@click.command()
@_admin
@_output
def backends(client: admin_client.AdminClient, output: str) -> int:
    """The replicas behind a running proxy, and how they are."""
    answer = client.list_backends()
    if output == "json":
        _print_json(answer)
        return 0
    rows = answer["backends"]
    assert isinstance(rows, list)
    of_a_group = any(isinstance(row, dict) and "name" in row for row in rows)
    _make_printer(GROUP_COLUMNS if of_a_group else BACKEND_COLUMNS)(rows)
    return 0


@click.command(short_help="Let a running proxy finish what it does and end.")
@_admin
@click.option("--wait", is_flag=True, help="return when the proxy has ended")
def drain(client: admin_client.AdminClient, wait: bool) -> int:
    """Let a running proxy finish what is under way and end, as SIGTERM does."""
    client.drain()
    if wait:
        client.await_end()
    click.echo("drained" if wait else "draining")
    return 0


def _unknown(session_id: str) -> admin_client.AdminError:
    return admin_client.AdminError(f"unknown session {units.quote(session_id)}")


def _make_printer(columns: Columns) -> Callable[[Iterable[object]], None]:
    """Prints rows under their heads, page by page: columns only ever grow, so that nothing waits for the last page."""
    widths = [len(head) for head, _ in columns]
    heads: list[Sequence[str]] = [[head for head, _ in columns]]

    def print_rows(page: Iterable[object]) -> None:
        rows = [*heads, *(_pick(columns, row) for row in page)]
        heads.clear()
        for row in rows:
            widths[:] = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
        for row in rows:
            cells = zip(row, widths, strict=True)
            click.echo("  ".join(f"{cell:<{width}}" for cell, width in cells).rstrip())

    return print_rows


def _pick(columns: Columns, row: object) -> list[str]:
    values = row if isinstance(row, dict) else {}
    return [
        _write(next((values[name] for name in names if values.get(name) is not None), None)) for _, names in columns
    ]


def _write(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list) and value and all(isinstance(one, dict) and "backend_id" in one for one in value):
        return ", ".join(_write(one["backend_id"]) for one in value)  # the legs of a group's session
    return _clean(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _write_leg(leg: object) -> str:
    """A session's session at one backend of a group."""
    members = leg if isinstance(leg, dict) else {}
    return "  ".join(_write(members.get(name)) for name in ("backend_id", "backend_session_id", "protocol_version"))


def _clean(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _print_json(document: object) -> None:
    # Control characters of C1 are plain characters to JSON, but not to a terminal.
    text = msgspec.json.format(msgspec.json.encode(document)).decode()
    shown = (
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1] for character in text
    )
    click.echo("".join(shown))
