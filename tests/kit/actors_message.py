"""HTTP/1.1 messages as bytes, for the ends that speak bytes (`RawClient`, `ScriptedBackend`): nothing is repaired.

`take(buffer)` finds the first whole message at the start of a buffer. It trusts what it reads (the strictness under
test is the proxy's), but keeps the raw bytes beside what they mean, so that a test can compare either.
"""

import typing

import msgspec

BODYLESS_STATUSES = frozenset({204, 304})


class Message(msgspec.Struct, frozen=True, gc=False):
    """A request or a response. `raw` is what came; `body` is without chunk framing; field names are lower case."""

    start_line: str
    fields: list[tuple[str, str]]
    body: bytes
    raw: bytes
    trailers: list[tuple[str, str]]

    @property
    def status(self) -> int:
        return int(self.start_line.split(" ", 2)[1])

    @property
    def method(self) -> str:
        return self.start_line.split(" ", 1)[0]

    @property
    def target(self) -> str:
        return self.start_line.split(" ", 2)[1]

    @property
    def head(self) -> bytes:
        return self.raw[: self.raw.index(b"\r\n\r\n") + 4]

    def field(self, name: str) -> str | None:
        """The value of a field that comes at most once."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} comes {len(values)} times: {values}"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for own, value in self.fields if own == name.lower()]

    def json(self) -> typing.Any:
        return msgspec.json.decode(self.body)


def parse_head(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    """Start line and fields of a head that ends with an empty line."""
    lines = head.decode("latin-1").split("\r\n")
    fields = [line.partition(":")[::2] for line in lines[1:] if line]
    return lines[0], [(name.lower(), value.strip(" \t")) for name, value in fields]


def take(buffer: bytes, *, answers: str | None = None, at_end: bool = False) -> Message | None:
    """The first whole message of a buffer, or None if there is more to come.

    `answers` is the method of the request that this response answers (HEAD has no body); None means that requests are
    read. `at_end` says that the connection is closed, which ends a response without a length.
    """
    end_of_head = buffer.find(b"\r\n\r\n")
    if end_of_head < 0:
        return None
    body_begin = end_of_head + 4
    start_line, fields = parse_head(buffer[:body_begin])
    last = {name: value for name, value in fields}
    if answers is not None and _is_bodyless(start_line, answers):
        return Message(start_line, fields, b"", buffer[:body_begin], [])
    if last.get("transfer-encoding", "").lower().endswith("chunked"):
        return _take_chunked(buffer, body_begin, start_line, fields)
    if "content-length" in last:
        end = body_begin + int(last["content-length"])
        return None if len(buffer) < end else Message(start_line, fields, buffer[body_begin:end], buffer[:end], [])
    if answers is None:
        return Message(start_line, fields, b"", buffer[:body_begin], [])
    return Message(start_line, fields, buffer[body_begin:], buffer, []) if at_end else None


def _is_bodyless(start_line: str, answers: str) -> bool:
    status = int(start_line.split(" ", 2)[1])
    return answers == "HEAD" or status < 200 or status in BODYLESS_STATUSES


def _take_chunked(buffer: bytes, position: int, start_line: str, fields: list[tuple[str, str]]) -> Message | None:
    body = bytearray()
    while True:
        line_end = buffer.find(b"\r\n", position)
        if line_end < 0:
            return None
        size = int(buffer[position:line_end].partition(b";")[0], 16)
        if size == 0:
            return _take_trailers(buffer, line_end + 2, start_line, fields, bytes(body))
        begin = line_end + 2
        if len(buffer) < begin + size + 2:
            return None
        body += buffer[begin : begin + size]
        position = begin + size + 2


def _take_trailers(
    buffer: bytes, position: int, start_line: str, fields: list[tuple[str, str]], body: bytes
) -> Message | None:
    if buffer.startswith(b"\r\n", position):
        return Message(start_line, fields, body, buffer[: position + 2], [])
    end = buffer.find(b"\r\n\r\n", position)
    if end < 0:
        return None
    _, trailers = parse_head(b"trailers\r\n" + buffer[position : end + 4])
    return Message(start_line, fields, body, buffer[: end + 4], trailers)


def format_request(
    method: str, target: str, host: str, fields: typing.Mapping[str, str] | None = None, body: bytes | None = None
) -> bytes:
    """A plain request: Host first, Content-Length when there is a body and no other framing was given."""
    given = dict(fields or {})
    names = {name.lower() for name in given}
    lines = [f"{method} {target} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"Host: {host}")
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def format_response(status_line: str, fields: typing.Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """A plain response, as `format_response("200 OK", {…}, b"…")`; Content-Length unless other framing was given."""
    given = dict(fields or {})
    if not {name.lower() for name in given} & {"content-length", "transfer-encoding"}:
        given["Content-Length"] = str(len(body))
    lines = [f"HTTP/1.1 {status_line}", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def format_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
