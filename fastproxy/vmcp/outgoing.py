"""Which headers go to a backend: its own (injected credentials, what a client's file sets), and the client's that may
pass. Pure.

    configuration: Header… --own--> fields of every request to the backend, probes included
    client's request + passthroughHeaders --passed_on--> fields of this request

Nothing else of a client's headers reaches a backend: what is a credential here is none there. What frames a message,
belongs to one hop, or names who asks can be neither injected nor passed on.
"""

import re

from fastproxy.config import vmcp_schema

Fields = list[tuple[bytes, bytes]]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_VALUE = re.compile(r"[\t -~\x80-\xff]*")
# RFC 9110 §7.6.1, the protocol's own, and what tells a backend who is asking.
_REFUSED = frozenset(
    {
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "transfer-encoding",
        "content-length",
        "content-type",
        "accept",
        "accept-encoding",
        "expect",
        "forwarded",
        "x-real-ip",
        "last-event-id",
        "origin",
    }
)
_REFUSED_BEGINNINGS = ("proxy-", "x-forwarded-", "mcp-")
_CREDENTIALS = frozenset({"authorization", "cookie"})


def refusal(name: str, *, injected: bool) -> str | None:
    """Why a header can't be sent, None if it can. `injected`: by the owner, who may send credentials of his own."""
    word = name.lower()
    if not _TOKEN.fullmatch(name):
        return "expected a header's name"
    if word in _REFUSED or word.startswith(_REFUSED_BEGINNINGS):
        return "it belongs to the connection or to the protocol"
    if not injected and word in _CREDENTIALS:
        return "a client's credentials are for this proxy, not for a backend"
    return None


def own(headers: tuple[vmcp_schema.Header, ...]) -> Fields:
    """The backend's own fields. ValueError names one that can't be sent."""
    fields = []
    for header in headers:
        reason = refusal(header.name, injected=True)
        if reason is None and not _VALUE.fullmatch(header.value):
            reason = "its value holds characters that no header may"
        if reason is not None:
            raise ValueError(f"header {header.name}: {reason}")
        fields.append((header.name.encode("ascii"), header.value.encode("latin-1")))
    return fields


def passed_on(names: tuple[str, ...], fields: Fields, mine: Fields) -> Fields:
    """Of a client's fields those that the owner passes on, but never beside one of the backend's own."""
    wanted = {name.lower().encode("ascii") for name in names if refusal(name, injected=False) is None}
    wanted -= {name.lower() for name, _ in mine}
    return [(name, value) for name, value in fields if name.lower() in wanted] if wanted else []


def collisions(names: tuple[str, ...], mine: Fields) -> list[str]:
    """Names that are both passed on and the backend's own: the owner must say which he means."""
    injected = {name.lower() for name, _ in mine}
    return sorted(name.lower() for name in names if name.lower().encode("ascii") in injected)
