"""Actors of the cluster tests: kubectl, the operator as a program, the operator in the test with a hand on its wire."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx2

from fastproxy.operator import kube, program
from tests.operator import cluster

SECONDS_MAX = 60.0  # for anything to become true: the machine may be busy
IMAGE = "example.com/fastproxy:1"

Object = dict[str, Any]

_numbers = itertools.count(1)


def eventually(holds: Callable[[], Any], complaint: str = "", seconds_max: float = SECONDS_MAX) -> Any:
    """What `holds` answers as soon as that is true."""
    ends = time.monotonic() + seconds_max
    while True:
        answer = holds()
        if answer:
            return answer
        if time.monotonic() > ends:
            raise AssertionError(complaint or f"not true within {seconds_max} s: {answer!r}")
        time.sleep(0.1)


class Kubectl:
    """kubectl as a user of a namespace of its own."""

    def __init__(self, where: cluster.Cluster, namespace: str, user: str = "admin") -> None:
        self.config = where.write_kubeconfig(user)
        self.namespace = namespace

    def run(self, *words: str, text: str | None = None, check: bool = True) -> str:
        command = ["kubectl", f"--kubeconfig={self.config}", f"--namespace={self.namespace}", *words]
        result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, check=False)
        if check and result.returncode:
            raise AssertionError(f"{' '.join(words)}: {result.stderr}")
        return result.stdout if check else result.stdout + result.stderr

    def apply(self, *objects: Object) -> None:
        # The server's own schemas judge; kubectl would not know a newer one's.
        self.run(
            "apply",
            "--validate=false",
            "-f",
            "-",
            text=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
        )

    def create(self, manifest: Object, manager: str) -> None:
        self.run("create", "--validate=false", f"--field-manager={manager}", "-f", "-", text=json.dumps(manifest))

    def find(self, kind: str, name: str) -> Object | None:
        text = self.run("get", kind, name, "-o", "json", "--ignore-not-found", "--show-managed-fields")
        return json.loads(text) if text.strip() else None

    def get(self, kind: str, name: str) -> Object:
        return eventually(lambda: self.find(kind, name), f"no {kind} {name}")

    def find_all(self, kinds: str) -> list[Object]:
        return list(json.loads(self.run("get", kinds, "-o", "json"))["items"])

    def patch(self, kind: str, name: str, patch: Object, *flags: str) -> None:
        self.run("patch", kind, name, "--type=merge", "-p", json.dumps(patch), *flags)

    def condition(self, kind: str, name: str, type_: str) -> Object:
        found = self.find(kind, name) or {}
        conditions = (found.get("status") or {}).get("conditions") or []
        return next((each for each in conditions if each["type"] == type_), {})

    def await_condition(self, kind: str, name: str, type_: str, reason: str) -> Object:
        def has_reason() -> Object | None:
            condition = self.condition(kind, name, type_)
            return condition if condition.get("reason") == reason else None

        return eventually(has_reason, f"{kind} {name} has no {type_}={reason}: {self.find(kind, name)}")

    def await_observed(self, kind: str, name: str) -> Object:
        """The resource, when its status is about its present generation and its objects are settled."""

        def is_observed() -> Object | None:
            found = self.find(kind, name) or {}
            status = found.get("status") or {}
            applied = [each for each in status.get("conditions") or [] if each["type"] == "ObjectsApplied"]
            if status.get("observedGeneration") == found.get("metadata", {}).get("generation") and applied:
                return found
            return None

        return eventually(is_observed, f"{kind} {name} is not observed: {self.find(kind, name)}")

    def events(self, name: str) -> list[Object]:
        return [
            event
            for event in self.find_all("events")
            if event["involvedObject"]["name"] == name and event["source"].get("component") == "fastproxy-operator"
        ]

    def pretend_ready(self, kind: str, name: str, count: int) -> None:
        """What a kubelet would bring about, as far as an owner of pods sees it: every pod of it ready."""
        for pod in self.find_all("pods"):
            owner = (pod["metadata"].get("ownerReferences") or [{}])[0].get("name", "")
            if owner == name or (kind == "deployment" and owner.startswith(f"{name}-")):
                self._set_pod_ready(pod["metadata"]["name"])
        eventually(lambda: (self.get(kind, name).get("status") or {}).get("readyReplicas", 0) >= count)

    def _set_pod_ready(self, name: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        conditions = [{"type": each, "status": "True", "lastTransitionTime": now} for each in kinds]
        body = {"status": {"phase": "Running", "conditions": conditions}}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}/status"
        self._patch_raw(path, body)

    def _patch_raw(self, path: str, body: Object) -> None:
        config = self.config.parent
        context = ssl.create_default_context(cafile=str(config / "ca.pem"))
        server = next(line for line in self.config.read_text().splitlines() if "server:" in line).split('"')[1]
        with httpx2.Client(verify=context) as client:
            headers = {"Authorization": "Bearer admin", "Content-Type": "application/merge-patch+json"}
            client.patch(f"{server}{path}", json=body, headers=headers).raise_for_status()


@contextlib.contextmanager
def operating(where: cluster.Cluster, *flags: str, user: str = "operator") -> Iterator[subprocess.Popen[bytes]]:
    """`fastproxy operator` as a program, until the block ends."""
    log = where.folder / f"operator-{next(_numbers)}.log"
    command = [sys.executable, "-m", "fastproxy", "operator", f"--kubeconfig={where.write_kubeconfig(user)}"]
    environment = {**os.environ, "FASTPROXY_IMAGE": IMAGE}
    with log.open("ab") as sink:
        process = subprocess.Popen([*command, "--admin=127.0.0.1:0", *flags], stdout=sink, stderr=sink, env=environment)
    try:
        eventually(lambda: process.poll() is not None or "listed resources=" in log.read_text(), "nothing is listed")
        yield process
        assert process.poll() is None, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()[-3000:]


Meddle = Callable[[httpx2.Request], Awaitable[httpx2.Response | None]]


class Wire(httpx2.AsyncBaseTransport):
    """The way to the API server, with a hand on it: requests are counted, and may be answered by the test instead."""

    def __init__(self, where: cluster.Cluster) -> None:
        context = ssl.create_default_context(cafile=str(where.folder / "ca.pem"))
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=50)
        self._inner = httpx2.AsyncHTTPTransport(verify=context, limits=limits)
        self.requests: list[str] = []  # all but watches
        self.watches = 0
        self.before: Meddle | None = None  # may answer in the server's place
        self.after: Meddle | None = None  # the server has done it; may answer otherwise

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "watch=true" in str(request.url.query):
            self.watches += 1
        else:
            self.requests.append(f"{request.method} {request.url.path}")
        if self.before is not None and (answer := await self.before(request)) is not None:
            return answer
        answer = await self._inner.handle_async_request(request)
        if self.after is not None and (other := await self.after(request)) is not None:
            await answer.aread()
            await answer.aclose()
            return other
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


def refuse(code: int, message: str = "made up", **headers: str) -> httpx2.Response:
    """An API server's refusal."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}
    return httpx2.Response(code, json=status, headers={"Content-Type": "application/json", **headers})


@contextlib.asynccontextmanager
async def operating_here(where: cluster.Cluster, wire: Wire, namespace: str) -> AsyncIterator[program.Operator]:
    """The operator as a task of this loop."""
    client = kube.connect(str(where.write_kubeconfig("operator")), None, wire)
    operator = program.Operator(client, program.Options(image=IMAGE, namespaces=(namespace,)))
    task = asyncio.create_task(operator.run())
    try:
        yield operator
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        operator.queue.close()
        await client.close()


async def settle(operator: program.Operator, quiet_seconds: float = 0.5, seconds_max: float = SECONDS_MAX) -> None:
    """Until the operator has had nothing to do for a while."""
    ends, still = time.monotonic() + seconds_max, time.monotonic()
    while time.monotonic() < ends:
        if not operator.listed or len(operator.queue) or operator.queue.delayed:
            still = time.monotonic()
        elif time.monotonic() - still > quiet_seconds:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the operator does not come to rest")
