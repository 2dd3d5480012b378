"""An API server as the operator uses it: thin on lightkube, objects as plain dicts, one field manager.

Every call has a deadline, and fails in one of two ways: `Refused` (the server answered, with a code) or `Unreachable`.
Whether to try again is the caller's business. Objects are sent and read as the server writes them: lightkube's own
models would drop what they do not know.
"""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx2
import lightkube
import msgspec
import yaml
from lightkube import generic_resource, types
from lightkube.config import kubeconfig
from lightkube.core import exceptions, selector

from fastproxy import errors
from fastproxy.operator import crd, manifest
from fastproxy.operator.manifest import Manifest

REQUEST_SECONDS_MAX = 30.0
WATCH_SECONDS = 290  # the server ends a watch after that, so that a dead connection is not waited on for ever
WATCH_SILENCE_SECONDS_MAX = WATCH_SECONDS + 30
LIST_CHUNK = 50  # a page of objects is many times the size of what is kept of it
ALL_NAMESPACES = "*"
Labels = dict[str, Any] | None


class Api(msgspec.Struct, frozen=True):
    """One kind of the API, by what its requests need."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


OWNED = (
    Api("apps", "v1", "Deployment", "deployments"),
    Api("apps", "v1", "StatefulSet", "statefulsets"),
    Api("", "v1", "Service", "services"),
    Api("", "v1", "ConfigMap", "configmaps"),
    Api("", "v1", "ServiceAccount", "serviceaccounts"),
    Api("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
)
OURS = tuple(Api(crd.GROUP, crd.STORAGE_VERSION, kind.name, kind.plural) for kind in crd.KINDS.values())
EVENT = Api("", "v1", "Event", "events")
BY_KIND: Mapping[str, Api] = {api.kind: api for api in (*OWNED, *OURS, EVENT)}


class Refused(errors.FastproxyError):
    """The server said no. `code` is HTTP's; `causes` are (field, message) pairs."""

    reason = "kubernetes_refused"

    def __init__(self, code: int, message: str, causes: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.causes = causes


class Unreachable(errors.FastproxyError):
    """No answer, or half of one."""

    reason = "kubernetes_unreachable"


@contextlib.contextmanager
def _translated() -> Any:
    try:
        yield
    except exceptions.ApiError as error:
        details = error.status.details
        causes = (
            tuple((cause.field or "", cause.message or "") for cause in (details.causes or ()) if details)
            if details
            else ()
        )
        raise Refused(error.status.code or 500, error.status.message or "no message", causes) from error
    except httpx2.HTTPStatusError as error:
        raise Refused(error.response.status_code, error.response.reason_phrase) from error
    except (httpx2.HTTPError, httpx2.StreamError, TimeoutError, OSError, msgspec.MsgspecError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error


class _Event(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: dict[str, Any]


class Kube:
    """The requests that the operator makes; there are no others."""

    def __init__(self, client: lightkube.AsyncClient) -> None:
        self._client = client
        self._resources = {api.kind: _declare(api) for api in BY_KIND.values()}
        self._listing = asyncio.Lock()

    async def close(self) -> None:
        await self._client._client.close()  # type: ignore[no-untyped-call] # lightkube has no public way

    async def get(self, api: Api, namespace: str, name: str) -> Manifest | None:
        try:
            return await self._ask(self._client.get(self._resources[api.kind], name, namespace=namespace))
        except Refused as refused:
            if refused.code == 404:
                return None
            raise

    async def apply(self, wanted: Manifest, *, force: bool, manager: str = manifest.MANAGER) -> Manifest:
        """Server-side apply."""
        return await self._ask(
            self._client.patch(
                self._resources[wanted["kind"]],
                wanted["metadata"]["name"],
                wanted,
                namespace=wanted["metadata"]["namespace"],
                patch_type=types.PatchType.APPLY,
                field_manager=manager,
                force=force,
            )
        )

    async def apply_status(self, api: Api, namespace: str, name: str, status: Manifest) -> Manifest:
        """What we say of a resource of ours; what others say of it stays."""
        wanted = {
            "apiVersion": api.api_version,
            "kind": api.kind,
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        }
        return await self._ask(
            self._client.patch(
                self._resources[api.kind].Status,
                name,
                wanted,
                namespace=namespace,
                patch_type=types.PatchType.APPLY,
                field_manager=manifest.MANAGER,
                force=True,
            )
        )

    async def merge(self, api: Api, namespace: str, name: str, patch: Manifest) -> Manifest:
        """A merge patch. With a resourceVersion in it, it is refused (409) where somebody was faster."""
        return await self._ask(
            self._client.patch(
                self._resources[api.kind], name, patch, namespace=namespace, patch_type=types.PatchType.MERGE
            )
        )

    async def delete(self, api: Api, namespace: str, name: str, *, orphan: bool = False) -> None:
        """Delete; what is not there is deleted. `orphan` keeps what it owns."""
        cascade = types.CascadeType.ORPHAN if orphan else types.CascadeType.BACKGROUND
        try:
            await self._ask(self._client.delete(self._resources[api.kind], name, namespace=namespace, cascade=cascade))
        except Refused as refused:
            if refused.code != 404:
                raise

    async def create(self, wanted: Manifest) -> None:
        """Create; what is there already stays as it is."""
        resource: Any = self._resources[wanted["kind"]](wanted)
        # lightkube asks a resource for its metadata, which it would read into a model of its own; a plain dict it
        # passes on.
        request = self._client._client.request("post", obj=resource, namespace=wanted["metadata"]["namespace"])
        try:
            await self._ask(request)
        except Refused as refused:
            if refused.code != 409:
                raise

    async def list(self, api: Api, namespace: str, labels: Labels, note: Callable[[Manifest], None]) -> str:
        """Each object there is, handed on as it comes; the version that a watch goes on from.

        One list at a time, and a page of it at a time: what is kept of an object is a small part of it, and memory that
        was once taken for all of them whole would never be given back.
        """
        with _translated():
            async with self._listing, asyncio.timeout(REQUEST_SECONDS_MAX * 4):
                listing = self._client.list(
                    self._resources[api.kind], namespace=namespace, labels=labels, chunk_size=LIST_CHUNK
                )
                async for each in listing:
                    note(dict(each))
                return listing.resourceVersion

    async def watch(
        self, api: Api, namespace: str, labels: Labels, version: str
    ) -> AsyncIterator[tuple[str, Manifest]]:
        """Changes since a version, until the server ends it, silence, a fault or the end of what it remembers (410).

        Not lightkube's own loop: that asks again by itself, at once, however soon a watch has ended.
        """
        parameters = {
            "resourceVersion": version,
            "timeoutSeconds": WATCH_SECONDS,
            "allowWatchBookmarks": "true",  # where we are, told also where nothing of ours has changed
            "labelSelector": selector.build_selector(labels) if labels else None,
        }
        core = self._client._client
        asked = core.prepare_request(
            "list", res=self._resources[api.kind], namespace=namespace, watch=True, params=parameters
        )
        timeout = httpx2.Timeout(REQUEST_SECONDS_MAX, read=None, pool=None)
        request = core._client.build_request(asked.method, asked.url, params=asked.params, timeout=timeout)
        with _translated():
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                answer = await core.send(request, stream=True)  # type: ignore[no-untyped-call]
        try:
            if answer.status_code >= 400:
                raise Refused(answer.status_code, answer.reason_phrase)
            lines = answer.aiter_lines()
            while True:
                with _translated():
                    async with asyncio.timeout(WATCH_SILENCE_SECONDS_MAX):
                        line = await anext(lines, None)
                    if line is None:
                        return
                    event = msgspec.json.decode(line, type=_Event)
                if event.type == "ERROR":
                    raise Refused(event.object.get("code") or 500, event.object.get("message") or "no message")
                yield event.type, event.object
        finally:
            await answer.aclose()

    async def _ask(self, request: Any) -> Manifest:
        with _translated():
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                answer = await request
        return dict(answer) if answer is not None else {}


def _declare(api: Api) -> Any:
    """lightkube's class for a kind: a dict. Not through its registry, where its own models may stand."""
    info = generic_resource.create_api_info(api.group, api.version, api.kind, api.plural)
    resource = type(api.kind, (generic_resource.GenericNamespacedResource,), {"_api_info": info})
    resource.Status = generic_resource._create_subresource(  # type: ignore[attr-defined]
        generic_resource.GenericNamespacedStatus, info, action="status"
    )
    return resource


def connect(
    kubeconfig_file: str | None, context: str | None, transport: httpx2.AsyncBaseTransport | None = None
) -> Kube:
    """The cluster we run in, or the one that a kubeconfig names; by another transport where one is given."""
    try:
        if kubeconfig_file:
            loaded = kubeconfig.KubeConfig.from_file(pathlib.Path(kubeconfig_file))
        else:
            loaded = kubeconfig.KubeConfig.from_env()
        config = loaded.get(context_name=context)
        client = lightkube.AsyncClient(
            config=config,
            field_manager=manifest.MANAGER,
            timeout=httpx2.Timeout(REQUEST_SECONDS_MAX, pool=None),
            transport=transport,
        )
    except (
        exceptions.ConfigError,
        OSError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        yaml.YAMLError,
    ) as error:
        # A kubeconfig of an odd shape fails wherever lightkube first looks into it.
        raise errors.StartError(f"no cluster to talk to: {error} (run it in one, or give --kubeconfig)") from error
    return Kube(client)
