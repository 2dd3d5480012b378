"""What the group's state looks like to those who watch it: /status, /api/backends/health, /readyz. Pure.

The first two have ToolHive's shapes (its capitalised members are names of Go fields, and what dashboards read).
"""

import datetime
from collections.abc import Iterable

import fastproxy
from fastproxy.config import vmcp_schema
from fastproxy.vmcp import backends, era, health

_REVISIONS = {
    era.LEGACY: "legacy",
    era.MODERN: "2026-07-28",
    era.DUAL: "dual",
    era.UNKNOWN: "unknown",
}


def summary(known: Iterable[backends.Backend], group: vmcp_schema.Group) -> dict[str, object]:
    """GET /status. `healthy`: at least one backend is."""
    rows = [
        {
            "name": backend.id,
            "health": backend.health.status,
            "transport": backend.transport,
            "auth_type": "header_injection" if backend.headers else "unauthenticated",
            "mcp_revision": _REVISIONS[backend.era],
        }
        for backend in known
    ]
    return {
        "backends": rows,
        "healthy": any(row["health"] in (health.HEALTHY, health.DEGRADED) for row in rows),
        "version": fastproxy.__version__,
        "group_ref": group.group_ref or "",
    }


def report(known: Iterable[backends.Backend]) -> dict[str, object]:
    """GET /api/backends/health."""
    all_known = list(known)
    counts = {status: sum(backend.health.status == status for backend in all_known) for status in health.STATUSES}
    return {
        "monitoring_enabled": True,
        "summary": {"Total": len(all_known), **{status.capitalize(): count for status, count in counts.items()}},
        "backends": {backend.id: _row(backend) for backend in all_known},
    }


def shortcomings(known: Iterable[backends.Backend], group: vmcp_schema.Group) -> list[str]:
    """The backends that are missing, for which /readyz is 503 under `partialFailureMode: fail`; none otherwise."""
    if not group.operational.partial_failure_fails:
        return []
    return [backend.id for backend in known if backend.shown is None or not backend.usable]


def _row(backend: backends.Backend) -> dict[str, object]:
    known = backend.health
    return {
        "Status": known.status,
        "ConsecutiveFailures": known.failures,
        "LastCheckTime": _time(known.checked_at),
        "LastErrorCategory": known.category,
        "LastTransitionTime": _time(known.changed_at),
        "CircuitState": backend.circuit if backend.breaker.rules.enabled else "",
        "CircuitLastChanged": _time(backend.circuit_changed_at),
        "MCPRevision": _REVISIONS[backend.era],
    }


def _time(seconds: float | None) -> str:
    """RFC 3339; without one, Go's zero time, which those who read these pages know."""
    if seconds is None:
        return "0001-01-01T00:00:00Z"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
