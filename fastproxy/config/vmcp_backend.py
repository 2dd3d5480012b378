"""What names a server of the group: NAME=URL of a flag, and the URL of an MCP endpoint.

The URL is the endpoint itself, unlike that of a replica of `serve`: its path is asked for as it stands here, its query
too. A flag may leave the path out where it is the usual one, /mcp; a file says what it means, and some servers do live
at the root. Sans-io.
"""

import re

import msgspec

from fastproxy.config import address, units, vmcp_schema

ID_CHARACTERS_MAX = 63  # a Kubernetes name; with a tool's name behind it 64 are soon reached
_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_ID_EXPECTED = "a name of letters, digits and . _ - that begins and ends with a letter or a digit"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_USUAL_PATH = "/mcp"
# RFC 3986: what may stand in a request line unchanged.
_TARGET = re.compile(r"(/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*)?", re.ASCII)
_QUERY = re.compile(r"([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*", re.ASCII)


class NamedBackend(msgspec.Struct, frozen=True):
    """A backend of a flag."""

    id: str
    url: vmcp_schema.BackendUrl

    def __str__(self) -> str:
        return f"{self.id}={self.url}"


def read_id(value: object) -> str:
    """The name of a backend."""
    word = units.read_text(value, expected=_ID_EXPECTED)
    if not _ID.fullmatch(word):
        raise units.WrongValue(f"expected {_ID_EXPECTED}, got {units.quote(word)}")
    if len(word) > ID_CHARACTERS_MAX:
        raise units.WrongValue(f"expected at most {ID_CHARACTERS_MAX} characters, got {len(word)}")
    return word


def read_url(value: object, *, path_unless_given: str = "/") -> vmcp_schema.BackendUrl:
    """The URL of an MCP endpoint. A fragment, which ToolHive writes to name its servers, is dropped."""
    text = units.read_text(value, expected="a URL").strip()
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        shown = units.quote(address.mask_userinfo(text.partition("?")[0]))
        raise units.WrongValue(f"expected a URL that begins with http:// or https://, got {shown}")
    rest, mark, query = rest.partition("#")[0].partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise units.WrongValue("expected a URL without user and password (use a header, as outgoingAuth does)")
    if not authority:
        raise units.WrongValue(f"expected a host after {scheme}://")
    if not _TARGET.fullmatch(slash + path) or not _QUERY.fullmatch(query):
        raise units.WrongValue("expected URL characters only in path and query (others are written %XX)")
    name, port = address.split_port(authority)
    host = address.read_host(name)
    number = _DEFAULT_PORTS[scheme] if port is None else address.read_port(port)
    target = slash + path or path_unless_given
    origin = f"{scheme}://{address.bracket(host)}:{number}"
    return vmcp_schema.BackendUrl(scheme, host, number, target + mark + query, origin)


def read_named(value: object) -> NamedBackend:
    """NAME=URL."""
    text = units.read_text(value, expected="NAME=URL").strip()
    name, separator, url = text.partition("=")
    if not separator or "://" in name:
        shown = units.quote(address.mask_userinfo(text.partition("?")[0]))
        raise units.WrongValue(f"expected NAME=URL, as in github=http://127.0.0.1:8001/mcp, got {shown}")
    return NamedBackend(read_id(name.strip()), read_url(url, path_unless_given=_USUAL_PATH))


NAMED = units.Kind("NAME=URL", read_named, str)
