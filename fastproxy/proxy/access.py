"""What a process writes on standard error: one line per finished exchange when they are wanted, and the log.

    exchange --describe--> Line --logger fastproxy.access--> key=value or JSON
    any logger --------------------------------------------> the same two forms, from --log-level on

Access lines have a logger of their own: they come at any --log-level, for who wants them has said so.
A session id is a credential. Here it is never written, only the first 8 hex digits of its SHA-256, also where a legacy
client puts it into the query. What comes from a client is written without control characters: one line stays one line.
"""

import datetime
import hashlib
import json
import logging
import re
import sys
from urllib.parse import unquote_to_bytes

import msgspec

from fastproxy._ext import core

SESSION_DIGITS = 8
TARGET_CHARACTERS_MAX = 2048  # of a line; a head may hold 32 KiB

_SESSION_IN_QUERY = re.compile(r"(?<=[?&])(sessionId|session_id)=([^&#]*)")
_PLAIN = re.compile(r"[^\s\"=\\]+")


class Line(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One finished exchange. What is not known is left out."""

    peer: str = ""  # gone with the client that left
    method: str
    target: str = ""
    status: int  # 499: the client left before an answer; 0: closed without one
    seconds: float
    lane: str  # fast or story: which of the two had it at its end
    over: str  # why it ended: done, drained, client_gone, backend_cut, refused, …
    backend: str = ""  # empty: answered by the proxy itself
    session: str = ""
    request_bytes: int | None = None  # of a body whose length was announced

    def __str__(self) -> str:
        return write_words(msgspec.to_builtins(self))


class AccessLog:
    """Writes a line for each exchange it is shown, at its end."""

    def __init__(self) -> None:
        self._logger = logging.getLogger("fastproxy.access")

    def write(self, exchange: core.Exchange) -> None:
        """The relay calls it when the exchange is over; the client may have gone by then, and its head with it."""
        self._logger.info(describe(exchange))


def describe(exchange: core.Exchange) -> Line:
    """What is left to know about an exchange that is over."""
    try:
        method, target = exchange.method.decode("ascii"), exchange.target.decode("ascii")
        session_id = find_session(exchange, target)
    except core.ExchangeOver:  # the fast lane keeps no copy of a head: gone with its client
        method, target, session_id = exchange.method_name, "", ""
    status = exchange.status
    if status == 0 and exchange.over == "client_gone":
        status = 499
    return Line(
        peer=exchange.peer,
        method=method,
        target=mask_target(target),
        status=status,
        seconds=round(exchange.seconds, 6),
        lane="fast" if exchange.fast else "story",
        over=exchange.over or "",
        backend=exchange.endpoint_url,
        session=fingerprint(session_id) if session_id else "",
        request_bytes=exchange.body_length or None,
    )


def find_session(exchange: core.Exchange, target: str) -> str:
    """The session of an exchange: what the story found out, what the client named, or nothing."""
    known = exchange.session or exchange.note  # of the fast lane; of the story
    if isinstance(known, str) and known:
        return known
    for name, value in exchange.fields:
        if name.lower() == b"mcp-session-id":
            return value.decode("latin-1")
    named = _SESSION_IN_QUERY.search(target)
    return unquote_to_bytes(named[2]).decode("latin-1") if named is not None else ""


def fingerprint(session_id: str) -> str:
    """What stands for a session id in logs: enough to follow one, not enough to use it."""
    return hashlib.sha256(session_id.encode("latin-1", "replace")).hexdigest()[:SESSION_DIGITS]


def mask_target(target: str) -> str:
    """A request's target as a log may hold it: session ids as fingerprints, control characters escaped, bounded."""

    def mask(match: re.Match[str]) -> str:
        return f"{match[1]}={fingerprint(unquote_to_bytes(match[2]).decode('latin-1'))}"

    masked = escape(_SESSION_IN_QUERY.sub(mask, target))
    return masked if len(masked) <= TARGET_CHARACTERS_MAX else masked[:TARGET_CHARACTERS_MAX] + "…"


def escape(text: str) -> str:
    """The text on one line: what a terminal would obey or a reader of lines would split at, as JSON escapes it."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)


def write_words(members: dict[str, object]) -> str:
    """key=value, a value in quotes where it could be misread."""
    return " ".join(f"{key}={_quote(value)}" for key, value in members.items())


def _quote(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


# ---- the process's log


def configure_logging(level: str, form: str) -> None:
    """Log to standard error from `level` on, as `text` or `json`. Other people's libraries speak from warning on."""
    formatter: logging.Formatter = JsonFormatter() if form == "json" else TextFormatter()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    weight = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(weight, logging.WARNING))
    logging.getLogger("fastproxy").setLevel(weight)
    access = logging.getLogger("fastproxy.access")
    access.handlers[:] = [handler]
    access.setLevel(logging.INFO)
    access.propagate = False
    logging.captureWarnings(True)


class TextFormatter(logging.Formatter):
    """`2026-07-28T09:30:00.000Z info fastproxy.session.redis store=away`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        head = f"{write_time(record.created)} {record.levelname.lower()} {record.name}"
        if isinstance(record.msg, Line):
            return f"{head} {record.msg}"
        words = f"{head} {escape(record.getMessage())}"
        traceback = _write_traceback(self, record)
        return f"{words}\n{traceback}" if traceback else words


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, then message (and exception), or an access line's members."""

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, object] = {
            "time": write_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, Line):
            members |= msgspec.to_builtins(record.msg)
        else:
            members["message"] = _encodable(record.getMessage())
            traceback = _write_traceback(self, record)
            if traceback:
                members["exception"] = _encodable(traceback)
        return msgspec.json.encode(members).decode()


def write_time(unix_seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    moment = datetime.datetime.fromtimestamp(unix_seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encodable(text: str) -> str:
    """A file's name may hold bytes that are no UTF-8; a log line must come out all the same."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write_traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return "\n".join(
        part
        for part in (
            formatter.formatException(record.exc_info) if record.exc_info else "",
            formatter.formatStack(record.stack_info) if record.stack_info else "",
        )
        if part
    )
