"""What is told as an event: once per resource, generation and reason, however often it is found.

An event's name is made of what it tells, so that two operators, or one that was killed in between, tell the same one.
"""

from collections.abc import Callable
from typing import Any

from fastproxy.operator import conditions, crd, kube, manifest
from fastproxy.operator.manifest import Manifest

MESSAGE_MAX = 1000  # the API's own bound is 1024
_TOLD_MAX = 10_000  # names that are remembered to save a request; forgetting one costs that request


class Notebook:
    """Tells events."""

    def __init__(self, client: kube.Kube, clock: Callable[[], str]) -> None:
        self._kube = client
        self._clock = clock
        self._told: dict[str, None] = {}
        self._pending: list[tuple[crd.Resource, str, str]] = []

    def remember(self, resource: crd.Resource, reason: str, message: str) -> None:
        """To be told with the next status."""
        self._pending.append((resource, reason, message))

    async def tell(self, resource: crd.Resource, findings: conditions.Findings) -> None:
        """What is wrong with a resource, and what was done about it."""
        pending, self._pending = self._pending, []
        for which, reason, message in pending:
            await self._send(_refer(which), which.generation, "Normal", reason, message)
        told = [(problem.reason, str(problem)) for problem in findings.problems]
        told += [(each.reason, each.message) for each in findings.troubles if each.reason != "Waiting"]
        for reason, message in told:
            await self._send(_refer(resource), resource.generation, "Warning", reason, message)

    async def warn(self, live: Manifest, reason: str, message: str) -> None:
        """Something about a resource that could not be read."""
        metadata = live["metadata"]
        about = {
            "apiVersion": live["apiVersion"],
            "kind": live["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        await self._send(about, metadata.get("generation", 1), "Warning", reason, message)

    async def _send(self, about: dict[str, Any], generation: int, type_: str, reason: str, message: str) -> None:
        digest = manifest.digest([about["uid"], generation, reason, message])[:16]
        name = f"{about['name']}.{digest}"
        if name in self._told:
            return
        now = self._clock()
        await self._kube.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": about["namespace"]},
                "involvedObject": about,
                "type": type_,
                "reason": reason,
                "message": message[:MESSAGE_MAX],
                "source": {"component": manifest.MANAGER},
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            }
        )
        self._told[name] = None
        if len(self._told) > _TOLD_MAX:
            del self._told[next(iter(self._told))]


def _refer(resource: crd.Resource) -> dict[str, Any]:
    return {
        "apiVersion": f"{crd.GROUP}/{crd.STORAGE_VERSION}",
        "kind": resource.kind.name,
        "namespace": resource.namespace,
        "name": resource.name,
        "uid": resource.uid,
    }
