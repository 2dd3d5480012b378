"""From a resource to the objects that make it real: which renderer, and what a renderer is told. Sans-io.

    resource, surroundings → review.py: is it possible? → the renderer of its kind → manifests, in the order to apply

The same resource and surroundings give the same manifests, byte for byte, in whichever operator: that is what lets two
of them run at once, and what the golden files of the tests hold. A group has no objects of its own.
"""

from collections.abc import Callable, Mapping

from fastproxy.operator import crd, remote_proxy, server, virtual_server
from fastproxy.operator.manifest import Manifest
from fastproxy.operator.surroundings import Surroundings

Renderer = Callable[[crd.Resource, Surroundings], list[Manifest]]

RENDERERS: Mapping[str, Renderer] = {
    crd.MCP_SERVER.name: server.render,
    crd.VIRTUAL_SERVER.name: virtual_server.render,
    crd.REMOTE_PROXY.name: remote_proxy.render,
    crd.GROUP_KIND.name: lambda _resource, _surroundings: [],
}


def render(resource: crd.Resource, surroundings: Surroundings) -> list[Manifest]:
    """The objects of a resource that review.py has nothing against."""
    return RENDERERS[resource.kind.name](resource, surroundings)
