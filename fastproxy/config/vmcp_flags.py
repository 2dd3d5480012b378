"""Every setting of `fastproxy vmcp` that may be a flag or a variable: those of `serve`, as far as they make sense here.

What a setting means is said in schema.py; here stands which ones there are, and where vmcp's default or meaning
differs. All else that can be said of a group is said in its file (vmcp_file.py).
"""

from collections.abc import Mapping

import msgspec

from fastproxy.config import schema, setting, vmcp_backend, vmcp_schema

_CHANGED: Mapping[str, Mapping[str, object]] = {
    "backend": {
        "kind": vmcp_backend.NAMED,
        "description": "without a file: a server by the URL of its MCP endpoint (without a path: /mcp); its tools are "
        "offered as NAME_tool",
        "restart_needed": True,
    },
    "config": {
        "description": "the group in ToolHive's vMCP format, as YAML or JSON, or a client's mcp.json; told apart by "
        "their content",
    },
    "name": {
        "description": "name of the group, part of the store's key prefix and of every metric",
        "default_text": "the file's name, else default",
    },
    "key_prefix": {"default": "fastproxy:{name}:vsession:"},
    "session_ttl": {"default": 1800.0},
    "cache_sessions": {
        "default": 10_000,
        "description": "sessions whose runtime part is held in memory, least recently used out first",
    },
    "connect_timeout": {"description": "to connect to a backend, TLS included"},
    "response_timeout": {
        "description": "from the sent request to the head of a backend's answer, unless the file's "
        "operational.timeouts say otherwise for it"
    },
    "max_connections": {
        "description": "clients' connections at a time, idle ones included; one more is told 503 and closed",
        "default_text": "half of what ulimit -n leaves, since each may need one to a backend",
    },
    "max_new_sessions_per_second": {
        "description": "more are not opened, a second's worth at once at the most; the others get 429; 0: no bound",
    },
}


def _tabulate() -> Mapping[str, setting.Setting]:
    rows = {name: row for name, row in schema.SETTINGS.items() if name in vmcp_schema.FRONT or name == "backend"}
    return {name: msgspec.structs.replace(row, **_CHANGED.get(name, {})) for name, row in rows.items()}


SETTINGS: Mapping[str, setting.Setting] = _tabulate()
"""The table, by name, in the order of the one of `serve`."""
