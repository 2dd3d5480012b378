"""One control plane for all tests of a run, a namespace for each test."""

import itertools
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.operator import cluster, stage

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    missing = cluster.find_missing()
    if missing:
        pytest.skip(
            f"no {', '.join(missing)} in FASTPROXY_K8S_BIN: `make test-k8s` builds a control plane and runs this"
        )
    with cluster.running(tmp_path_factory.mktemp("cluster")) as running:
        admin = stage.Kubectl(running, "default")
        for words in (["crds"], ["crds", "--rights"]):
            made = subprocess.run(
                [sys.executable, "-m", "fastproxy", *words], capture_output=True, text=True, check=True
            )
            # Rules in CEL are younger than this server, which drops them.
            admin.run("create", "--validate=false", "-f", "-", text=made.stdout)
        admin.run("create", "clusterrolebinding", "operator", "--clusterrole=fastproxy-operator", "--group=operators")
        stage.eventually(lambda: "mcpservers" in admin.run("api-resources", "--api-group=toolhive.stacklok.dev"))
        yield running


@pytest.fixture
def kubectl(control_plane: cluster.Cluster) -> stage.Kubectl:
    namespace = f"test-{next(_numbers)}"
    kubectl = stage.Kubectl(control_plane, namespace)
    kubectl.run("create", "namespace", namespace)
    return kubectl
