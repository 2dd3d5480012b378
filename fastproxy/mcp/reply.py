"""Answers of the proxy's own (interface §3.2): what is said, with which status, to whom.

A Refusal is raised where the fault is known and answered in one place. `in_band`: a legacy request with an id gets it
as a JSON-RPC error with status 200, since clients of the 1.x SDK die on a 4xx or 5xx other than 404 (mcp.md §0.5).
"""

import msgspec

from fastproxy import errors
from fastproxy.mcp import envelope

RETRY_AFTER_SECONDS = 1  # a replica or a store that comes back does so within a second or two


class Refusal(errors.FastproxyError):
    """The proxy answers by itself."""

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        reason: str | None = None,
        in_band: bool = False,
        may_have_run: bool = False,
        retry: bool = False,
    ) -> None:
        super().__init__(message, reason=reason or "refused")
        self.status = status
        self.code = code
        self.data: dict[str, object] = {}
        if reason is not None:
            self.data["reason"] = reason
        if may_have_run:
            self.data["may_have_run"] = True
        self.in_band = in_band
        self.retry = retry


def session_not_found() -> Refusal:
    """The session is unknown, expired or ended. The one refusal that makes a client start anew."""
    return Refusal(404, -32001, "Session not found")


def bad_session_id() -> Refusal:
    return Refusal(400, -32600, "Mcp-Session-Id must be 1 to 1024 visible ASCII characters")


def forbidden(message: str) -> Refusal:
    """Host or Origin is not welcome."""
    return Refusal(403, -32600, message)


def backend_unreachable(detail: str) -> Refusal:
    return Refusal(502, -32603, f"no replica can be reached: {detail}", reason="backend_unreachable", in_band=True)


def backend_unavailable() -> Refusal:
    message = "no replica of the MCP server is live; try again in a moment"
    return Refusal(503, -32603, message, reason="backend_unavailable", in_band=True, retry=True)


def backend_overloaded() -> Refusal:
    message = "the MCP server has as many requests as it may (--max-requests-per-backend); try again in a moment"
    return Refusal(503, -32603, message, reason="backend_overloaded", in_band=True, retry=True)


def backend_lost() -> Refusal:
    message = "the connection to the MCP server was lost before it answered; the request may have run"
    return Refusal(502, -32603, message, reason="backend_lost", in_band=True, may_have_run=True)


def backend_timeout(seconds: float) -> Refusal:
    message = f"the MCP server did not answer within {seconds:g} s; the request may have run"
    return Refusal(504, -32603, message, reason="backend_timeout", in_band=True, may_have_run=True)


def backend_protocol_error(detail: str) -> Refusal:
    message = f"the MCP server's answer is not HTTP/1.1 as it should be: {detail or 'malformed'}"
    return Refusal(502, -32603, message, reason="backend_protocol_error", in_band=True, may_have_run=True)


def store_unavailable() -> Refusal:
    message = "the session store does not answer; try again in a moment"
    return Refusal(503, -32603, message, reason="session_store_unavailable", retry=True)


def record_too_new() -> Refusal:
    message = "a newer fastproxy wrote this session's record; upgrade this one"
    return Refusal(503, -32603, message, reason="record_too_new")


def too_many_sessions() -> Refusal:
    message = "the proxy holds as many sessions as it may (--max-sessions); try again later"
    return Refusal(503, -32603, message, reason="too_many_sessions", retry=True)


def too_many_new_sessions() -> Refusal:
    message = "too many new sessions in this second (--max-new-sessions-per-second); try again in a moment"
    return Refusal(429, -32603, message, reason="too_many_new_sessions", retry=True)


class _Error(msgspec.Struct, frozen=True, omit_defaults=True):
    code: int
    message: str
    data: dict[str, object] | None = None


def render(
    refusal: Refusal, asked: envelope.Envelope | None, *, legacy: bool
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, fields and body of the answer to a message with this envelope (None: unknown, or not one message)."""
    id_text = asked.id if asked is not None else None
    in_band = refusal.in_band and legacy and asked is not None and asked.is_request
    error = msgspec.json.encode(_Error(refusal.code, str(refusal), refusal.data or None))
    member = b"" if id_text is None else b',"id":' + id_text
    fields = [(b"Content-Type", b"application/json")]
    if refusal.retry and not in_band:
        fields.append((b"Retry-After", b"%d" % RETRY_AFTER_SECONDS))
    return 200 if in_band else refusal.status, fields, b'{"jsonrpc":"2.0"' + member + b',"error":' + error + b"}"
