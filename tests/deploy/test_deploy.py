"""What deploy/ holds is what the program is: flags, settings, paths, metrics, definitions; and pods that can drain.

Real: the program's own commands and answers, the charts' text. The container itself: deploy/container/check.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import gotpl
import jsonschema
import pytest
import yaml

from tests import kit
from tests.deploy import charts

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
PROXY, OPERATOR = DEPLOY / "helm/fastproxy", DEPLOY / "helm/fastproxy-operator"


def fastproxy(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastproxy", *arguments], capture_output=True, text=True, input=text, check=False
    )


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def flags_of(arguments: list[str]) -> list[str]:
    return [word for word in arguments if word.startswith("--")]


def assert_flags_exist(command: str, arguments: list[str]) -> None:
    known = set(re.findall(r"--[a-z-]+", fastproxy(command, "--help").stdout))
    assert set(flags_of(arguments)) <= known


@pytest.mark.parametrize("values", [{}, {"store": "memory:", "replicas": 1}, {"drain": {"delaySeconds": 20}}], ids=str)
def test_the_proxys_chart_gives_pods_that_drain_within_their_grace(values: dict[str, Any]) -> None:
    pod = one(charts.render(PROXY, values), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][0] == "serve"
    assert_flags_exist("serve", container["args"])
    given = dict(zip(container["args"][1::2], container["args"][2::2], strict=True))
    delay, timeout = (int(given[flag].removesuffix("s")) for flag in ("--drain-delay", "--drain-timeout"))
    (slept,) = [int(word) for word in container["lifecycle"]["preStop"]["exec"]["command"] if word.isdigit()]
    grace = pod["terminationGracePeriodSeconds"]
    assert slept == delay
    assert grace > slept + delay + timeout + 5
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["FASTPROXY_GRACE_PERIOD"] == f"{grace - slept}s"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False


def test_the_charts_configuration_is_one_that_the_program_takes(tmp_path: pathlib.Path) -> None:
    values = {"allowedHosts": ["mcp.example.com"], "config": {"session_ttl": "1h", "policy": "round-robin"}}
    file = tmp_path / "fastproxy.yaml"
    file.write_text(one(charts.render(PROXY, values), "ConfigMap")["data"]["fastproxy.yaml"])
    checked = fastproxy("validate", str(file))
    assert (checked.returncode, checked.stderr) == (0, "")
    settings = yaml.safe_load(file.read_text())
    assert settings["session_ttl"] == "1h"
    assert {"web.tools.svc:8080", "mcp.example.com"} <= set(settings["allowed_host"])


def test_a_digest_a_secret_and_a_monitor_find_their_places() -> None:
    objects = charts.render(
        PROXY,
        {"image": {"tag": "sha256:abc"}, "redisPassword": {"secretName": "redis"}, "serviceMonitor": True},
    )
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "fastproxy@sha256:abc"
    (secret,) = [each for each in container["env"] if each["name"] == "FASTPROXY_REDIS_PASSWORD"]
    assert secret["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "password"}
    assert one(objects, "PodMonitor")["spec"]["podMetricsEndpoints"] == [{"port": "admin", "path": "/metrics"}]


def test_values_that_would_lose_sessions_or_show_a_password_are_refused() -> None:
    with pytest.raises(gotpl.TemplateError, match="needs a Redis as store"):
        charts.render(PROXY, {"store": "memory:"})
    with pytest.raises(jsonschema.ValidationError):
        charts.render(PROXY, {"store": "redis://:secret@redis:6379/0"})
    with pytest.raises(jsonschema.ValidationError, match="unexpected"):
        charts.render(PROXY, {"replica": 3})


def test_the_operators_chart_runs_the_operator_with_its_rights() -> None:
    objects = charts.render(OPERATOR, {"namespaces": ["a", "b"]})
    deployment, role = one(objects, "Deployment"), one(objects, "ClusterRole")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert_flags_exist("operator", container["args"])
    assert container["args"][-4:] == ["--namespace", "a", "--namespace", "b"]
    assert one(objects, "ClusterRoleBinding")["roleRef"]["name"] == role["metadata"]["name"]
    account = one(objects, "ServiceAccount")["metadata"]["name"]
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == account
    printed = yaml.safe_load(fastproxy("crds", "--rights").stdout)
    assert role["rules"] == printed["rules"]


def test_definitions_and_rights_are_those_that_the_program_prints() -> None:
    """`make manifests` writes them."""
    assert (OPERATOR / "crds/crds.yaml").read_text() == fastproxy("crds").stdout
    assert (DEPLOY / "kubernetes/role.yaml").read_text() == fastproxy("crds", "--rights").stdout


def test_the_kustomization_names_files_that_are_there() -> None:
    listed = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
    assert all((DEPLOY / name).is_file() for name in listed)
    if shutil.which("kubectl"):
        built = subprocess.run(["kubectl", "kustomize", str(DEPLOY)], capture_output=True, text=True, check=True)
        kinds = {each["kind"] for each in yaml.safe_load_all(built.stdout)}
        assert {"CustomResourceDefinition", "ClusterRole", "Deployment"} <= kinds


@pytest.mark.parametrize("name", ["mcpserver", "virtual-mcpserver"])
def test_an_example_renders_without_a_problem(name: str) -> None:
    rendered = fastproxy("render", str(DEPLOY / f"examples/{name}.yaml"))
    assert (rendered.returncode, rendered.stderr) == (0, "")
    assert len(list(yaml.safe_load_all(rendered.stdout))) >= 4


def test_the_sidecars_example_has_a_proxy_in_its_pods() -> None:
    injected = fastproxy("inject", "-f", str(DEPLOY / "examples/sidecar.yaml"))
    assert injected.returncode == 0
    containers = yaml.safe_load(injected.stdout)["spec"]["template"]["spec"]["containers"]
    assert [each["name"] for each in containers] == ["server", "fastproxy"]
    assert_flags_exist("serve", containers[1]["args"])


def test_the_autoscaler_scales_what_exists_by_a_metric_that_exists() -> None:
    scaler = yaml.safe_load((DEPLOY / "examples/autoscaler.yaml").read_text())
    assert scaler["spec"]["scaleTargetRef"]["kind"] == "MCPServer"
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == "fastproxy_sessions_active"


def test_compose_starts_the_program_with_flags_that_it_has() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in ("proxy-a", "proxy-b"):
        assert services[name]["command"][0] == "serve"
        assert_flags_exist("serve", services[name]["command"])
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > 5 + 25 + 5
    assert (DEPLOY / "demo/server.py").is_file()


@pytest.fixture(scope="module")
def metrics() -> set[str]:
    """Names that a running proxy answers with, and those that appear with the first recovery or refusal."""
    with kit.proxies(1, backends=["http://127.0.0.1:9"], await_readyz=False) as (proxy,):
        status, text = proxy.ask("GET", "/metrics")
    assert status == 200
    return {line.split()[2] for line in text.decode().splitlines() if line.startswith("# TYPE ")}


@pytest.mark.parametrize("file", ["rules.yaml", "dashboard.json"])
def test_rules_and_dashboard_ask_only_for_metrics_that_there_are(file: str, metrics: set[str]) -> None:
    text = (DEPLOY / "monitoring" / file).read_text()
    loaded = yaml.safe_load(text) if file.endswith("yaml") else json.loads(text)
    assert loaded
    asked = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bfastproxy_[a-z_]+", text)}
    assert len(asked) > 5
    assert asked <= metrics | {f"{name}_total" for name in metrics}, asked - metrics
