"""A real control plane for tests: etcd, kube-apiserver and kube-controller-manager on loopback, with no node.

The binaries are Debian's etcd and what the folder FASTPROXY_K8S_BIN holds (`make test-k8s` names it); without them the
tests that need a cluster are skipped by name. `build_cluster.sh` beside this file makes them from Debian's source
package. Pods exist as objects only: nothing runs them, so a test that wants one ready says so through its status.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import trustme

BINARIES = pathlib.Path(os.environ.get("FASTPROXY_K8S_BIN") or "no-such-folder")
START_SECONDS_MAX = 240
TOKENS = {"admin": "system:masters", "operator": "operators"}  # a user and its group; the name is the token


def find_missing() -> list[str]:
    """The programs that are not there."""
    needed = {name: BINARIES / name for name in ("kube-apiserver", "kube-controller-manager")}
    missing = [name for name, path in needed.items() if not path.exists()]
    return missing + ([] if shutil.which("etcd") else ["etcd"])


class Cluster:
    """One control plane. `stop_server` and `start_server` are what an upgrade of it looks like."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.ports = _find_ports(3)
        self.url = f"https://127.0.0.1:{self.ports[2]}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_files()

    def start(self) -> None:
        client, peer, _ = self.ports
        self._run(
            "etcd",
            shutil.which("etcd") or "etcd",
            f"--data-dir={self.folder}/etcd",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",
        )
        self.start_server()
        self._run(
            "controllers",
            str(BINARIES / "kube-controller-manager"),
            f"--kubeconfig={self.write_kubeconfig('admin')}",
            "--leader-elect=false",
            "--port=0",
            "--secure-port=0",
            f"--service-account-private-key-file={self.folder}/key.pem",
            "--controllers=garbagecollector,deployment,replicaset,statefulset,namespace,serviceaccount,disruption,endpoint",
            "--concurrent-gc-syncs=5",
            "--kube-api-qps=300",
            "--kube-api-burst=300",
        )

    def start_server(self) -> None:
        self._run(
            "server",
            str(BINARIES / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self.ports[0]}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.ports[2]}",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder}/tokens.csv",
            f"--tls-cert-file={self.folder}/server.pem",
            f"--tls-private-key-file={self.folder}/key.pem",
            f"--service-account-signing-key-file={self.folder}/key.pem",
            f"--service-account-key-file={self.folder}/key.pem",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--disable-admission-plugins=ServiceAccount",
            "--max-requests-inflight=400",
        )
        self._wait()

    def stop_server(self) -> None:
        self._end("server")

    def stop(self) -> None:
        for name in list(self.processes):
            self._end(name)

    def write_kubeconfig(self, user: str) -> pathlib.Path:
        path = self.folder / f"{user}.kubeconfig"
        path.write_text(
            f"""apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: test, cluster: {{server: "{self.url}", certificate-authority: "{self.folder}/ca.pem"}}}}]
users: [{{name: test, user: {{token: {user}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: test, namespace: default}}}}]
"""
        )
        return path

    def _write_files(self) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        certificate.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(str(self.folder / "server.pem"), append=number > 0)
        rows = [f'{user},{user},{user},"{group}"' for user, group in TOKENS.items()]
        (self.folder / "tokens.csv").write_text("\n".join(rows) + "\n")

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            # Gone with us, even if we are killed.
            leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
            self.processes[name] = subprocess.Popen([*leash, *command], stdout=log, stderr=log)

    def _end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def _wait(self) -> None:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": "Bearer admin"})
        ends = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < ends:
            if self.processes["server"].poll() is not None:
                break
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                urllib.request.urlopen(request, timeout=5, context=context) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.25)
        raise RuntimeError(f"the API server does not answer: {(self.folder / 'server.log').read_text()[-2000:]}")


def _find_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
