"""The design's YAML on stage: what `fastproxy render` prints, run pod by pod, with a client that sees one server.

Real: two replicas of an MCP server on the official Python SDK, three proxies with exactly the rendered arguments,
environment, ConfigMap, probes, preStop and grace period, a Redis server with a password, each in a network namespace of
its own under its headless DNS name. The client behaves like a Service: it goes to any proxy that is ready and not
leaving."""

import contextlib
import itertools
import json
import os
import pathlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import redis
import yaml

from tests.kit import backends, provision, redis_server
from tests.operator import pods
from tests.operator.test_golden import GOLDEN, run

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)

PASSWORD = "rehearsed"
SECRETS = {("redis", "password"): PASSWORD}
HEADLESS = "mcp-weather-headless.tools.svc.cluster.local"
HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}


class Show:
    """The rendered objects, and the pods that play them."""

    def __init__(self, wire: pods.Wire) -> None:
        self.wire = wire
        self.objects = self.render()
        self.service = self.objects["Service", "mcp-weather-proxy"]
        self.proxies: list[pods.Pod] = []  # those that a Service has in its endpoints
        self.leaving: list[tuple[pods.Pod, Iterator[None]]] = []
        self._numbers = itertools.count(1)

    def render(self, **spec: Any) -> dict[tuple[str, str], Any]:
        documents = list(yaml.safe_load_all((GOLDEN / "design.yaml").read_text()))
        (server,) = [each for each in documents if each["kind"] == "MCPServer"]
        server["spec"] |= spec
        printed = run("render", "-", text=yaml.safe_dump_all(documents)).stdout
        return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(printed)}

    def start_backend(self, ordinal: int) -> None:
        stateful_set = self.objects["StatefulSet", "weather"]["spec"]
        assert HEADLESS.startswith(f"{stateful_set['serviceName']}.")
        (container,) = stateful_set["template"]["spec"]["containers"]
        port = str(container["ports"][0]["containerPort"])
        pod = self.wire.add(f"weather-{ordinal}", dns=f"weather-{ordinal}.{HEADLESS}")
        program = [str(provision.python("mcp2")), str(backends.PROGRAMS / "server.py"), "mcp2", "streamable-http"]
        pod.start([*program, "--host", "0.0.0.0", "--port", port], {})
        await_true(lambda: "ready" in pod.log.read_text(), pod)

    def start_proxy(self) -> pods.Pod:
        pod = self.wire.add(f"proxy-{next(self._numbers)}")
        template = self.objects["Deployment", "weather"]["spec"]["template"]
        pod.start_template(template, self.objects["ConfigMap", "mcp-weather-proxy-config"], SECRETS)
        return pod

    def update_config(self) -> None:
        for pod in self.proxies:
            pod.mount(self.objects["ConfigMap", "mcp-weather-proxy-config"], "/etc/fastproxy")

    def dismiss(self, pod: pods.Pod) -> None:
        """Out of the endpoints, and on its way."""
        self.proxies.remove(pod)
        self.leaving.append((pod, pod.leave()))

    def go_on(self) -> None:
        for each in list(self.leaving):
            if next(each[1], "gone") == "gone":
                self.leaving.remove(each)


class Session:
    """One client of the Service: each call goes to any proxy."""

    def __init__(self, show: Show) -> None:
        self.show, self.count = show, 0
        client = {"name": "rehearsal", "version": "1"}
        params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client}
        answer = self.post("initialize", params)
        self.id = answer.headers["mcp-session-id"]
        self.post("notifications/initialized", None)

    def post(self, method: str, params: Any) -> httpx2.Response:
        port = self.show.service["spec"]["ports"][0]["port"]
        url = f"http://{random.choice(self.show.proxies).address}:{port}/mcp"
        body: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            body |= {"id": 1, "params": params}
        own = {"Mcp-Session-Id": self.id, "MCP-Protocol-Version": "2025-06-18"} if hasattr(self, "id") else {}
        answer = self.show.wire.inside(lambda: httpx2.post(url, json=body, headers={**HEADERS, **own}, timeout=30))
        assert answer.status_code < 300, answer.text
        return answer

    def call(self) -> None:
        """The session's own counter, which only its own replica has."""
        answer = self.post("tools/call", {"name": "counter", "arguments": {}}).text
        # As an event stream, or as JSON alone.
        data = next(line for line in answer.splitlines() if line.startswith(("data: {", "{")))
        self.count += 1
        result = json.loads(data.removeprefix("data: "))["result"]
        assert str(self.count) in result["content"][0]["text"], result


def await_true(holds: Callable[[], bool], pod: pods.Pod, seconds_max: float = 60.0) -> None:
    ends = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < ends, pod.log.read_text()[-3000:]
        time.sleep(0.1)


@pytest.fixture
def show(tmp_path: pathlib.Path) -> Iterator[Show]:
    provision.python("mcp2")
    program = redis_server.binary("valkey")
    assert program is not None
    with contextlib.ExitStack() as stack:
        stage = Show(stack.enter_context(pods.Wire(tmp_path)))
        store = stage.wire.add("redis", dns="redis.tools.svc.cluster.local")
        store.start([program, "--bind", "0.0.0.0", "--requirepass", PASSWORD, "--save", "", "--dir", str(tmp_path)], {})
        for ordinal in range(stage.objects["StatefulSet", "weather"]["spec"]["replicas"]):
            stage.start_backend(ordinal)
        for _ in range(stage.objects["Deployment", "weather"]["spec"]["replicas"]):
            stage.proxies.append(stage.start_proxy())
        for pod in stage.proxies:
            await_true(lambda pod=pod: pod.probe("readinessProbe"), pod)  # type: ignore[misc]
        yield stage


def read_records(show: Show) -> dict[str, dict[str, Any]]:
    address = show.wire.names["redis.tools.svc.cluster.local"]

    def read() -> dict[str, dict[str, Any]]:
        with redis.Redis(host=address, password=PASSWORD, db=1, protocol=2) as client:
            texts = {
                key.decode(): client.get(key) or b"" for key in client.scan_iter("fastproxy:tools/weather:session:*")
            }
        # Beside the records, proxies tell each other there how full the replicas are.
        return {key.rpartition(":")[2]: json.loads(text) for key, text in texts.items() if text.startswith(b"{")}

    return show.wire.inside(read)


def test_a_rendered_server_is_one_server_that_outlives_its_proxies_and_grows(show: Show) -> None:
    sessions = [Session(show) for _ in range(6)]
    for _ in range(3):
        for session in sessions:
            session.call()
    records = read_records(show)
    assert set(records) == {session.id for session in sessions}
    homes = {record["backend_url"] for record in records.values()}
    assert homes == {f"http://weather-{ordinal}.{HEADLESS}:8000" for ordinal in (0, 1)}
    assert {record["backend_pod"] for record in records.values()} == {"weather-0", "weather-1"}

    # Rolled with maxUnavailable 0 and maxSurge 1: a new one is ready before an old one leaves. Sessions go on
    # meanwhile.
    for old in list(show.proxies):
        new = show.start_proxy()
        ends = time.monotonic() + 60
        while not new.probe("readinessProbe"):
            assert time.monotonic() < ends, new.log.read_text()[-3000:]
            random.choice(sessions).call()
            show.go_on()
        show.proxies.append(new)
        show.dismiss(old)
    while show.leaving:
        for session in sessions:
            session.call()
        show.go_on()
    assert all(new.probe("livenessProbe") for new in show.proxies)

    # One replica more: nothing but the ConfigMap tells the running proxies.
    show.objects = show.render(backendReplicas=3)
    show.start_backend(2)
    show.update_config()
    ends = time.monotonic() + 60
    while not any(record["backend_pod"] == "weather-2" for record in read_records(show).values()):
        assert time.monotonic() < ends, show.proxies[0].log.read_text()[-3000:]
        sessions.append(Session(show))
        time.sleep(0.5)
    for session in sessions:
        session.call()


@pytest.mark.parametrize("given", ["command", "entry point"])
def test_a_rendered_stdio_server_is_started_by_its_one_proxy(tmp_path: pathlib.Path, given: str) -> None:
    """`entry point`: the image's own is `fastproxy serve -- COMMAND`, and all else comes by variables."""
    command = [str(provision.python("mcp2")), str(backends.PROGRAMS / "stdio_server.py"), "mcp2"]
    spec: dict[str, Any] = {"image": "example.com/notes", "replicas": 3, "drain": {"delay": "1s"}}
    if given == "command":
        spec["podTemplateSpec"] = {"spec": {"containers": [{"name": "mcp", "command": command}]}}
    resource = {
        "apiVersion": "toolhive.stacklok.dev/v1beta1",
        "kind": "MCPServer",
        "metadata": {"name": "notes"},
        "spec": spec,
    }
    printed = run("render", "-", text=yaml.safe_dump(resource)).stdout
    objects = {each["kind"]: each for each in yaml.safe_load_all(printed)}
    assert objects["Deployment"]["spec"]["replicas"] == 1
    with pods.Wire(tmp_path) as wire:
        show = Show(wire)
        show.service = objects["Service"]
        pod = wire.add("notes")
        entry_point = [] if given == "command" else ["fastproxy", "serve", "--", *command]
        pod.start_template(objects["Deployment"]["spec"]["template"], objects["ConfigMap"], {}, entry_point)
        await_true(lambda: pod.probe("readinessProbe"), pod)
        show.proxies.append(pod)
        sessions = [Session(show) for _ in range(2)]
        for session in [*sessions, *sessions]:
            session.call()
        show.dismiss(pod)
        while show.leaving:
            time.sleep(0.1)
            show.go_on()
