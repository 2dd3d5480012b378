"""The commands around Kubernetes: crds, render, inject, operator.

The first three talk to nobody: files in, manifests out. `operator` runs in a cluster, or beside one with a kubeconfig;
only it needs the client of the `operator` extra. The room is loaded by the command that needs it: `serve`, which knows
nothing of Kubernetes, shall not wait for it.
"""

import importlib
import pathlib
import sys
import types

import click

import fastproxy
from fastproxy import errors
from fastproxy.config import address, units

_image = click.option(
    "--image",
    metavar="IMAGE",
    envvar="FASTPROXY_IMAGE",
    default=f"fastproxy:{fastproxy.__version__}",
    show_default=True,
    show_envvar=True,
    help="image of the proxies",
)
_domain = click.option(
    "--cluster-domain",
    metavar="DOMAIN",
    envvar="FASTPROXY_CLUSTER_DOMAIN",
    default="cluster.local",
    show_default=True,
    show_envvar=True,
    help="what the cluster's DNS names end in",
)


def _load(name: str) -> types.ModuleType:
    return importlib.import_module(f"fastproxy.operator.{name}")


@click.command("crds", short_help="Print the CustomResourceDefinitions.")
@click.option("--rights", is_flag=True, help="print the ClusterRole that the operator needs, instead")
def crds(rights: bool) -> int:
    """Print the CustomResourceDefinitions of MCPServer, VirtualMCPServer, MCPRemoteProxy and MCPGroup.

    \b
    fastproxy crds | kubectl apply --server-side -f -
    """
    manifests = [_load("rights").make_role()] if rights else _load("definitions").list_definitions()
    click.echo(_load("file").write(manifests), nl=False)
    return 0


@click.command("render", short_help="Print what the operator would apply for a file of resources.")
@click.argument("source", metavar="FILE")
@click.option("--namespace", metavar="NAMESPACE", default="default", show_default=True, help="of resources without one")
@_image
@_domain
def render(source: str, namespace: str, image: str, cluster_domain: str) -> int:
    """Print the objects that the operator would apply for the resources in FILE (- is standard input).

    Exit code 0: done; 1: the resources have problems, each named on standard error; 2: FILE cannot be read.
    """
    file = _load("file")
    around = _load("surroundings").Surroundings(image=image, cluster_domain=cluster_domain)
    try:
        objects, notes = file.render_file(_read(source), source, around=around, namespace=namespace)
    except errors.ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        return 1
    for note in notes:
        click.echo(f"{source}: {note}", err=True)
    click.echo(file.write(objects), nl=False)
    return 0


def _read(source: str) -> str:
    try:
        return sys.stdin.read() if source == "-" else pathlib.Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise click.UsageError(f"{source}: cannot be read: {reason}") from error


@click.command("inject", short_help="Print manifests with the proxy as a sidecar.")
@click.option("-f", "--filename", "source", metavar="FILE", required=True, help="manifests; - is standard input")
@click.option("--port", metavar="PORT", help="inject into every workload, whose server listens on this port")
@_image
def inject(source: str, port: str | None, image: str) -> int:
    """Print the manifests of a file, with a proxy's container in the pods that ask for one.

    A Deployment, StatefulSet, DaemonSet or Pod asks by the annotation fastproxy.dev/inject: "PORT", the port of its MCP
    server; fastproxy.dev/listen (8081) is the proxy's own. fastproxy.dev/name, fastproxy.dev/backend and
    fastproxy.dev/store are --name, --backend and --store; fastproxy.dev/store-password is SECRET/KEY.
    """
    file = _load("file")
    try:
        manifests = file.inject_file(_read(source), source, image=image, port=port)
    except errors.ConfigError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        return 1
    click.echo(file.write(manifests), nl=False)
    return 0


@click.command("operator", short_help="Run the Kubernetes operator.")
@click.option(
    "--namespace",
    "namespaces",
    metavar="NAMESPACE",
    multiple=True,
    envvar="WATCH_NAMESPACE",
    show_envvar=True,
    help="watch these alone, separated by commas or repeated  [default: all]",
)
@click.option("--kubeconfig", metavar="FILE", help="how to reach the cluster  [default: the one around us, KUBECONFIG]")
@click.option("--context", metavar="NAME", help="context of the kubeconfig  [default: its current one]")
@click.option(
    "--admin",
    metavar="HOST:PORT|off",
    envvar="FASTPROXY_ADMIN",
    default="127.0.0.1:9901",
    show_default=True,
    show_envvar=True,
    help="/healthz, /readyz, /metrics",
)
@click.option("--webhook", metavar="HOST:PORT", help="serve the sidecar's mutating webhook here  [default: off]")
@click.option("--tls-cert", metavar="FILE", help="PEM certificate of the webhook; a renewed one is taken up")
@click.option("--tls-key", metavar="FILE", help="PEM key of that certificate")
@_image
@_domain
def operator(
    namespaces: tuple[str, ...],
    kubeconfig: str | None,
    context: str | None,
    admin: str,
    webhook: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    image: str,
    cluster_domain: str,
) -> int:
    """Kubernetes operator: MCPServer, VirtualMCPServer, MCPRemoteProxy and MCPGroup become Deployments, StatefulSets,
    Services and ConfigMaps by server-side apply. Two at once do no harm.

    It needs the extra `operator` (pip install 'fastproxy[operator]').
    """
    try:
        program = _load("program")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fastproxy"):
            raise
        raise errors.StartError(f"{error} (pip install 'fastproxy[operator]' has the client)") from error
    options = program.Options(
        image=image,
        cluster_domain=cluster_domain,
        namespaces=tuple(name for each in namespaces for name in each.split(",") if name),
        kubeconfig=kubeconfig,
        context=context,
        admin=_read_address("--admin", admin),
        webhook=_read_address("--webhook", webhook or "off"),
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    return int(program.run(options))


def _read_address(flag: str, text: str) -> address.Address | None:
    if text == "off":
        return None
    try:
        return address.read_address(text)
    except units.WrongValue as wrong:
        raise click.UsageError(f"{flag}: {wrong}") from wrong
