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
def crds() -> int:
    """Print the CustomResourceDefinitions of MCPServer, VirtualMCPServer, MCPRemoteProxy and MCPGroup.

    \b
    fastproxy crds | kubectl apply --server-side -f -
    """
    definitions = _load("definitions").list_definitions()
    click.echo(_load("file").write(definitions), nl=False)
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
