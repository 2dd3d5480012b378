"""One kind of objects, followed: listed once, then watched, and listed anew when the server has forgotten where we
were.

The connection may break at any byte, and the server may be away, refuse for a while (a restart answers 403 until its
roles are there) or be slow: then it is tried again, later and later. What a list no longer holds is told as gone.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable

from fastproxy.operator import kube
from fastproxy.operator.manifest import Manifest

logger = logging.getLogger(__name__)

FIRST_SECONDS, LAST_SECONDS = 0.5, 30.0
SHORT_SECONDS = 1.0  # a watch that ends sooner is a fault, whatever its status
GONE = 410

OnChange = Callable[[Manifest, bool], None]  # the object, and whether a list said so: that is how it stands
OnGone = Callable[[tuple[str, str, str]], None]


class Watch:
    """Follows one kind in one namespace, or in all."""

    def __init__(
        self,
        client: kube.Kube,
        api: kube.Api,
        namespace: str,
        *,
        labels: kube.Labels,
        on_change: OnChange,
        on_gone: OnGone,
        optional: bool = False,
    ) -> None:
        self._kube = client
        self._api = api
        self._namespace = namespace
        self._labels = labels
        self._on_change = on_change
        self._on_gone = on_gone
        self._optional = optional  # a kind that this server may not have
        self._known: set[tuple[str, str]] = set()
        self._version = ""
        self._failures = 0  # in a row: a list that works does not make a watch work
        self.listed = asyncio.Event()

    async def run(self) -> None:
        """For ever; for a kind that is not there and need not be, once."""
        while True:
            try:
                if not self._version:
                    await self._list()
                began = time.monotonic()
                await self._follow()
                if time.monotonic() - began < SHORT_SECONDS:
                    raise kube.Unreachable("the watch ended at once")
                self._failures = 0
            except kube.Refused as refused:
                if refused.code == 404 and self._optional:
                    logger.warning("kind=%s reason=missing: this API server does not have it", self._api.kind)
                    self.listed.set()
                    return
                if refused.code == GONE:
                    self._version = ""
                await self._pause(refused)
            except kube.Unreachable as unreachable:
                await self._pause(unreachable)

    async def _pause(self, error: Exception) -> None:
        """What stopped us may have been long: after the first time, nothing is taken for granted any more."""
        seconds = min(FIRST_SECONDS * 2.0 ** min(self._failures, 30), LAST_SECONDS) * random.uniform(0.75, 1.25)
        if self._failures:
            self._version = ""
            hint = " (fastproxy crds | kubectl apply --server-side -f -)" if _is_unknown(self._api, error) else ""
            logger.warning("watch kind=%s retry_seconds=%.1f reason=%s%s", self._api.kind, seconds, error, hint)
        self._failures += 1
        await asyncio.sleep(seconds)

    async def _list(self) -> None:
        found: set[tuple[str, str]] = set()

        def note(live: Manifest) -> None:
            self._note(live, listed=True)
            found.add((live["metadata"]["namespace"], live["metadata"]["name"]))

        version = await self._kube.list(self._api, self._namespace, self._labels, note)
        before, self._known = self._known, found
        for namespace, name in before - found:
            self._on_gone((self._api.kind, namespace, name))
        self._version = version
        self.listed.set()

    async def _follow(self) -> None:
        async for type_, live in self._kube.watch(self._api, self._namespace, self._labels, self._version):
            self._version = live["metadata"]["resourceVersion"]
            self._failures = 0
            if type_ in ("ADDED", "MODIFIED"):
                self._note(live, listed=False)
            elif type_ == "DELETED":
                metadata = live["metadata"]
                self._known.discard((metadata["namespace"], metadata["name"]))
                self._on_gone((self._api.kind, metadata["namespace"], metadata["name"]))

    def _note(self, live: Manifest, *, listed: bool) -> None:
        # A list's elements do not say what they are.
        live["kind"], live["apiVersion"] = self._api.kind, self._api.api_version
        self._known.add((live["metadata"]["namespace"], live["metadata"]["name"]))
        self._on_change(live, listed)


def _is_unknown(api: kube.Api, error: Exception) -> bool:
    """Whether the server does not have one of our kinds."""
    return api in kube.OURS and isinstance(error, kube.Refused) and error.code == 404
