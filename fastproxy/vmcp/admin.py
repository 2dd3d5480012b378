"""The admin pages of vMCP: those of `serve`, with backends by their names and sessions with their legs, and two more.

`/status` and `/api/backends/health` have the shapes that ToolHive's dashboards read (status.py).
"""

from typing import TYPE_CHECKING

import msgspec

from fastproxy.proxy import admin
from fastproxy.session import store
from fastproxy.vmcp import record, status

if TYPE_CHECKING:
    from fastproxy.vmcp import plane

_HIDDEN = "***"


class Admin(admin.Admin):
    """Every page of the admin address."""

    def __init__(self, served: "plane.Plane", metrics: admin.Numbers) -> None:
        super().__init__(served, metrics)
        self._vmcp = served
        self._routes["/status"] = {"GET": self._show_status}
        self._routes["/api/backends/health"] = {"GET": self._show_backends_health}

    def _write(self, session: store.Kept) -> bytes:
        """Without what seals the session's ids."""
        assert isinstance(session, record.VmcpRecord)
        return record.Form.encode(msgspec.structs.replace(session, secret=_HIDDEN if session.secret else ""))

    def _tell_of_backends(self) -> dict[str, str]:
        """A backend that is missing keeps nobody from the others, unless the owner wants it so."""
        served = self._vmcp
        details = {}
        if not served.is_settled():
            details["starting"] = "not every backend has been looked at"
        if served.catalog.conflicts:
            details["conflicts"] = "; ".join(served.catalog.conflicts)
        missing = status.shortcomings(served.group, served.vmcp_config.group)
        if missing:
            details["backend_missing"] = "; ".join(missing)
        return details

    async def _show_config(self, _asked: admin.Asked) -> admin.Page:
        return admin.Page(200, msgspec.json.encode(self._vmcp.vmcp_config.effective()))

    async def _list_backends(self, _asked: admin.Asked) -> admin.Page:
        served = self._vmcp
        rows = [
            {
                "name": backend.id,
                "url": backend.url,
                "pod": None,
                "state": row.state,
                "sessions": served.book.table.count(row.index),
                "in_flight": served.endpoint(row.index).in_flight,
                "calls": served.endpoint(row.index).calls,
                "last_error": backend.last_error,
                "health": backend.health.status,
                "era": backend.era,
                "transport": backend.transport,
                "left_out": served.catalog.left_out_of(backend.id),
            }
            for backend, row in zip(served.group, served.backends.all(), strict=True)
        ]
        return admin.Page(200, msgspec.json.encode({"backends": rows}))

    async def _show_status(self, _asked: admin.Asked) -> admin.Page:
        served = self._vmcp
        body = status.summary(served.group, served.vmcp_config.group)
        return admin.Page(200, msgspec.json.encode(body), fields=((b"X-Content-Type-Options", b"nosniff"),))

    async def _show_backends_health(self, _asked: admin.Asked) -> admin.Page:
        return admin.Page(200, msgspec.json.encode(status.report(self._vmcp.group)))
