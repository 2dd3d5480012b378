"""Requests that two parsers are known to read differently, and what ours must say to each (interface §3.2).

`status` is the refusal expected of the head; None: the head is sound, and then `chunks_refused` tells whether what
follows is a broken chunked body. A proxy that passes one of the refused on lets a client slip a request of its own
into somebody else's connection. The same list is meant for the scanner here and for a running proxy over sockets.
"""

import msgspec


class Attempt(msgspec.Struct, frozen=True):
    """One request on the wire. `statuses`: where two refusals are right, either."""

    name: str
    wire: bytes
    statuses: frozenset[int] = frozenset({400})
    chunks_refused: bool = False


def attempt(name: str, *lines: bytes, status: int | tuple[int, ...] = 400, body: bytes = b"") -> Attempt:
    statuses = frozenset((status,) if isinstance(status, int) else status)
    return Attempt(name, b"\r\n".join((*lines, b"", b"")) + body, statuses)


def field(name: str, *fields: bytes, status: int | tuple[int, ...] = 400, body: bytes = b"") -> Attempt:
    """A sound POST but for these fields."""
    return attempt(name, b"POST /mcp HTTP/1.1", b"Host: a.example", *fields, status=status, body=body)


def chunks(name: str, body: bytes) -> Attempt:
    """A sound head, and this for a chunked body."""
    head = b"POST /mcp HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Attempt(name, head + body, frozenset(), chunks_refused=True)


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a.example\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 5"

LENGTHS = [
    field("CL.TE", b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nG"),
    field("TE.CL", CHUNKED, b"Content-Length: 4", body=b"5c\r\n" + HIDDEN + b"\r\n0\r\n\r\n"),
    field("CL.0 with TE", b"Content-Length: 0", CHUNKED),
    field("CL.CL, different", LENGTH, b"Content-Length: 6"),
    field("CL.CL, equal", LENGTH, LENGTH),
    field("CL.CL, in other letters", LENGTH, b"content-LENGTH: 5"),
    field("CL list, equal", b"Content-Length: 5, 5"),
    field("CL list, different", b"Content-Length: 5, 6"),
    field("CL list with an empty end", b"Content-Length: 5,"),
    field("CL with plus", b"Content-Length: +5"),
    field("CL negative", b"Content-Length: -5"),
    field("CL negative zero", b"Content-Length: -0"),
    field("CL in hex", b"Content-Length: 0x5"),
    field("CL with a decimal point", b"Content-Length: 5.0"),
    field("CL with an exponent", b"Content-Length: 5e1"),
    field("CL with an underscore", b"Content-Length: 1_0"),
    field("CL with inner white space", b"Content-Length: 1 0"),
    field("CL in quotes", b'Content-Length: "5"'),
    field("CL empty", b"Content-Length:"),
    field("CL of white space", b"Content-Length: \t "),
    field("CL of 64 bits and one", b"Content-Length: 18446744073709551616"),
    field("CL of 64 bits, comes round to 5", b"Content-Length: 18446744073709551621"),
    field("CL of 32 bits, in 30 digits", b"Content-Length: " + b"4294967301".rjust(30, b"0")),
    field("CL in digits of another script", b"Content-Length: \xd9\xa5"),
    field("CL with a NUL", b"Content-Length: 5\x00"),
    field("CL with a vertical tab before it", b"Content-Length: \x0b5"),
    field("CL with a form feed after it", b"Content-Length: 5\x0c"),
    field("CL with a comment", b"Content-Length: 5;a=b"),
]

CODINGS = [
    field("TE.TE, second unknown", CHUNKED, b"Transfer-Encoding: x"),
    field("TE.TE, first unknown", b"Transfer-Encoding: x", CHUNKED, status=(400, 501)),
    field("TE.TE, equal", CHUNKED, CHUNKED),
    field("TE.TE, in other letters", CHUNKED, b"transfer-ENCODING: identity"),
    field("TE xchunked", b"Transfer-Encoding: xchunked", status=501),
    field("TE chunkedx", b"Transfer-Encoding: chunkedx", status=501),
    field("TE xchunked beside CL", LENGTH, b"Transfer-Encoding: xchunked", status=(400, 501)),
    field("TE identity", b"Transfer-Encoding: identity", status=501),
    field("TE identity beside CL", b"Transfer-Encoding: identity", LENGTH, status=(400, 501)),
    field("TE chunked, identity", b"Transfer-Encoding: chunked, identity", status=501),
    field("TE identity, chunked", b"Transfer-Encoding: identity, chunked", status=501),
    field("TE chunked, chunked", b"Transfer-Encoding: chunked, chunked", status=501),
    field("TE gzip, chunked", b"Transfer-Encoding: gzip, chunked", status=501),
    field("TE with an empty list member", b"Transfer-Encoding: ,chunked", status=501),
    field("TE with a trailing comma", b"Transfer-Encoding: chunked,", status=501),
    field("TE in quotes", b'Transfer-Encoding: "chunked"', status=501),
    field("TE with a parameter", b"Transfer-Encoding: chunked;q=1", status=501),
    field("TE empty", b"Transfer-Encoding:", status=(400, 501)),
    field("TE with a vertical tab", b"Transfer-Encoding: \x0bchunked"),
    field("TE with a form feed after it", b"Transfer-Encoding: chunked\x0c"),
    field("TE with a NUL after it", b"Transfer-Encoding: chunked\x00"),
    field("TE with a carriage return after it", b"Transfer-Encoding: chunked\r"),
    field("TE with a carriage return before it", b"Transfer-Encoding: \rchunked"),
    field("TE with an escape after it", b"Transfer-Encoding: chunked\x1b"),
    field("TE with a no-break space", b"Transfer-Encoding: chunked\xa0", status=501),
    field("TE folded", b"Transfer-Encoding:\r\n chunked"),
    field("TE folded with a tab", b"Transfer-Encoding: \r\n\tchunked"),
    field("TE with a space before the colon", b"Transfer-Encoding : chunked"),
    field("TE with a tab before the colon", b"Transfer-Encoding\t: chunked"),
    field("TE after white space", b" Transfer-Encoding: chunked"),
    field("TE behind a bare LF", b"X: y\nTransfer-Encoding: chunked"),
    field("TE behind a bare CR", b"X: y\rTransfer-Encoding: chunked"),
    field("TE behind LF CR", b"X: y\n\rTransfer-Encoding: chunked"),
    field("TE behind CR CR LF", b"X: y\r\r\nTransfer-Encoding: chunked"),
    field("TE behind a NUL", b"X: y\x00Transfer-Encoding: chunked"),
    field("TE with a NUL in its name", b"Transfer-Encoding\x00: chunked"),
    field("TE with a byte over 127 in its name", b"Transfer-Encoding\xa0: chunked"),
    field("TE with a long s for the s", b"Tran\xc5\xbffer-Encoding: chunked"),
    attempt("TE on HTTP/1.0", b"POST /mcp HTTP/1.0", b"Host: a.example", CHUNKED),
    attempt(
        "TE on HTTP/1.0, kept alive", b"POST /mcp HTTP/1.0", b"Host: a.example", b"Connection: keep-alive", CHUNKED
    ),
]

LINES = [
    Attempt("lines end in bare LF", b"POST /mcp HTTP/1.1\nHost: a.example\nContent-Length: 0\n\n"),
    Attempt("head ends in LF LF", b"POST /mcp HTTP/1.1\r\nHost: a.example\n\n"),
    Attempt("head ends in LF CR LF", b"POST /mcp HTTP/1.1\r\nHost: a.example\n\r\n"),
    Attempt("head ends in CR CR LF", b"POST /mcp HTTP/1.1\r\nHost: a.example\r\n\r\r\n\r\n"),
    Attempt("request line ends in bare CR", b"POST /mcp HTTP/1.1\rHost: a.example\r\n\r\n"),
    field("field without a colon", b"Content-Length"),
    field("field without a name", b": 5"),
    field("fold as the first line", b" folded", b"X: y"),
    field("line of white space", b" "),
    field("name with a space inside", b"X Y: z"),
    field("name in brackets", b"[X]: z"),
    field("name with an escaped colon", b"X\\: z"),
    field("value with a bell", b"X: \x07"),
    field("value with a delete", b"X: \x7f"),
    attempt("HTTP/0.9", b"GET /mcp"),
    attempt("HTTP/0.9 with a space", b"GET /mcp "),
    attempt("HTTP/1.2", b"GET /mcp HTTP/1.2", b"Host: a.example", status=505),
    attempt("HTTP/2.0 without its preface", b"GET /mcp HTTP/2.0", b"Host: a.example", status=505),
    attempt("preface of HTTP/2", b"PRI * HTTP/2.0", b"", b"SM", status=505),
    attempt("version in lower case", b"GET /mcp http/1.1", b"Host: a.example"),
    attempt("version with a leading zero", b"GET /mcp HTTP/01.1", b"Host: a.example"),
    attempt("version with two digits", b"GET /mcp HTTP/1.10", b"Host: a.example"),
    attempt("version with a space in it", b"GET /mcp HTTP/ 1.1", b"Host: a.example"),
    attempt("version with a space after it", b"GET /mcp HTTP/1.1 ", b"Host: a.example"),
    attempt("two spaces before the target", b"GET  /mcp HTTP/1.1", b"Host: a.example"),
    attempt("two spaces before the version", b"GET /mcp  HTTP/1.1", b"Host: a.example"),
    attempt("tabs for spaces", b"GET\t/mcp\tHTTP/1.1", b"Host: a.example"),
    attempt("space in the target", b"GET /mcp /hidden HTTP/1.1", b"Host: a.example"),
    attempt("space before the method", b" GET /mcp HTTP/1.1", b"Host: a.example"),
    attempt("no method", b"/mcp HTTP/1.1", b"Host: a.example"),
    attempt("method with a colon", b"GET: /mcp HTTP/1.1", b"Host: a.example"),
    attempt("target with a NUL", b"GET /m\x00cp HTTP/1.1", b"Host: a.example"),
    attempt("target with a byte over 127", b"GET /m\xe9cp HTTP/1.1", b"Host: a.example"),
    attempt("target with a request in it", b"GET /mcp HTTP/1.1\r", b"Host: a.example"),
    attempt("five empty lines first", b"", b"", b"", b"", b"", b"GET /mcp HTTP/1.1", b"Host: a.example"),
]

NAMES_AND_HOSTS = [
    attempt("no Host", b"GET /mcp HTTP/1.1"),
    attempt("two Hosts", b"GET /mcp HTTP/1.1", b"Host: a.example", b"Host: b.example"),
    attempt("two Hosts, equal", b"GET /mcp HTTP/1.1", b"Host: a.example", b"Host: a.example"),
    attempt("two Hosts, one folded", b"GET /mcp HTTP/1.1", b"Host: a.example", b" Host: b.example"),
    attempt("two Hosts, one before a space", b"GET /mcp HTTP/1.1", b"Host: a.example", b"Host : b.example"),
    field("two session ids", b"Mcp-Session-Id: a", b"Mcp-Session-Id: b"),
    field("two session ids, equal", b"Mcp-Session-Id: a", b"mcp-session-id: a"),
    field("two protocol versions", b"MCP-Protocol-Version: 2025-11-25", b"MCP-Protocol-Version: 2026-07-28"),
    field("two methods of MCP", b"Mcp-Method: tools/list", b"Mcp-Method: tools/call"),
    field("two names of MCP", b"Mcp-Name: a", b"Mcp-Name: b"),
    field("two authorizations", b"Authorization: Bearer a", b"Authorization: Bearer b"),
]

BROKEN_CHUNKS = [
    chunks("chunk size empty", b"\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size with 0x", b"0x5\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size with plus", b"+5\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size negative", b"-5\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size with an underscore", b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
    chunks("chunk size after a space", b" 5\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size of 64 bits and one", b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size of 64 bits, negative as a signed number", b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size with endless zeros", b"0" * 100 + b"5\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size ends in bare LF", b"5\nhello\r\n0\r\n\r\n"),
    chunks("chunk size ends in bare CR", b"5\rhello\r\n0\r\n\r\n"),
    chunks("chunk size with a NUL", b"5\x00\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk size with a comma", b"5,0\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk extension ends in bare LF", b"5;a\nhello\r\n0\r\n\r\n"),
    chunks("chunk extension with a bare LF and a size", b"2;\nxx\r\n45\r\n0\r\n\r\n" + HIDDEN + b"\r\n0\r\n\r\n"),
    chunks("chunk extension with a bare CR", b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk extension with a NUL", b"5;a\x00\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk extension without end", b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n"),
    chunks("chunk data longer than its size", b"5\r\nhelloX\r\n0\r\n\r\n"),
    chunks("chunk data ends in bare LF", b"5\r\nhello\n0\r\n\r\n"),
    chunks("chunk data ends in bare CR", b"5\r\nhello\r0\r\n\r\n"),
    chunks("chunk data ends in anything of two bytes", b"5\r\nhelloXX0\r\n\r\n"),
    chunks("chunk data ends in nothing", b"5\r\nhello0\r\n\r\n"),
    chunks("last chunk ends in bare LF", b"5\r\nhello\r\n0\n\n"),
    chunks("body ends in CR and another byte", b"0\r\n\rX"),
    chunks("body ends in bare LF", b"0\r\n\n"),
    chunks("trailer ends in bare LF", b"0\r\nX: y\n\r\n"),
    chunks("trailer with a bare CR", b"0\r\nX: y\rz\r\n\r\n"),
    chunks("trailer with a NUL", b"0\r\nX: \x00\r\n\r\n"),
    chunks("trailer folded", b"0\r\nX: y\r\n z\r\n\r\n"),
    chunks("trailer with a space before the colon", b"0\r\nX : y\r\n\r\n"),
    chunks("trailer without a colon", b"0\r\nGET /hidden HTTP/1.1\r\n\r\n"),
    chunks("trailers without end", b"0\r\n" + b"X: y\r\n" * 100_000),
]

# Odd, but read in one way only: refusing them would break somebody who means no harm.
SOUND = [
    attempt("two empty lines first", b"", b"", b"GET /mcp HTTP/1.1", b"Host: a.example", status=()),
    attempt("absolute form beside another Host", b"GET http://b.example/mcp HTTP/1.1", b"Host: a.example", status=()),
    attempt("Host empty", b"GET /mcp HTTP/1.1", b"Host:", status=()),
    attempt("HTTP/1.0 without a Host", b"GET /mcp HTTP/1.0", status=()),
    field("TE in other letters", b"tRANSFER-eNCODING: cHUNKED", status=(), body=b"0\r\n\r\n"),
    field("TE among white space", b"Transfer-Encoding: \t chunked \t ", status=(), body=b"0\r\n\r\n"),
    field("CL with leading zeros", b"Content-Length: 0005", status=(), body=b"hello"),
    field("name that looks like TE", b"Transfer_Encoding: chunked", b"X-Transfer-Encoding: chunked", status=()),
    field("value with bytes over 127", b"X: \xc3\xa9", status=()),
]

REFUSED = [*LENGTHS, *CODINGS, *LINES, *NAMES_AND_HOSTS]
ALL = [*REFUSED, *BROKEN_CHUNKS, *SOUND]
