"""Which eras a backend speaks: asked of it, and read from its answers with the care that mcp.md §2 asks for.

    server/discover --> supportedVersions, or an error that only a 2026-07-28 server gives: modern
    initialize      --> a result: legacy                         both: dual

What says nothing about eras (401, 429, 5xx, silence) is not taken for a no: that question stays open until it is asked
again. Pure but for the two questions, which the peer carries.
"""

import msgspec

import fastproxy
from fastproxy.mcp import revision
from fastproxy.vmcp import peer

UNKNOWN, LEGACY, MODERN, DUAL = "unknown", "legacy", "modern", "dual"
_META = "io.modelcontextprotocol/"
_MODERN_ERRORS = frozenset({-32020, -32021})  # it knows the headers and members of that revision
_UNSUPPORTED_VERSION = -32022
_PASSING = frozenset({407, 408, 425, 429})


class Discovered(msgspec.Struct):
    """Of a DiscoverResult, what is used here. Some servers name themselves in `_meta`, as the revision has it."""

    supportedVersions: list[str] = []
    capabilities: dict[str, msgspec.Raw] = {}
    instructions: str | None = None
    serverInfo: msgspec.Raw = msgspec.Raw(b"{}")
    meta: dict[str, msgspec.Raw] = msgspec.field(name="_meta", default_factory=dict)

    @property
    def name(self) -> msgspec.Raw:
        """What it calls itself."""
        return self.meta.get(_META + "serverInfo", self.serverInfo)


class _Supported(msgspec.Struct):
    supported: list[str] = []


def client_info() -> dict[str, str]:
    """What we call ourselves towards a backend."""
    return {"name": "fastproxy", "version": fastproxy.__version__}


def own_meta(version: str = peer.MODERN_VERSION) -> bytes:
    """The `_meta` of a request of ours to a modern backend."""
    return msgspec.json.encode(
        {
            _META + "protocolVersion": version,
            _META + "clientInfo": client_info(),
            _META + "clientCapabilities": {},
        }
    )


def initialize_params() -> bytes:
    """The params of an `initialize` of ours. All that a client may be able to do is declared, though no client is
    behind this session: servers that offer a tool only to who can be asked would hide it from everybody."""
    capabilities = {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": True}}
    return msgspec.json.encode(
        {"protocolVersion": peer.LEGACY_VERSION, "capabilities": capabilities, "clientInfo": client_info()}
    )


def with_meta(params: dict[str, object]) -> bytes:
    """Params of a modern request of ours."""
    return msgspec.json.encode({**params, "_meta": msgspec.Raw(own_meta())})


async def ask_modern(backend: peer.Peer, *, seconds_max: float) -> Discovered | None:
    """What a modern backend says of itself; None: it is not modern. BackendError: it can't be told now."""
    try:
        result = await backend.request(
            "server/discover",
            with_meta({}),
            leg_session_id=None,
            protocol_version=peer.MODERN_VERSION,
            headers=[],
            on_message=peer.ignore,
            seconds_max=seconds_max,
        )
    except (peer.Refused, peer.WrongStatus) as error:
        if error.status >= 500 or error.status in _PASSING:
            raise
        return Discovered() if isinstance(error, peer.Refused) and _is_modern(error) else None
    try:
        found = msgspec.json.decode(result, type=Discovered)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if _speaks_modern(found.supportedVersions) else None


def denies_legacy(error: peer.BackendError) -> bool:
    """Does this answer to `initialize` say that there is no such thing, rather than that something is wrong now?"""
    if isinstance(error, peer.Refused | peer.WrongStatus):
        return error.status < 500 and error.status not in _PASSING
    return False


def combined(*, legacy: bool, modern: bool) -> str:
    """The era's name."""
    if legacy and modern:
        return DUAL
    if modern:
        return MODERN
    return LEGACY if legacy else UNKNOWN


def _is_modern(error: peer.Refused) -> bool:
    if error.code in _MODERN_ERRORS:
        return True
    if error.code != _UNSUPPORTED_VERSION:
        return False
    try:
        return _speaks_modern(msgspec.json.decode(error.data, type=_Supported).supported)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _speaks_modern(versions: list[str]) -> bool:
    # A server may answer the question and then negotiate down, so its word must be there: ours is what we would send.
    return any(version == peer.MODERN_VERSION and not revision.has_sessions(version) for version in versions)
