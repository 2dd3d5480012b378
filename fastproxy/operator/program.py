"""`fastproxy operator`: watches, workers and an admin address, put together.

    watches → mirror → queue → workers → reconcile        watches and answers are all that changes the mirror

Idle, it has its watches open and asks nothing. Two of them at once do the same work twice and otherwise no harm: both
apply the same manifests under the same field manager.
"""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Iterable

import msgspec
import uvloop

from fastproxy import errors
from fastproxy.config import address
from fastproxy.operator import admin, crd, kube, manifest, mirror, queue, reconcile, surroundings, watch, webhook
from fastproxy.operator.manifest import Manifest

logger = logging.getLogger(__name__)

WORKERS = 8  # the API server's time is what counts; a resource is always one worker's alone


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner wants of `fastproxy operator`."""

    image: str
    cluster_domain: str = "cluster.local"
    namespaces: tuple[str, ...] = ()  # none: all of them
    kubeconfig: str | None = None
    context: str | None = None
    admin: address.Address | None = None
    webhook: address.Address | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


class Operator:
    """One process of it."""

    def __init__(self, client: kube.Kube, options: Options) -> None:
        self._kube = client
        self._options = options
        self.mirror = mirror.Mirror()
        self.queue: queue.WorkQueue[mirror.Key] = queue.WorkQueue()
        around = surroundings.Surroundings(image=options.image, cluster_domain=options.cluster_domain)
        self.reconciler = reconcile.Reconciler(client, self.mirror, around)
        self.passes, self.failures = 0, 0
        self._watches = [
            self._watch(api, namespace)
            for namespace in options.namespaces or (kube.ALL_NAMESPACES,)
            for api in (*kube.OURS, *kube.OWNED)
        ]

    @property
    def listed(self) -> bool:
        """Whether every kind has been listed: before that nothing is decided."""
        return all(each.listed.is_set() for each in self._watches)

    def _watch(self, api: kube.Api, namespace: str) -> watch.Watch:
        ours = api in kube.OURS
        return watch.Watch(
            self._kube,
            api,
            namespace,
            labels=None if ours else {manifest.MANAGED_BY: manifest.MANAGER},
            on_change=self._on_resource if ours else self._on_owned,
            on_gone=self._on_resource_gone if ours else self._on_owned_gone,
            optional=api.kind == "PodDisruptionBudget",
        )

    # ---- what the watches tell

    def _on_resource(self, live: Manifest, listed: bool) -> None:
        key = mirror.key_of(live)
        before, sharers = self.mirror.resources.get(key), self.mirror.list_placed(key)
        if self.mirror.note_resource(live, listed=listed):
            edited = before is None or before["metadata"].get("generation") != live["metadata"].get("generation")
            self._wake(key, edited=edited)
            if edited or "deletionTimestamp" in live["metadata"]:
                self._wake_all(self._list_neighbours(key, before, live) | sharers - {key})

    def _on_resource_gone(self, key: mirror.Key) -> None:
        neighbours = self._list_neighbours(key, self.mirror.resources.get(key))
        self.mirror.forget_resource(key)
        self._wake_all(neighbours)

    def _list_neighbours(self, key: mirror.Key, *versions: Manifest | None) -> set[mirror.Key]:
        """Resources whose manifests or status depend on this one: its group, and the vMCPs in front of that; those
        whose
        records lie in the same place."""
        kind, namespace, name = key
        groups = {name} if kind == crd.GROUP_KIND.name else {_name_group(each) for each in versions if each} - {""}
        neighbours = {(crd.GROUP_KIND.name, namespace, group) for group in groups}
        for other in self.mirror.list_resources(namespace) if groups else ():
            if reconcile.name_group(other) in groups and (
                kind == crd.GROUP_KIND.name or other.kind is crd.VIRTUAL_SERVER
            ):
                neighbours.add((other.kind.name, namespace, other.name))
        return (neighbours | self.mirror.list_placed(key)) - {key}

    def _on_owned(self, live: Manifest, listed: bool) -> None:
        owner = mirror.owner_key(self.mirror.note_owned(live, listed=listed))
        if owner is not None:
            self._wake(owner)

    def _on_owned_gone(self, key: mirror.Key) -> None:
        seen = self.mirror.owned.get(key)
        self.mirror.forget_owned(key)
        self.reconciler.settler.forget(key)
        owner = mirror.owner_key(seen) if seen is not None else None
        if owner is not None:
            self._wake(owner)

    def _wake(self, key: mirror.Key, *, edited: bool = False) -> None:
        self.queue.add(key, edited=edited)

    def _wake_all(self, keys: Iterable[mirror.Key]) -> None:
        for key in keys:
            self._wake(key)

    # ---- work

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for each in self._watches:
                tasks.create_task(each.run(), name="watch")
            for each in self._watches:
                await each.listed.wait()
            gc.collect()
            gc.freeze()  # what was listed stays: it need not be looked through again and again
            logger.info("listed resources=%d", len(self.mirror.resources))
            for _ in range(WORKERS):
                tasks.create_task(self._work(), name="worker")

    async def _work(self) -> None:
        while True:
            key = await self.queue.take()
            self.passes += 1
            try:
                await self.reconciler.reconcile(key)
            except errors.FastproxyError as error:
                self._fail(key, error)
            except Exception as error:  # the outermost loop: a fault of ours costs this resource its turn
                logger.exception("reconcile kind=%s namespace=%s name=%s", *key)
                self._fail(key, error)
            else:
                self.queue.done(key)

    def _fail(self, key: mirror.Key, error: Exception) -> None:
        self.failures += 1
        seconds = self.queue.failed(key)
        reason = " ".join(str(error).split())
        logger.warning("reconcile kind=%s namespace=%s name=%s retry_seconds=%.1f reason=%s", *key, seconds, reason)


def _name_group(live: Manifest) -> str:
    spec = live.get("spec") or {}
    named = (spec.get("groupRef") or {}).get("name")
    config = spec.get("config") or {}
    return str(named or config.get("groupRef") or config.get("group") or "")


def run(options: Options) -> int:
    """The process: until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line per request is too much
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(options))


async def _serve(options: Options) -> int:
    client = kube.connect(options.kubeconfig, options.context)
    operator = Operator(client, options)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(client.close)
        if options.admin is not None:
            await stack.enter_async_context(admin.serving(operator, options.admin))
        if options.webhook is not None:
            await stack.enter_async_context(
                webhook.serving(options.webhook, options.tls_cert, options.tls_key, image=options.image)
            )
        work = asyncio.create_task(operator.run(), name="operator")
        waiting = asyncio.create_task(stopped.wait(), name="signals")
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if work.done():
            work.result()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        operator.queue.close()
    logger.info("stopped")
    return 0
