"""Sidecars: the command on a file, and the webhook at the door of a real API server.

Real: the program, its TLS listener, and (with a control plane) the API server's own admission call. Not covered: that
the containers run together; what the sidecar is told is what `serve` reads, and that is tried here."""

import base64
import json
import pathlib
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
import yaml

from fastproxy.config import load
from tests.operator import cluster, stage
from tests.operator.test_golden import IMAGE, run

WORKLOAD: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "notes", "namespace": "tools", "annotations": {"fastproxy.dev/inject": "8000"}},
    "spec": {
        "selector": {"matchLabels": {"app": "notes"}},
        "template": {
            "metadata": {"labels": {"app": "notes"}},
            "spec": {
                "containers": [{"name": "server", "image": "example.com/notes", "ports": [{"containerPort": 8000}]}]
            },
        },
    },
}


def inject(*objects: dict[str, Any], code: int = 0, **annotations: str) -> Any:
    changed = json.loads(json.dumps(objects))
    for each in changed:
        own = each["metadata"].setdefault("annotations", {})
        own |= {f"fastproxy.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
    result = run("inject", "-f", "-", "--image", IMAGE, text=yaml.safe_dump_all(changed), code=code)
    return list(yaml.safe_load_all(result.stdout)) if code == 0 else result.stderr


def test_a_workload_that_asks_gets_a_proxy_that_serve_would_accept() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "notes"}, "spec": {}}
    injected, other = inject(WORKLOAD, service)
    assert other["spec"] == service["spec"]
    spec = injected["spec"]["template"]["spec"]
    server, sidecar = spec["containers"]
    assert server == WORKLOAD["spec"]["template"]["spec"]["containers"][0]
    assert (sidecar["name"], sidecar["image"], sidecar["ports"][0]["containerPort"]) == ("fastproxy", IMAGE, 8081)
    assert sidecar["securityContext"]["readOnlyRootFilesystem"] and "volumeMounts" not in sidecar
    assert spec["terminationGracePeriodSeconds"] >= 60
    assert sidecar["args"][0] == "serve"
    flags = dict(zip(sidecar["args"][1::2], sidecar["args"][2::2], strict=True))
    given: dict[str, object] = {name[2:].replace("-", "_"): value for name, value in flags.items()}
    loaded = load.load(
        {**given, "backend": (flags["--backend"],)}, {each["name"]: each["value"] for each in sidecar["env"]}
    )
    assert str(loaded.config.backend[0]) == "http://127.0.0.1:8000"
    assert loaded.config.name == "tools/notes"


def test_what_is_injected_is_not_injected_again_and_who_does_not_ask_is_left_alone() -> None:
    (once,) = inject(WORKLOAD)
    assert inject(once) == [once]
    quiet = json.loads(json.dumps(WORKLOAD))
    del quiet["metadata"]["annotations"]
    assert inject(quiet) == [quiet | {"metadata": {**quiet["metadata"], "annotations": {}}}]
    result = run("inject", "-f", "-", "--port", "8000", "--image", IMAGE, text=yaml.safe_dump(quiet))
    assert len(yaml.safe_load(result.stdout)["spec"]["template"]["spec"]["containers"]) == 2


def test_sessions_are_shared_only_where_every_server_has_a_name() -> None:
    words = inject(WORKLOAD, store="redis://redis:6379/0", code=1)
    assert "Deployment/notes: fastproxy.dev/backend: expected it beside fastproxy.dev/store" in words
    (shared,) = inject(
        WORKLOAD, store="redis://redis:6379/0", backend="dns://notes-headless:8000", store_password="redis/password"
    )
    sidecar = shared["spec"]["template"]["spec"]["containers"][1]
    assert "dns://notes-headless:8000" in sidecar["args"] and "redis://redis:6379/0" in sidecar["args"]
    assert {"name": "redis", "key": "password"} in [
        each.get("valueFrom", {}).get("secretKeyRef") for each in sidecar["env"]
    ]


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        pytest.param({"inject": "http"}, "fastproxy.dev/inject: expected a port", id="no port"),
        pytest.param({"inject": "9901"}, "other than 9901", id="the admin port"),
        pytest.param({"listen": "8000"}, "fastproxy.dev/listen: expected another port", id="the server's port"),
        pytest.param({"backend": "ftp://x"}, "fastproxy.dev/backend: expected a URL", id="no backend"),
        pytest.param({"store_password": "redis"}, "expected SECRET/KEY", id="no key"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_named_with_what_would(annotations: dict[str, str], words: str) -> None:
    assert words in inject(WORKLOAD, code=1, **annotations)


class Hook:
    """The operator's webhook, and how to ask it."""

    def __init__(self, url: str, authority: pathlib.Path) -> None:
        self.url, self.authority = url, authority

    def post(self, body: bytes) -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.authority))
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()


@pytest.fixture
def hook(tmp_path: pathlib.Path) -> Iterator[Hook]:
    """`fastproxy operator --webhook`; its API server is nowhere, which is no business of the webhook's."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    config = tmp_path / "kubeconfig"
    config.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n"
        "users: [{name: c, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: c, user: c}}]\n"
    )
    pem = str(tmp_path / "both.pem")
    command = [sys.executable, "-m", "fastproxy", "operator", "--kubeconfig", str(config), "--admin", "off"]
    command += ["--webhook", "127.0.0.1:0", "--tls-cert", pem, "--tls-key", pem, "--image", IMAGE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Hook(process.stdout.readline().split()[-1], tmp_path / "ca.pem")
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_webhook_answers_reviews_with_a_patch_a_warning_or_nothing(hook: Hook) -> None:
    pod = {"metadata": {"generateName": "notes-", "annotations": {"fastproxy.dev/inject": "8000"}}}
    pod["spec"] = WORKLOAD["spec"]["template"]["spec"]

    def review(changed: dict[str, Any]) -> dict[str, Any]:
        request = {"uid": "u", "namespace": "tools", "object": changed}
        status, body = hook.post(json.dumps({"apiVersion": "admission.k8s.io/v1", "request": request}).encode())
        assert status == 200, body
        answer = json.loads(body)
        assert answer["response"]["uid"] == "u" and answer["response"]["allowed"] is True
        return dict(answer["response"])

    patch = json.loads(base64.b64decode(review(pod)["patch"]))
    (spec,) = [each["value"] for each in patch if each["path"] == "/spec"]
    assert [each["name"] for each in spec["containers"]] == ["server", "fastproxy"]
    assert "tools/notes" in spec["containers"][1]["args"]
    assert "patch" not in review({**pod, "metadata": {}})
    odd = review({**pod, "metadata": {"annotations": {"fastproxy.dev/inject": "soon"}}})
    assert "patch" not in odd and "expected a port" in odd["warnings"][0]
    for body in (b"", b"{", b"[]", b'{"request":{"uid":"u","object":1}}', b'{"request":null}'):
        assert hook.post(body)[0] == 400
    assert hook.post(json.dumps({"request": {"uid": "u", "object": {"spec": {}}}}).encode())[0] == 200


def test_an_api_server_lets_a_pod_in_with_its_sidecar(
    control_plane: cluster.Cluster, kubectl: stage.Kubectl, hook: Hook
) -> None:
    bundle = base64.b64encode(hook.authority.read_bytes()).decode()
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    configuration = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": kubectl.namespace},
        "webhooks": [
            {
                "name": "sidecar.fastproxy.dev",
                "clientConfig": {"url": hook.url, "caBundle": bundle},
                "rules": [rule],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "failurePolicy": "Ignore",
            }
        ],
    }
    kubectl.apply(configuration)
    try:
        template = {**WORKLOAD["spec"]["template"]}
        template["metadata"] = {**template["metadata"], "annotations": {"fastproxy.dev/inject": "8000"}}
        deployment = {**WORKLOAD, "metadata": {"name": "notes"}, "spec": {**WORKLOAD["spec"], "template": template}}

        def has_sidecar() -> bool:
            kubectl.apply(deployment)
            pods = stage.eventually(lambda: kubectl.find_all("pods"))
            found = ["fastproxy" in [each["name"] for each in pod["spec"]["containers"]] for pod in pods]
            kubectl.run("delete", "deployment", "notes", "--wait=true")
            kubectl.run("delete", "pods", "--all", "--force", "--grace-period=0")
            return all(found)

        # A webhook is heard of a moment after it is written.
        stage.eventually(has_sidecar)
    finally:
        kubectl.run("delete", "mutatingwebhookconfiguration", kubectl.namespace)
