"""What is rendered for a table of resources, held against files that a reader can check.

Real: the command, run as a program. `golden/NAME.yaml` is rendered and compared with `golden/NAME.rendered.yaml`; with
FASTPROXY_GOLDEN=write the files are written anew, to be read in the diff. Where FASTPROXY_OPENAPI names a file of an
API server's definitions, each object is held against them, unknown fields refused. What a server says itself is in
test_cluster.py.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jsonschema
import pytest
import yaml

from fastproxy.config import load, vmcp_load
from fastproxy.operator import storage

GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.yaml") if not path.stem.endswith(".rendered"))
IMAGE = "example.com/fastproxy:1"
DEFINITIONS = os.environ.get("FASTPROXY_OPENAPI", "")


def run(*arguments: str, code: int = 0, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastproxy", *arguments]
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == code, result.stderr
    return result


@functools.cache
def render(name: str) -> str:
    return run("render", str(GOLDEN / f"{name}.yaml"), "--image", IMAGE).stdout


def objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render(name)))


def find(name: str, kind: str, called: str) -> dict[str, Any]:
    (found,) = [each for each in objects(name) if (each["kind"], each["metadata"]["name"]) == (kind, called)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_resource_is_rendered_as_its_golden_file_says(name: str) -> None:
    golden = GOLDEN / f"{name}.rendered.yaml"
    if os.environ.get("FASTPROXY_GOLDEN") == "write":
        golden.write_text(render(name))
    assert render(name) == golden.read_text()


@functools.cache
def strict_definitions() -> dict[str, Any]:
    """An API server's definitions, with what OpenAPI leaves open closed: unknown fields, numbers for int-or-string."""
    definitions: dict[str, Any] = json.loads(pathlib.Path(DEFINITIONS).read_text())
    for definition in definitions.values():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
        if definition.get("format") == "int-or-string":
            definition["type"] = ["string", "integer"]
    return definitions


@pytest.mark.skipif(not DEFINITIONS, reason="FASTPROXY_OPENAPI names no file of an API server's definitions")
@pytest.mark.parametrize("name", [*NAMES, "crds"])
def test_each_object_is_one_that_an_api_server_knows_down_to_the_last_field(name: str) -> None:
    definitions = strict_definitions()
    made = list(yaml.safe_load_all(run("crds").stdout)) if name == "crds" else objects(name)
    assert made
    for each in made:
        group, _, version = each["apiVersion"].rpartition("/")
        known = [
            key
            for key, definition in definitions.items()
            if {"group": group, "version": version, "kind": each["kind"]}
            in definition.get("x-kubernetes-group-version-kind", [])
        ]
        assert len(known) == 1, each["kind"]
        # The definitions themselves are not checked: that takes ten seconds an object.
        jsonschema.Draft202012Validator({"$ref": f"#/definitions/{known[0]}", "definitions": definitions}).validate(
            each
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_proxy_would_accept_its_arguments_its_environment_and_its_file(name: str, tmp_path: pathlib.Path) -> None:
    workloads = [each for each in objects(name) if each["kind"] in ("Deployment", "StatefulSet")]
    for pod in (each["spec"]["template"]["spec"] for each in workloads):
        for container in pod["containers"]:
            if (container.get("args") or [""])[0] not in ("serve", "vmcp"):
                continue
            config = next(each["configMap"]["name"] for each in pod["volumes"] if each["name"] == "config")
            file = tmp_path / f"{config}.yaml"
            file.write_text(find(name, "ConfigMap", config)["data"]["fastproxy.yaml"])
            given = read_flags(container["args"][1:]) | {"config": str(file)}
            # Certificates are looked at where they are; here they are not.
            variables = {each["name"]: each.get("value", "secret") for each in container["env"]}
            environ = {key: value for key, value in variables.items() if not value.startswith(storage.CERTIFICATES)}
            if container["args"][0] == "serve":
                assert load.load(given, environ).warnings == ()
            else:
                assert vmcp_load.load(given, environ, lambda _definitions: ((), ())).warnings == ()


def read_flags(words: list[str]) -> dict[str, object]:
    """As the command line hands them on."""
    given: dict[str, object] = {}
    while words:
        name, *words = words
        if name == "--":
            return given | {"command": tuple(words)}
        if not words or words[0].startswith("--"):
            given[name[2:].replace("-", "_")] = True
        else:
            given[name[2:].replace("-", "_")], *words = words
    return given


def test_a_pod_is_pinned_by_the_headless_service_that_its_stateful_set_names() -> None:
    stateful_set = find("design", "StatefulSet", "weather")
    headless = find("design", "Service", stateful_set["spec"]["serviceName"])
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["selector"].items() <= stateful_set["spec"]["template"]["metadata"]["labels"].items()
    config = yaml.safe_load(find("design", "ConfigMap", "mcp-weather-proxy-config")["data"]["fastproxy.yaml"])
    place = f"{stateful_set['metadata']['name']}.{headless['metadata']['name']}.tools:8000"
    assert config["backend"] == [f"statefulset://{place}?replicas=2"]


@pytest.mark.parametrize("name", NAMES)
def test_no_proxy_has_rights_and_every_grace_period_holds_its_drain(name: str) -> None:
    kinds = {each["kind"] for each in objects(name)}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "Secret"}
    for deployment in (each for each in objects(name) if each["kind"] == "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        arguments = container["args"]
        delay, timeout = (
            seconds(arguments[arguments.index(flag) + 1]) for flag in ("--drain-delay", "--drain-timeout")
        )
        asleep = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        assert asleep >= delay
        assert spec["terminationGracePeriodSeconds"] > asleep + delay + timeout + 5


def seconds(text: str) -> float:
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def test_a_stdio_image_with_an_entry_point_of_its_own_is_told_by_variables() -> None:
    text = """
kind: MCPServer
apiVersion: toolhive.stacklok.dev/v1beta1
metadata: {name: own, namespace: tools}
spec: {image: a, replicas: 3, args: [--verbose], sessionStorage: {provider: redis, address: "r:1", required: true}}
"""
    made = {each["kind"]: each for each in yaml.safe_load_all(run("render", "-", text=text).stdout)}
    assert made["Deployment"]["spec"]["replicas"] == 1 and "StatefulSet" not in made
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert (container["image"], container["args"], container.get("command")) == ("a", ["--verbose"], None)
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["FASTPROXY_CONFIG"] == "/etc/fastproxy/fastproxy.yaml"
    assert (variables["FASTPROXY_NAME"], variables["FASTPROXY_LISTEN"]) == ("tools/own", "0.0.0.0:8080")
    assert (variables["FASTPROXY_STORE"], variables["FASTPROXY_STORE_REQUIRED"]) == ("redis://r:1/0", "true")


def test_a_count_that_is_not_set_is_not_written() -> None:
    assert "replicas" not in find("least", "Deployment", "least")["spec"]
    assert "replicas" not in find("least", "StatefulSet", "least")["spec"]


def test_a_password_reaches_the_pod_by_its_secret_alone() -> None:
    deployment = find("design", "Deployment", "weather")
    (variable,) = [
        each
        for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        if each["name"] == "FASTPROXY_REDIS_PASSWORD"
    ]
    assert variable["valueFrom"] == {"secretKeyRef": {"name": "redis", "key": "password"}}
    assert all("password" not in str(each.get("data")) for each in objects("design"))


def test_a_change_of_replica_counts_changes_no_pod_template_and_no_other_count() -> None:
    before = {(each["kind"], each["metadata"]["name"]): each for each in objects("design")}
    text = (
        (GOLDEN / "design.yaml").read_text().replace("replicas: 3", "replicas: 7").replace("Replicas: 2", "Replicas: 5")
    )
    after = list(yaml.safe_load_all(run("render", "-", "--image", IMAGE, text=text).stdout))
    assert len(after) == len(before)
    changed = {}
    for each in after:
        old = before[each["kind"], each["metadata"]["name"]]
        if each != old:
            changed[each["kind"], each["metadata"]["name"]] = each
            assert each.get("spec", {}).get("template") == old.get("spec", {}).get("template")
    # The ConfigMap tells the running proxies how many pods there are; they read it again by themselves.
    assert set(changed) == {
        ("Deployment", "weather"),
        ("StatefulSet", "weather"),
        ("ConfigMap", "mcp-weather-proxy-config"),
        ("Deployment", "everything"),
    }


def test_every_problem_of_a_file_is_named_with_its_place_and_what_would_be_right() -> None:
    text = """
kind: MCPServer
apiVersion: toolhive.stacklok.dev/v1beta1
metadata: {name: bad-one}
spec: {image: a, transport: telnet}
---
kind: MCPServer
apiVersion: toolhive.stacklok.dev/v1beta1
metadata: {name: bad-two}
spec:
  image: a
  transport: sse
  sessionStorage: {provider: redis}
  drain: {delay: soon}
  podTemplateSpec: {spec: {containers: mcp}}
  oidcConfigRef: {name: corporate}
---
kind: MCPRemoteProxy
apiVersion: toolhive.stacklok.dev/v1beta1
metadata: {name: bad-three}
spec: {remoteUrl: "http://127.0.0.1:1/mcp"}
"""
    lines = run("render", "-", text=text, code=1).stderr.splitlines()
    expected = (
        "bad-one: spec.transport: invalid enum value 'telnet'",
        "bad-two: spec.drain.delay: expected str matching regex",
        "bad-three: spec.remoteUrl: expected a public address, got '127.0.0.1' (allowPrivateEndpoint: true allows it)",
    )
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line
    text = text.replace("soon", "99999h").replace("bad-one", "good").replace("telnet", "sse")
    lines = [line for line in run("render", "-", text=text, code=1).stderr.splitlines() if "bad-two" in line]
    assert [line.split(": ")[2] for line in lines] == [
        "spec.drain.delay",
        "spec.sessionStorage",
        "spec.podTemplateSpec",
        "spec.oidcConfigRef",
    ]


def test_a_vmcp_is_held_where_its_configuration_is_wrong_or_its_protection_would_be_lost() -> None:
    text = """
kind: VirtualMCPServer
apiVersion: toolhive.stacklok.dev/v1beta1
metadata: {name: all}
spec:
  groupRef: {name: g}
  incomingAuth: {type: oidc, oidcConfigRef: {name: corporate}}
  config:
    aggregation: {conflictResolution: luck}
    operational: {timeouts: {default: soon}}
    composite: []
    incomingAuth: {type: anonymous, authz: {type: cedar}}
"""
    words = run("render", "-", text=text, code=1).stderr
    assert "spec.config: aggregation.conflictResolution: expected prefix, priority or manual" in words
    assert "spec.config: operational.timeouts.default: expected a duration" in words
    assert "spec.config: composite: unknown" in words
    assert "spec.incomingAuth: expected none: fastproxy does not enforce it" in words
    assert "spec.config.incomingAuth: expected none" in words


def test_what_is_accepted_and_not_acted_on_is_named_and_not_dropped_silently() -> None:
    text = """
kind: MCPServer
apiVersion: toolhive.stacklok.dev/v1beta1
metadata: {name: some}
spec: {image: a, transport: sse, permissionProfile: {type: builtin, name: none}, replica: 3}
---
kind: Secret
apiVersion: v1
metadata: {name: other}
"""
    notes = run("render", "-", text=text).stderr
    assert "MCPServer/some: spec.permissionProfile: accepted, not acted on" in notes
    assert "MCPServer/some: spec.replica: unknown, ignored" in notes
    assert "Secret/other: not one of our kinds, left out" in notes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a: [", "expected YAML", id="broken"),
        pytest.param("- 1", "expected an object with kind", id="a list"),
        pytest.param("kind: MCPServer", "expected metadata.name", id="nameless"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_with_its_place(text: str, words: str) -> None:
    assert words in run("render", "-", text=text, code=1).stderr
    assert "cannot be read" in run("render", "no/such/file", code=2).stderr
