"""The objects of an MCPRemoteProxy: proxies in front of a server that is not in the cluster. Sans-io."""

from collections.abc import Mapping
from typing import Any

from fastproxy.operator import crd, overlay, parts, pod, proxies, server, storage, surroundings
from fastproxy.operator.manifest import Manifest

_ALIAS = "toolhive"  # what existing manifests call the proxy's container


def find_template(spec: crd.MCPRemoteProxySpec) -> Mapping[str, Any] | None:
    """The owner's template, our container under our name."""
    return None if spec.pod_template_spec is None else overlay.rename(spec.pod_template_spec, _ALIAS, pod.CONTAINER)


def render(resource: crd.Resource, around: surroundings.Surroundings) -> list[Manifest]:
    """All objects, in the order to apply."""
    spec = resource.spec
    assert isinstance(spec, crd.MCPRemoteProxySpec)
    overrides = spec.resource_overrides or parts.ResourceOverrides()
    account = spec.service_account or proxies.name_account(resource)
    objects = [] if spec.service_account else [proxies.make_account(resource, account)]
    objects += [
        proxies.make_config(resource, _configure(spec)),
        proxies.make_service(resource, spec, overrides=overrides.proxy_service),
        _make_deployment(resource, spec, around, account),
    ]
    budget = proxies.make_budget(resource, spec)
    return objects if budget is None else [*objects, budget]


def _configure(spec: crd.MCPRemoteProxySpec) -> dict[str, Any]:
    backend, _ = surroundings.split_remote(spec.remote_url, surroundings.find_transport(spec))
    trusted = {"trusted_proxy": server.ANY_NETWORK} if spec.trust_proxy_headers else {}
    return {"backend": [backend], **trusted}


def _make_deployment(
    resource: crd.Resource, spec: crd.MCPRemoteProxySpec, around: surroundings.Surroundings, account: str
) -> Manifest:
    overrides = (spec.resource_overrides or parts.ResourceOverrides()).proxy_deployment or parts.DeploymentOverrides()
    store, leave, port = storage.describe(spec.session_storage), pod.plan_leave(spec), surroundings.find_port(spec)
    container = pod.make_container(
        image=around.image,
        args=["serve", "--config", proxies.CONFIG_PATH, *pod.list_flags(resource, spec, store, port=port)],
        port=port,
        leave=leave,
        store=store,
        env=overrides.env or (),
        resources=spec.resources,
    )
    template = pod.make_template(
        resource,
        container,
        config_map=proxies.name_config(resource),
        service_account=account,
        leave=leave,
        store=store,
    )
    template = pod.lay_over(template, find_template(spec), spec.proxy_pod_template_spec)
    return proxies.make_deployment(
        resource, pod.check_grace(template, leave), replicas=spec.replicas, overrides=overrides
    )
