"""The command `stdio`: a server behind a URL, for clients that know only programs.

It reads what it is told by flags and the environment, and leaves the rest to pipe.py, which is loaded late.
"""

import importlib
import re
from urllib.parse import urlsplit

import click

from fastproxy import errors
from fastproxy.config import units

_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\t -~\x80-\xff]*)")
_SECRET = ("authorization", "cookie", "proxy-authorization")
_OURS = ("host", "content-length", "content-type", "accept", "accept-encoding", "connection", "transfer-encoding")


def _read_url(text: str) -> str:
    parts = urlsplit(text)
    try:
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and text.isascii()
    except ValueError:
        sound = False
    if not sound or not text.isprintable() or " " in text:
        raise errors.ConfigError([f"--url: expected http://… or https://…, got {units.quote(text.partition('?')[0])}"])
    if "@" in parts.netloc or parts.fragment:
        raise errors.ConfigError(["--url: expected a URL without user, password and fragment"])
    return text


def _read_header(text: str, *, shown: bool) -> tuple[bytes, bytes]:
    match = _HEADER.fullmatch(text.strip())
    place = "--header" if shown else "FASTPROXY_HEADER"
    if match is None:
        raise errors.ConfigError([f"{place}: expected NAME: VALUE"])
    name = match[1].lower()
    if name in _OURS or name.startswith("mcp-"):
        raise errors.ConfigError([f"{place}: {match[1]} is the protocol's own"])
    if shown and name in _SECRET:
        raise errors.ConfigError(
            [f"{place}: expected no {match[1]} in a flag, where ps shows it (give it by FASTPROXY_HEADER)"]
        )
    return match[1].encode("ascii"), match[2].strip().encode("latin-1")


@click.command("stdio", short_help="A stdio server that is really a server at a URL.")
@click.option("--url", metavar="URL", envvar="FASTPROXY_URL", required=True, help="its MCP endpoint  [FASTPROXY_URL]")
@click.option(
    "--header",
    "headers",
    metavar="NAME:VALUE",
    multiple=True,
    help="sent with every request; credentials only by FASTPROXY_HEADER, one to a line  [repeatable]",
)
@click.option(
    "--ca", metavar="FILE", envvar="FASTPROXY_CA", help="PEM file of authorities for https  [default: system]"
)
@click.option(
    "--response-timeout",
    metavar="DURATION",
    envvar="FASTPROXY_RESPONSE_TIMEOUT",
    default="300s",
    help="for an answer  [default: 300s; FASTPROXY_RESPONSE_TIMEOUT]",
)
@click.option(
    "--log-level",
    metavar="debug|info|warning|error",
    envvar="FASTPROXY_LOG_LEVEL",
    default="warning",
    help="the least weight that is logged, on standard error  [default: warning; FASTPROXY_LOG_LEVEL]",
)
@click.option("--more-headers", envvar="FASTPROXY_HEADER", hidden=True, default="")
def stdio(
    url: str, headers: tuple[str, ...], ca: str | None, response_timeout: str, log_level: str, more_headers: str
) -> int:
    """Speak MCP on standard input and output for a server at a URL.

    For clients that can only start programs: both eras of the protocol, streamable HTTP and the older HTTP+SSE.

    \b
    {"mcpServers": {"remote": {"command": "fastproxy", "args": ["stdio", "--url", "https://mcp.example.com/mcp"],
                               "env": {"FASTPROXY_HEADER": "Authorization: Bearer …"}}}}
    """
    try:
        seconds = units.duration(minimum_seconds=0.001).read(response_timeout)
    except units.WrongValue as error:
        raise errors.ConfigError([f"--response-timeout: {error}"]) from error
    try:
        level = units.choice("debug", "info", "warning", "error").read(log_level)
    except units.WrongValue as error:
        raise errors.ConfigError([f"--log-level: {error}"]) from error
    fields = [_read_header(text, shown=True) for text in headers]
    fields += [_read_header(text, shown=False) for text in more_headers.splitlines() if text.strip()]
    where = _read_url(url)
    pipe = importlib.import_module("fastproxy.pipe")  # late: no other command should pay for the event loop
    target = pipe.Target(url=where, fields=tuple(fields), ca=ca, response_seconds=seconds, log_level=level)
    return int(pipe.run(target))
