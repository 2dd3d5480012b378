"""The life of each resource against a real API server: made, scaled, edited, broken, mended, deleted.

Real: etcd, kube-apiserver and kube-controller-manager (Debian's 1.20), kubectl, and the operator as a program under the
rights that `fastproxy crds --rights` prints. Not real: nodes; a pod is ready when the test says so through its status.
Not covered, since this server does not know them: rules in CEL, policy/v1.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.operator import cluster, stage
from tests.operator.stage import eventually

GROUP = "toolhive.stacklok.dev/v1beta1"
DESIGN = pathlib.Path(__file__).parent / "golden" / "design.yaml"
REDIS = {"provider": "redis", "address": "redis:6379"}


@pytest.fixture(scope="module", autouse=True)
def operator(control_plane: cluster.Cluster) -> Iterator[None]:
    with stage.operating(control_plane):
        yield


def server(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"image": "example.com/server:1", "transport": "streamable-http", **spec}
    return {"apiVersion": GROUP, "kind": "MCPServer", "metadata": {"name": name}, "spec": spec}


def versions(kubectl: stage.Kubectl) -> dict[tuple[str, str], str]:
    """Of each object that could be touched: what it is made of, without what controllers count there."""
    found = kubectl.find_all("deployments,statefulsets,services,configmaps,serviceaccounts")
    return {
        (each["kind"], each["metadata"]["name"]): str(
            each["metadata"].get("generation") or each["metadata"]["resourceVersion"]
        )
        for each in found
        if "fastproxy-operator" in (each["metadata"].get("labels") or {}).values()
    }


def test_the_yaml_of_the_design_becomes_a_scaled_server_and_a_vmcp(kubectl: stage.Kubectl) -> None:
    resources = [
        {**each, "metadata": {"name": each["metadata"]["name"]}} for each in yaml.safe_load_all(DESIGN.read_text())
    ]
    kubectl.apply(*resources)
    kubectl.await_observed("mcpserver", "weather")
    stateful_set = kubectl.get("statefulset", "weather")
    assert stateful_set["spec"]["serviceName"] == "mcp-weather-headless"
    assert (stateful_set["spec"]["replicas"], kubectl.get("deployment", "weather")["spec"]["replicas"]) == (2, 3)
    kubectl.await_observed("virtualmcpserver", "everything")
    assert kubectl.get("deployment", "everything")["spec"]["replicas"] == 3
    eventually(lambda: kubectl.get("mcpgroup", "team").get("status", {}).get("servers") == ["weather"])
    config = yaml.safe_load(kubectl.get("configmap", "vmcp-everything-config")["data"]["fastproxy.yaml"])
    url = f"http://mcp-weather-proxy.{kubectl.namespace}.svc.cluster.local:8080/mcp"
    assert config["backends"] == [{"name": "weather", "url": url, "transport": "streamable-http"}]

    assert kubectl.get("mcpserver", "weather")["status"]["phase"] == "Pending"
    eventually(lambda: len(kubectl.find_all("pods")) == 8)
    kubectl.pretend_ready("deployment", "weather", 3)
    status = eventually(lambda: _ready(kubectl.get("mcpserver", "weather")))
    assert (status["readyReplicas"], status["replicas"], status["url"]) == (3, 3, url)
    kubectl.pretend_ready("deployment", "everything", 3)
    assert eventually(lambda: _ready(kubectl.get("virtualmcpserver", "everything")))["backendCount"] == 1
    assert kubectl.condition("mcpserver", "weather", "SessionStorageWarning")["reason"] == "SessionStorageConfigured"


def _ready(resource: dict[str, Any]) -> dict[str, Any] | None:
    status: dict[str, Any] = resource.get("status") or {}
    return status if status.get("phase") == "Ready" else None


def test_a_replica_count_changes_its_own_object_and_restarts_no_pod(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s", replicas=2, backendReplicas=2, sessionStorage=REDIS))
    kubectl.await_observed("mcpserver", "s")
    before = versions(kubectl)
    kubectl.patch("mcpserver", "s", {"spec": {"replicas": 4}})
    eventually(lambda: kubectl.get("deployment", "s")["spec"]["replicas"] == 4)
    kubectl.await_observed("mcpserver", "s")
    after = versions(kubectl)
    assert {key for key in after if after[key] != before[key]} == {("Deployment", "s")}
    revision = kubectl.get("deployment", "s")["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
    assert revision == "1"

    kubectl.patch("mcpserver", "s", {"spec": {"backendReplicas": 3}})
    eventually(lambda: "replicas=3" in kubectl.get("configmap", "mcp-s-proxy-config")["data"]["fastproxy.yaml"])
    kubectl.await_observed("mcpserver", "s")
    last = versions(kubectl)
    # The proxies read their ConfigMap again by themselves.
    assert {key for key in last if last[key] != after[key]} == {
        ("StatefulSet", "s"),
        ("ConfigMap", "mcp-s-proxy-config"),
    }


def test_a_count_that_nobody_set_is_left_to_whoever_scales(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s"))
    kubectl.await_observed("mcpserver", "s")
    kubectl.run("scale", "deployment", "s", "--replicas=3")
    kubectl.run("scale", "statefulset", "s", "--replicas=4")
    # An edit of something else makes the operator apply everything once more.
    kubectl.patch("mcpserver", "s", {"spec": {"args": ["--fast"], "sessionTTL": "1h"}})
    eventually(lambda: "1h" in str(kubectl.get("deployment", "s")["spec"]["template"]))
    eventually(lambda: "--fast" in str(kubectl.get("statefulset", "s")["spec"]["template"]))
    assert kubectl.get("deployment", "s")["spec"]["replicas"] == 3
    assert kubectl.get("statefulset", "s")["spec"]["replicas"] == 4
    eventually(lambda: "replicas=4" in kubectl.get("configmap", "mcp-s-proxy-config")["data"]["fastproxy.yaml"])


def test_a_count_that_is_no_longer_set_stays_as_it_is(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s", replicas=5, backendReplicas=3))
    kubectl.await_observed("mcpserver", "s")
    kubectl.patch("mcpserver", "s", {"spec": {"replicas": None, "backendReplicas": None}})
    kubectl.await_observed("mcpserver", "s")
    eventually(lambda: not _owns_count(kubectl.get("deployment", "s")))
    assert kubectl.get("deployment", "s")["spec"]["replicas"] == 5
    eventually(lambda: not _owns_count(kubectl.get("statefulset", "s")))
    assert kubectl.get("statefulset", "s")["spec"]["replicas"] == 3
    kubectl.run("scale", "deployment", "s", "--replicas=2")
    kubectl.patch("mcpserver", "s", {"spec": {"replicas": 6}})
    eventually(lambda: kubectl.get("deployment", "s")["spec"]["replicas"] == 6)


def _owns_count(live: dict[str, Any]) -> bool:
    return any(
        entry["manager"] == "fastproxy-operator" and "f:replicas" in entry["fieldsV1"].get("f:spec", {})
        for entry in live["metadata"]["managedFields"]
    )


def test_a_set_count_is_taken_back_where_somebody_scales_past_it(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s", replicas=2))
    kubectl.await_observed("mcpserver", "s")
    kubectl.run("scale", "deployment", "s", "--replicas=7")
    eventually(lambda: kubectl.get("deployment", "s")["spec"]["replicas"] == 2)


def test_an_autoscaler_scales_the_resource_itself(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s", replicas=1))
    kubectl.await_observed("mcpserver", "s")
    path = f"/apis/{GROUP}/namespaces/{kubectl.namespace}/mcpservers/s/scale"
    scale = eventually(lambda: (found := _read_raw(kubectl, path))["status"].get("selector") and found)
    assert set(scale["status"]["selector"].split(",")) >= {"app=mcpserver", "toolhive-name=s"}
    assert len(kubectl.run("get", "pods", "-l", scale["status"]["selector"], "-o", "name").split()) == 1
    kubectl.run("scale", "mcpserver", "s", "--replicas=4")
    eventually(lambda: kubectl.get("deployment", "s")["spec"]["replicas"] == 4)
    eventually(lambda: _read_raw(kubectl, path)["status"]["replicas"] == 4)


def _read_raw(kubectl: stage.Kubectl, path: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(kubectl.run("get", "--raw", path))
    return found


def test_a_stdio_server_has_one_proxy_whatever_is_asked_for(kubectl: stage.Kubectl) -> None:
    template = {"spec": {"containers": [{"name": "mcp", "command": ["serve-notes"]}]}}
    kubectl.apply(server("s", transport="stdio", replicas=3, podTemplateSpec=template))
    condition = kubectl.await_condition("mcpserver", "s", "StdioReplicaCapped", "StdioTransportCapAt1")
    assert condition["status"] == "True" and "replicas 3" in condition["message"]
    assert kubectl.get("deployment", "s")["spec"]["replicas"] == 1
    kubectl.run("scale", "deployment", "s", "--replicas=3")
    eventually(lambda: kubectl.get("deployment", "s")["spec"]["replicas"] == 1)
    assert kubectl.find("statefulset", "s") is None
    kubectl.await_condition("mcpserver", "s", "StdioCommandGiven", "CommandOfTemplate")
    kubectl.patch("mcpserver", "s", {"spec": {"podTemplateSpec": None}})
    kubectl.await_condition("mcpserver", "s", "StdioCommandGiven", "EntryPointOfImage")


def test_proxies_move_into_the_pods_of_their_server_and_out_again(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s", replicas=2, proxyPort=9090, sessionStorage=REDIS))
    kubectl.await_observed("mcpserver", "s")
    kubectl.patch("mcpserver", "s", {"spec": {"sidecar": True}})
    kubectl.await_observed("mcpserver", "s")
    eventually(lambda: kubectl.find("deployment", "s") is None)
    containers = kubectl.get("statefulset", "s")["spec"]["template"]["spec"]["containers"]
    assert [each["name"] for each in containers] == ["mcp", "fastproxy"]
    assert kubectl.get("service", "mcp-s-proxy")["spec"]["selector"] == {"app": "s"}
    kubectl.run("scale", "mcpserver", "s", "--replicas=3")
    eventually(lambda: kubectl.get("statefulset", "s")["spec"]["replicas"] == 3)
    assert "replicas=3" in kubectl.get("configmap", "mcp-s-proxy-config")["data"]["fastproxy.yaml"]
    eventually(lambda: len(kubectl.find_all("pods")) >= 3)
    kubectl.patch("mcpserver", "s", {"spec": {"sidecar": None}})
    eventually(lambda: kubectl.find("deployment", "s"))
    eventually(lambda: len(kubectl.get("statefulset", "s")["spec"]["template"]["spec"]["containers"]) == 1)


@pytest.mark.parametrize("name", ["design", "least", "remote", "sidecar", "stdio", "whole"])
def test_what_is_rendered_is_accepted_by_the_server(kubectl: stage.Kubectl, name: str) -> None:
    text = (DESIGN.parent / f"{name}.rendered.yaml").read_text()
    # policy/v1 is younger than this server.
    objects = [each for each in yaml.safe_load_all(text) if each["kind"] != "PodDisruptionBudget"]
    for each in objects:
        each["metadata"]["namespace"] = kubectl.namespace
    answer = kubectl.run(
        "apply", "--server-side", "--dry-run=server", "--validate=false", "-f", "-", text=yaml.safe_dump_all(objects)
    )
    assert answer.count("serverside-applied") == len(objects)


def test_redis_is_switched_on_and_off_again(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s", replicas=1, backendReplicas=2))
    condition = kubectl.await_condition("mcpserver", "s", "SessionStorageWarning", "SessionStorageMissingForReplicas")
    assert condition["status"] == "True" and "backendReplicas" in condition["message"]
    assert kubectl.get("statefulset", "s")["spec"]["replicas"] == 2  # advisory: the count is applied all the same
    storage = {**REDIS, "passwordRef": {"name": "redis", "key": "password"}}
    kubectl.patch("mcpserver", "s", {"spec": {"sessionStorage": storage}})
    kubectl.await_condition("mcpserver", "s", "SessionStorageWarning", "SessionStorageConfigured")
    template = kubectl.get("deployment", "s")["spec"]["template"]["spec"]["containers"][0]
    assert template["args"][template["args"].index("--store") + 1] == "redis://redis:6379/0"
    assert {"secretKeyRef": {"name": "redis", "key": "password"}} in [each.get("valueFrom") for each in template["env"]]
    kubectl.patch("mcpserver", "s", {"spec": {"sessionStorage": None, "backendReplicas": 1}})
    kubectl.await_condition("mcpserver", "s", "SessionStorageWarning", "SessionStorageWarningNotApplicable")
    assert "redis" not in str(kubectl.get("deployment", "s")["spec"]["template"])


def test_two_resources_of_one_prefix_are_told_of_each_other(kubectl: stage.Kubectl) -> None:
    storage = {**REDIS, "keyPrefix": f"{kubectl.namespace}:"}
    kubectl.apply(server("one", sessionStorage=storage), server("two", sessionStorage=storage))
    condition = kubectl.await_condition("mcpserver", "one", "SessionStorageWarning", "SessionStoragePrefixShared")
    assert f"{kubectl.namespace}/two" in condition["message"]
    kubectl.await_condition("mcpserver", "two", "SessionStorageWarning", "SessionStoragePrefixShared")
    kubectl.run("delete", "mcpserver", "two")
    kubectl.await_condition("mcpserver", "one", "SessionStorageWarning", "SessionStorageWarningNotApplicable")


def test_what_is_deleted_or_edited_by_hand_is_mended(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s", replicas=2, backendReplicas=2))
    kubectl.await_observed("mcpserver", "s")
    before = versions(kubectl)
    kubectl.run(
        "delete", "service,configmap,deployment,statefulset,serviceaccount", "-l", "toolhive-name=s", "--wait=false"
    )
    eventually(lambda: versions(kubectl).keys() == before.keys())
    kubectl.patch("service", "mcp-s-proxy", {"spec": {"sessionAffinity": "None"}})
    eventually(lambda: kubectl.get("service", "mcp-s-proxy")["spec"]["sessionAffinity"] == "ClientIP")
    # What is nobody's wish of ours stays.
    kubectl.run("annotate", "service", "mcp-s-proxy", "note=kept")
    kubectl.patch("mcpserver", "s", {"spec": {"sessionAffinity": "None"}})
    eventually(lambda: kubectl.get("service", "mcp-s-proxy")["spec"]["sessionAffinity"] == "None")
    assert kubectl.get("service", "mcp-s-proxy")["metadata"]["annotations"]["note"] == "kept"
    kubectl.run("rollout", "restart", "deployment", "s")
    kubectl.patch("mcpserver", "s", {"spec": {"cacheSessions": 7}})
    eventually(lambda: "--cache-sessions" in str(kubectl.get("deployment", "s")["spec"]["template"]))
    annotations = kubectl.get("deployment", "s")["spec"]["template"]["metadata"]["annotations"]
    assert "kubectl.kubernetes.io/restartedAt" in annotations


def test_an_invalid_resource_is_told_once_per_generation_and_holds_nobody_up(kubectl: stage.Kubectl) -> None:
    bad = server("bad", podTemplateSpec={"spec": {"containers": "none"}}, drain={"delay": "5s"})
    kubectl.apply(bad, server("good"))
    kubectl.await_observed("mcpserver", "good")
    condition = kubectl.await_condition("mcpserver", "bad", "PodTemplateValid", "InvalidPodTemplateSpec")
    assert "expected spec.containers to be a list, got text" in condition["message"]
    assert kubectl.get("mcpserver", "bad")["status"]["phase"] == "Failed"
    (event,) = eventually(lambda: kubectl.events("bad"))
    assert (event["type"], event["reason"]) == ("Warning", "InvalidPodTemplateSpec")
    assert kubectl.find("deployment", "bad") is None
    # Looked at again, for another reason than an edit of it: not told again. An edit that does not help is told anew.
    kubectl.run("annotate", "mcpserver", "bad", "looked=again")
    kubectl.patch("mcpserver", "bad", {"spec": {"image": "example.com/other"}})
    eventually(lambda: len(kubectl.events("bad")) == 2)
    kubectl.patch("mcpserver", "bad", {"spec": {"podTemplateSpec": None}})
    kubectl.await_condition("mcpserver", "bad", "PodTemplateValid", "ValidPodTemplateSpec")
    assert kubectl.get("deployment", "bad")
    assert len(kubectl.events("bad")) == 2


def test_what_the_schema_can_see_is_refused_at_the_door(kubectl: stage.Kubectl) -> None:
    for spec in (
        {"replicas": -1},
        {"transport": "telnet"},
        {"proxyPort": 70000},
        {"sessionStorage": {"provider": "disk"}},
    ):
        answer = kubectl.run(
            "apply", "--validate=false", "-f", "-", text=yaml.safe_dump(server("s", **spec)), check=False
        )
        assert ("spec." in answer and "nvalid" in answer) or "nsupported" in answer, answer
    explained = kubectl.run("explain", "mcpserver.spec.sessionStorage.passwordRef")
    assert "Secret that holds the password" in explained


def test_a_protection_that_cannot_be_enforced_holds_the_roll_out(kubectl: stage.Kubectl) -> None:
    kubectl.apply(
        server("s", oidcConfigRef={"name": "corporate"}, permissionProfile={"type": "builtin", "name": "none"})
    )
    kubectl.await_condition("mcpserver", "s", "SpecValid", "ProtectionNotSupported")
    condition = kubectl.condition("mcpserver", "s", "UnsupportedFields")
    assert "spec.permissionProfile" in condition["message"] and "spec.oidcConfigRef" in condition["message"]
    assert kubectl.find("deployment", "s") is None
    kubectl.run("annotate", "mcpserver", "s", "fastproxy.dev/accept-unprotected=true")
    kubectl.await_condition("mcpserver", "s", "SpecValid", "Valid")
    assert kubectl.get("deployment", "s")


def test_a_group_knows_its_members_and_a_vmcp_follows_it(kubectl: stage.Kubectl) -> None:
    virtual = {
        "apiVersion": GROUP,
        "kind": "VirtualMCPServer",
        "metadata": {"name": "all"},
        "spec": {"groupRef": {"name": "g"}, "incomingAuth": {"type": "anonymous"}},
    }
    remote = {
        "apiVersion": GROUP,
        "kind": "MCPRemoteProxy",
        "metadata": {"name": "far"},
        "spec": {"remoteUrl": "https://mcp.example.com/mcp", "groupRef": {"name": "g"}},
    }
    kubectl.apply(virtual, server("near", groupRef={"name": "g"}))
    kubectl.await_condition("mcpserver", "near", "GroupRefValidated", "GroupRefNotFound")
    group = {"apiVersion": GROUP, "kind": "MCPGroup", "metadata": {"name": "g"}, "spec": {"description": "ours"}}
    kubectl.apply(group, remote)
    kubectl.await_condition("mcpserver", "near", "GroupRefValidated", "GroupRefIsValid")
    eventually(lambda: (kubectl.get("mcpgroup", "g").get("status") or {}).get("remoteProxies") == ["far"])
    eventually(lambda: kubectl.get("virtualmcpserver", "all")["status"]["backendCount"] == 2)
    checksum = _checksum(kubectl)
    kubectl.run("delete", "mcpserver", "near")
    eventually(lambda: kubectl.get("virtualmcpserver", "all")["status"]["backendCount"] == 1)
    assert eventually(lambda: _checksum(kubectl) != checksum)
    eventually(lambda: kubectl.get("mcpgroup", "g")["status"]["serverCount"] == 0)
    columns = kubectl.run("get", "mcpg").split("\n")[0].split()
    assert columns == ["NAME", "SERVERS", "PROXIES", "PHASE", "CHECKED", "AGE"]


def _checksum(kubectl: stage.Kubectl) -> str:
    annotations = kubectl.get("deployment", "all")["spec"]["template"]["metadata"]["annotations"]
    return str(annotations["fastproxy.dev/config-checksum"])


def test_an_object_that_is_no_longer_wanted_goes_and_a_deleted_resource_leaves_nothing(kubectl: stage.Kubectl) -> None:
    kubectl.apply(server("s", backendReplicas=1))
    kubectl.await_observed("mcpserver", "s")
    assert ("StatefulSet", "s") in versions(kubectl)
    template = {"spec": {"containers": [{"name": "mcp", "command": ["serve-notes"]}]}}
    kubectl.patch("mcpserver", "s", {"spec": {"transport": "stdio", "podTemplateSpec": template}})
    eventually(
        lambda: {kind for kind, _ in versions(kubectl)} == {"Deployment", "Service", "ConfigMap", "ServiceAccount"}
    )
    kubectl.run("create", "configmap", "not-ours")
    kubectl.run("delete", "mcpserver", "s")
    assert kubectl.find("mcpserver", "s") is None
    eventually(lambda: not versions(kubectl))
    assert kubectl.find("configmap", "not-ours")
