"""Pods without a kubelet: a rendered pod template run as a process in a network namespace of its own.

A `Wire` is a bridge in a namespace; a `Pod` gets an address on it, an /etc of its own (names of other pods, its
ConfigMap where the template mounts it), exactly the template's command, arguments and environment, is asked by the
template's probes and leaves by its preStop, SIGTERM and grace period. Needs root. Not real: the container's image and
user (the program is the one under test), volumes other than the ConfigMap, DNS (names stand in each pod's hosts file).
"""

import contextlib
import ctypes
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import httpx2

CLONE_NEWNET = 0x40000000
KEPT_OF_ETC = ("passwd", "group", "nsswitch.conf", "localtime", "ssl", "ld.so.cache", "ld.so.conf", "alternatives")
PROGRAMS = {"fastproxy": [sys.executable, "-m", "fastproxy"]}

Answer = TypeVar("Answer")
Object = dict[str, Any]

_numbers = itertools.count(1)


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=30)


class Wire:
    """A network of pods, and the folder with their files."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.hub = f"fp{os.getpid()}"
        self.names: dict[str, str] = {}  # DNS name: address
        self.pods: list[Pod] = []
        self._addresses = itertools.count(10)

    def __enter__(self) -> "Wire":
        run("ip", "netns", "add", self.hub)
        run("ip", "-n", self.hub, "link", "add", "bridge", "type", "bridge")
        for device in ("bridge", "lo"):
            run("ip", "-n", self.hub, "link", "set", device, "up")
        run("ip", "-n", self.hub, "address", "add", "10.77.0.1/16", "dev", "bridge")
        return self

    def __exit__(self, *_error: object) -> None:
        for pod in self.pods:
            pod.kill()
        run("ip", "netns", "del", self.hub)

    def add(self, name: str, *, dns: str | None = None) -> "Pod":
        pod = Pod(self, name, f"10.77.0.{next(self._addresses)}")
        self.pods.append(pod)
        if dns is not None:
            self.names[dns] = pod.address
            for each in self.pods:
                each.write_hosts()
        return pod

    def inside(self, act: Callable[[], Answer]) -> Answer:
        """Do something in the hub's namespace: a thread may enter it alone."""
        results: list[Answer] = []
        failures: list[BaseException] = []

        def enter() -> None:
            try:
                with pathlib.Path(f"/run/netns/{self.hub}").open() as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(act())
            except BaseException as error:  # handed to the caller's thread
                failures.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]


class Pod:
    """One process with an address."""

    def __init__(self, wire: Wire, name: str, address: str) -> None:
        self.wire, self.name, self.address = wire, name, address
        self.namespace = f"{wire.hub}-{next(_numbers)}"
        self.etc = wire.folder / self.namespace / "etc"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = wire.folder / f"{name}.log"
        self.template: Object = {}
        self._prepare_etc()
        run("ip", "netns", "add", self.namespace)
        device = f"v{self.namespace}"[-14:]
        run(
            "ip", "-n", wire.hub, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", self.namespace
        )
        run("ip", "-n", wire.hub, "link", "set", device, "master", "bridge", "up")
        run("ip", "-n", self.namespace, "address", "add", f"{address}/16", "dev", "eth0")
        for each in ("eth0", "lo"):
            run("ip", "-n", self.namespace, "link", "set", each, "up")

    def _prepare_etc(self) -> None:
        self.etc.mkdir(parents=True)
        for name in KEPT_OF_ETC:
            source = pathlib.Path("/etc") / name
            if source.is_dir():
                shutil.copytree(source, self.etc / name, symlinks=True)
            elif source.exists():
                shutil.copy(source, self.etc / name)
        (self.etc / "resolv.conf").write_text("")
        self.write_hosts()

    def write_hosts(self) -> None:
        rows = [f"{address} {name}" for name, address in self.wire.names.items()]
        (self.etc / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(rows) + "\n")

    def mount(self, config_map: Object, folder: str) -> None:
        """A ConfigMap's files, now and after an update of it."""
        assert folder.startswith("/etc/")
        place = self.etc / folder.removeprefix("/etc/")
        place.mkdir(exist_ok=True)
        for name, text in config_map["data"].items():
            (place / f".{name}").write_text(text)
            (place / f".{name}").rename(place / name)

    def start(self, command: list[str], environment: Mapping[str, str]) -> None:
        inner = 'mount --bind "$0" /etc && exec "$@"'
        words = ["ip", "netns", "exec", self.namespace, "sh", "-c", inner, str(self.etc), *command]
        base = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, env={**base, **environment}, stdout=log, stderr=log)

    def start_template(
        self,
        template: Object,
        config_map: Object,
        secrets: Mapping[tuple[str, str], str],
        entry_point: Sequence[str] = ("fastproxy",),
    ) -> None:
        """A rendered pod, as it stands there; `entry_point` is the image's own."""
        self.template = template["spec"]
        (container,) = self.template["containers"]
        for mount in container["volumeMounts"]:
            assert mount["name"] == "config"
            self.mount(config_map, mount["mountPath"])
        environment = {}
        for each in container["env"]:
            reference = each.get("valueFrom", {}).get("secretKeyRef")
            environment[each["name"]] = secrets[reference["name"], reference["key"]] if reference else each["value"]
        command = container.get("command") or entry_point
        self.start([*PROGRAMS[command[0]], *command[1:], *container.get("args", [])], environment)

    def probe(self, name: str) -> bool:
        """One of the template's probes, as a kubelet asks it."""
        (container,) = self.template["containers"]
        wanted = container[name]["httpGet"]
        port = next(each["containerPort"] for each in container["ports"] if each["name"] == wanted["port"])

        def ask() -> bool:
            with contextlib.suppress(httpx2.HTTPError):
                answer = httpx2.get(
                    f"http://{self.address}:{port}{wanted['path']}", timeout=container[name]["timeoutSeconds"]
                )
                return 200 <= answer.status_code < 400
            return False

        return self.wire.inside(ask)

    def leave(self) -> Iterator[None]:
        """preStop, SIGTERM, and at the end of the grace period SIGKILL; yields while it takes its time."""
        assert self.process is not None
        ends = time.monotonic() + self.template["terminationGracePeriodSeconds"]
        (container,) = self.template["containers"]
        hook = subprocess.Popen(container["lifecycle"]["preStop"]["exec"]["command"])
        while hook.poll() is None:
            yield
        self.process.send_signal(signal.SIGTERM)
        while self.process.poll() is None:
            assert time.monotonic() < ends, f"{self.name} would have been killed: {self.log.read_text()[-2000:]}"
            yield
        assert self.process.returncode == 0, self.log.read_text()[-2000:]

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(subprocess.CalledProcessError):
            run("ip", "netns", "del", self.namespace)
