"""Any start converges: what the operator before us left, what belongs to others, two operators, deaths between any two
calls, an API server that fails in every way.

Real: the control plane of cluster.py, with its garbage collector. The operator runs as a task of the test where a hand
on its wire is needed: there the test counts requests, ends the operator before or after one of them, or answers in the
server's place.
"""

import asyncio
import os
import subprocess
import time
from typing import Any

import httpx2
import pytest

from tests.operator import cluster, stage
from tests.operator.stage import eventually
from tests.operator.test_life import server

WHOLE = os.environ.get("KIT_MATRIX") == "1"
LABELS = {"app": "mcpserver", "toolhive": "true", "toolhive-name": "s"}
SELECTOR = {
    "app": "mcpserver",
    "app.kubernetes.io/name": "mcpserver",
    "app.kubernetes.io/instance": "s",
    "toolhive": "true",
    "toolhive-name": "s",
}


def make(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    version = "apps/v1" if kind in ("Deployment", "StatefulSet") else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}


def workload(labels: dict[str, str], **container: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"image": "example.com/old", **container}]}}
    return {"selector": {"matchLabels": labels}, "template": template}


def leave_predecessor(kubectl: stage.Kubectl) -> None:
    """What ToolHive's operator and its proxyrunner leave for an MCPServer `s`: the wrong serviceName included."""
    kubectl.apply(server("s", backendReplicas=2))
    resource = kubectl.get("mcpserver", "s")
    owner = {
        "apiVersion": resource["apiVersion"],
        "kind": "MCPServer",
        "name": "s",
        "uid": resource["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    env = [{"name": "TOOLHIVE_RUNTIME", "value": "kubernetes"}]
    deployment = {**workload(SELECTOR, name="toolhive", args=["run"], env=env), "replicas": 4}
    kubectl.create(make("Deployment", "s", deployment, labels=LABELS, ownerReferences=[owner]), "thv-operator")
    backend = {**workload({"app": "s"}, name="mcp"), "serviceName": "s", "replicas": 2}
    kubectl.create(
        make("StatefulSet", "s", backend, labels={"app": "s", "toolhive": "true"}), "toolhive-container-manager"
    )
    stateful_set = kubectl.get("statefulset", "s")
    below = {**owner, "apiVersion": "apps/v1", "kind": "StatefulSet", "uid": stateful_set["metadata"]["uid"]}
    ports = {"ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "selector": {"app": "s"}}
    for name, spec in (("mcp-s-headless", {**ports, "clusterIP": "None"}), ("mcp-s", ports)):
        labels = {"app": "s", "toolhive": "true"}
        kubectl.create(
            make("Service", name, spec, labels=labels, ownerReferences=[below]), "toolhive-container-manager"
        )
    # One of two backends: without a kubelet the first never gets ready.
    eventually(lambda: len(kubectl.find_all("pods")) == 5)


def test_what_the_operator_before_us_made_is_taken_over_with_its_pods(
    control_plane: cluster.Cluster, kubectl: stage.Kubectl
) -> None:
    leave_predecessor(kubectl)
    uids = {each["metadata"]["uid"] for each in kubectl.find_all("pods") if each["metadata"]["name"].startswith("s-0")}
    old = {kind: kubectl.get(kind, "s")["metadata"]["uid"] for kind in ("deployment", "statefulset")}
    with stage.operating(control_plane, "--namespace", kubectl.namespace):
        eventually(
            lambda: (kubectl.find("statefulset", "s") or {}).get("spec", {}).get("serviceName") == "mcp-s-headless"
        )
        kubectl.await_condition("mcpserver", "s", "ObjectsApplied", "Applied")
        deployment, stateful_set = kubectl.get("deployment", "s"), kubectl.get("statefulset", "s")
        assert deployment["metadata"]["uid"] == old["deployment"]
        assert stateful_set["metadata"]["uid"] != old["statefulset"]
        # Nothing of the old container is left beside ours, and the count that nobody set stays what it was.
        assert [each["name"] for each in deployment["spec"]["template"]["spec"]["containers"]] == ["fastproxy"]
        assert "TOOLHIVE_RUNTIME" not in str(deployment["spec"])
        assert deployment["spec"]["replicas"] == 4
        (event,) = eventually(lambda: [each for each in kubectl.events("s") if each["reason"] == "Replaced"])
        assert "its pods kept" in event["message"]
        # The pods were never without an owner for the collector to take; the new set rolls them one by one.
        left = {each["metadata"]["uid"] for each in kubectl.find_all("pods") if each["metadata"]["name"] == "s-0"}
        assert left == uids
        headless = kubectl.get("service", "mcp-s-headless")
        assert [each["kind"] for each in headless["metadata"]["ownerReferences"]] == ["MCPServer"]
        kubectl.run("delete", "mcpserver", "s")
        eventually(lambda: kubectl.find("service", "mcp-s") is None)


def test_what_belongs_to_somebody_else_is_reported_and_left_alone(
    control_plane: cluster.Cluster, kubectl: stage.Kubectl
) -> None:
    theirs = workload({"app": "theirs"}, name="theirs")
    kubectl.create(make("Deployment", "s", theirs, labels={"app": "theirs"}), "kubectl")
    with stage.operating(control_plane, "--namespace", kubectl.namespace):
        kubectl.apply(server("s"))
        condition = kubectl.await_condition("mcpserver", "s", "ObjectsApplied", "OwnershipConflict")
        assert "Deployment s exists and belongs to nobody" in condition["message"]
        assert kubectl.get("statefulset", "s"), "the others are not held up"
        assert kubectl.get("deployment", "s")["spec"]["template"]["spec"]["containers"][0]["name"] == "theirs"
        assert kubectl.get("mcpserver", "s")["status"]["phase"] == "Failed"
        assert [each["reason"] for each in kubectl.events("s")] == ["OwnershipConflict"]
        # Handed over as the message says: its selector cannot be changed, so it is made anew.
        kubectl.run("label", "deployment", "s", "toolhive-name=s")
        kubectl.await_condition("mcpserver", "s", "ObjectsApplied", "Applied")
        assert kubectl.get("deployment", "s")["spec"]["template"]["spec"]["containers"][0]["name"] == "fastproxy"


def test_a_field_that_another_applies_is_reported_not_fought_and_an_edit_is_taken_back(
    control_plane: cluster.Cluster, kubectl: stage.Kubectl
) -> None:
    with stage.operating(control_plane, "--namespace", kubectl.namespace):
        kubectl.apply(server("s"))
        kubectl.await_observed("mcpserver", "s")
        theirs = "\n".join(
            ("apiVersion: v1", "kind: Service", "metadata: {name: mcp-s-proxy}", "spec: {sessionAffinity: None}")
        )
        kubectl.run(
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=gitops",
            "--validate=false",
            "-f",
            "-",
            text=theirs,
        )
        condition = kubectl.await_condition("mcpserver", "s", "ObjectsApplied", "OwnershipConflict")
        assert "gitops: .spec.sessionAffinity" in condition["message"]
        version = kubectl.get("service", "mcp-s-proxy")["metadata"]["resourceVersion"]
        kubectl.patch("mcpserver", "s", {"spec": {"sessionTTL": "1h"}})
        eventually(lambda: "1h" in str(kubectl.get("deployment", "s")["spec"]["template"]))
        assert kubectl.get("service", "mcp-s-proxy")["metadata"]["resourceVersion"] == version
        kubectl.patch("deployment", "s", {"spec": {"strategy": {"rollingUpdate": {"maxSurge": 3}}}})
        eventually(lambda: kubectl.get("deployment", "s")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 1)


def test_two_operators_at_once_do_no_harm(control_plane: cluster.Cluster, kubectl: stage.Kubectl) -> None:
    async def run() -> None:
        wires = stage.Wire(control_plane), stage.Wire(control_plane)
        async with (
            stage.operating_here(control_plane, wires[0], kubectl.namespace) as one,
            stage.operating_here(control_plane, wires[1], kubectl.namespace) as two,
        ):
            bad = server("bad", sessionStorage={"provider": "redis"}, drain={"delay": "99999h"})
            await asyncio.to_thread(kubectl.apply, *(server(f"s{number}", replicas=2) for number in range(5)), bad)
            for _ in range(2):
                await stage.settle(one)
                await stage.settle(two)
            for number in range(5):
                await asyncio.to_thread(kubectl.await_observed, "mcpserver", f"s{number}")
            await stage.settle(one)
            await stage.settle(two)
            counts = [len(wire.requests) for wire in wires]
            await asyncio.sleep(1.5)
            assert [len(wire.requests) for wire in wires] == counts, "they keep each other busy"
            assert len(await asyncio.to_thread(kubectl.events, "bad")) == len({"drain", "storage"})
            await asyncio.to_thread(kubectl.run, "delete", "mcpserver", "--all")
            assert not await asyncio.to_thread(kubectl.find_all, "mcpservers,deployments,statefulsets,services")

    asyncio.run(run())


def test_an_operator_that_dies_between_any_two_calls_is_succeeded_by_one_that_goes_on(
    control_plane: cluster.Cluster, kubectl: stage.Kubectl
) -> None:
    """Made and deleted with a death at every write in turn, before it and after it."""

    async def live(name: str, fatal: int, *, done: bool) -> bool:
        """One life of a resource, with a death at its write number `fatal`; whether there was such a write."""
        wire = stage.Wire(control_plane)
        died, writes = asyncio.Event(), 0

        async def die(request: httpx2.Request) -> httpx2.Response | None:
            nonlocal writes
            if request.method != "GET" and not died.is_set():
                writes += 1
                if writes == fatal:
                    died.set()
            if died.is_set():
                await asyncio.Event().wait()  # nothing of it happens any more
            return None

        if done:
            wire.after = die
        else:
            wire.before = die
        for phase in ("made", "deleted"):
            async with stage.operating_here(control_plane, wire, kubectl.namespace) as operator:
                if phase == "made":
                    await asyncio.to_thread(kubectl.apply, server(name, replicas=2, backendReplicas=1))
                elif not died.is_set():
                    await asyncio.to_thread(kubectl.run, "delete", "mcpserver", name, "--wait=false")
                settled = asyncio.ensure_future(stage.settle(operator, 0.3))
                await asyncio.wait({settled, asyncio.ensure_future(died.wait())}, return_when=asyncio.FIRST_COMPLETED)
                settled.cancel()
        successor = stage.Wire(control_plane)
        async with stage.operating_here(control_plane, successor, kubectl.namespace) as operator:
            await stage.settle(operator, 0.2)
            found = await asyncio.to_thread(kubectl.find, "mcpserver", name)
            if found is not None and "deletionTimestamp" not in found["metadata"]:
                await asyncio.to_thread(kubectl.await_observed, "mcpserver", name)
                assert len(await asyncio.to_thread(kubectl.find_all, "deployments")) == 1
                await asyncio.to_thread(kubectl.run, "delete", "mcpserver", name)
            await asyncio.to_thread(eventually, lambda: kubectl.find("mcpserver", name) is None)
            await asyncio.to_thread(
                eventually, lambda: not kubectl.find_all("deployments,statefulsets,services,configmaps")
            )
        return died.is_set()

    async def run() -> None:
        fatal = 0
        for fatal in range(1, 60):
            if not WHOLE and fatal % 5 != 2:
                continue
            if not await live(f"s{fatal}", fatal, done=bool(fatal % 2) if not WHOLE else False):
                break
            if WHOLE:
                await live(f"t{fatal}", fatal, done=True)
        assert fatal > 15, "the life was shorter than its writes"

    asyncio.run(run())


@pytest.mark.parametrize(
    "code", [pytest.param(code, id=str(code)) for code in ((409, 410, 429, 500, 503) if WHOLE else (409, 500))]
)
def test_refusals_that_pass_are_tried_again_per_object_and_later_and_later(
    control_plane: cluster.Cluster, kubectl: stage.Kubectl, code: int
) -> None:
    async def run() -> None:
        wire = stage.Wire(control_plane)
        refused: list[float] = []

        async def refuse(request: httpx2.Request) -> httpx2.Response | None:
            if request.method == "PATCH" and "ill" in request.url.path and len(refused) < 6:
                refused.append(time.monotonic())
                return stage.refuse(code, **({"Retry-After": "1"} if code == 429 else {}))
            return None

        wire.before = refuse
        async with stage.operating_here(control_plane, wire, kubectl.namespace) as operator:
            await asyncio.to_thread(kubectl.apply, server("ill"), server("well"))
            await asyncio.to_thread(kubectl.await_observed, "mcpserver", "well")
            await asyncio.to_thread(kubectl.await_condition, "mcpserver", "ill", "ObjectsApplied", "Applied")
            assert len(refused) == 6
            assert operator.failures >= 3
            assert refused[-1] - refused[0] > 0.5, "one failure is no storm"

    asyncio.run(run())


def test_broken_watches_and_a_history_that_is_gone_cost_no_news(
    control_plane: cluster.Cluster, kubectl: stage.Kubectl
) -> None:
    async def run() -> None:
        wire = stage.Wire(control_plane)
        ways = ["half", "gone", "refused", "reset", "empty"]
        broken: list[str] = []

        async def cut(request: httpx2.Request) -> httpx2.Response | None:
            if "watch=true" not in str(request.url.query) or "mcpservers" not in request.url.path or not ways:
                return None
            way = ways.pop(0)
            broken.append(way)
            if way == "half":
                return httpx2.Response(200, content=b'{"type":"MODIFIED","object":{"kind":"MCPSer')
            if way == "gone":
                status = (
                    b'{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410,"message":"too old"}}\n'
                )
                return httpx2.Response(200, content=status)
            if way == "refused":
                return stage.refuse(403)
            if way == "empty":
                return httpx2.Response(200, content=b"")
            raise httpx2.ReadError("reset by the test")

        wire.before = cut
        async with stage.operating_here(control_plane, wire, kubectl.namespace) as operator:
            await asyncio.to_thread(kubectl.apply, server("s"))
            await asyncio.to_thread(kubectl.await_observed, "mcpserver", "s")
            await asyncio.to_thread(eventually, lambda: len(broken) == 5)
            await asyncio.to_thread(kubectl.patch, "mcpserver", "s", {"spec": {"replicas": 3}})
            await asyncio.to_thread(eventually, lambda: kubectl.get("deployment", "s")["spec"]["replicas"] == 3)
            await stage.settle(operator)

    asyncio.run(run())


def test_an_api_server_that_restarts_is_found_again(control_plane: cluster.Cluster, kubectl: stage.Kubectl) -> None:
    with stage.operating(control_plane, "--namespace", kubectl.namespace):
        kubectl.apply(server("s", replicas=1))
        kubectl.await_observed("mcpserver", "s")
        control_plane.stop_server()
        time.sleep(1.0)
        control_plane.start_server()
        eventually(lambda: kubectl.run("get", "mcpserver", check=False).startswith("NAME"))
        kubectl.patch("mcpserver", "s", {"spec": {"replicas": 2}})
        eventually(lambda: kubectl.get("deployment", "s")["spec"]["replicas"] == 2, seconds_max=120)


def test_an_idle_operator_asks_nothing_and_stays_small(control_plane: cluster.Cluster, kubectl: stage.Kubectl) -> None:
    """The measured run has 500 servers (KIT_MATRIX=1); a sample of it has 40."""
    count = 500 if WHOLE else 40

    async def run() -> None:
        wire = stage.Wire(control_plane)
        async with stage.operating_here(control_plane, wire, kubectl.namespace) as operator:
            await asyncio.to_thread(kubectl.apply, *(server(f"s{number}", replicas=0) for number in range(count)))
            began = time.monotonic()
            await stage.settle(operator, 2.0, 300.0)
            seconds = time.monotonic() - began
            asked = len(wire.requests)
            await asyncio.sleep(3.0)
            assert len(wire.requests) == asked, wire.requests[asked:]
            print(f"{count} MCPServers settled in {seconds:.1f} s with {asked} requests")
            assert not WHOLE or seconds < 60, "measure it on a machine that has nothing else to do"

    asyncio.run(run())
    found = kubectl.find_all("mcpservers")
    assert len(found) == count
    assert all((each.get("status") or {}).get("phase") == "Stopped" for each in found)
    with stage.operating(control_plane, "--namespace", kubectl.namespace) as process:
        time.sleep(30 if WHOLE else 5)
        resident_mb = int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(process.pid)])) / 1024
        print(f"RSS {resident_mb:.0f} MB with {count} MCPServers")
        assert resident_mb < 60
