"""Manifests in a file, read and written: what `fastproxy render`, `inject` and `crds` have around them. Sans-io.

Output has no anchors (not every reader of Kubernetes' YAML knows them) and keeps the order in which we say things. A
file may hold other objects beside ours; they pass by, with a note.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import yaml

from fastproxy import errors
from fastproxy.config import units
from fastproxy.operator import crd, inject, render, review, surroundings
from fastproxy.operator.manifest import Manifest


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def write(manifests: Iterable[Manifest]) -> str:
    """As a stream of YAML documents."""
    return yaml.dump_all(
        manifests, Dumper=_Dumper, sort_keys=False, width=1000, explicit_start=True, allow_unicode=True
    )


def read(text: str, name: str) -> list[Manifest]:
    """The objects of a file, those inside of lists too."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"{name}:{place.line + 1}" if place else name
        raise errors.ConfigError([f"{where}: expected YAML: {getattr(error, 'problem', None) or error}"]) from error
    manifests: list[Manifest] = []
    problems = []
    for number, document in enumerate(documents, 1):
        inner = document.get("items") if isinstance(document, dict) and "items" in document else [document]
        for each in inner if isinstance(inner, list) else [inner]:
            if not isinstance(each, dict) or not isinstance(each.get("kind"), str):
                problems.append(f"{name}: document {number}: expected an object with kind")
            elif not isinstance(each.get("metadata"), dict) or not isinstance(each["metadata"].get("name"), str):
                problems.append(f"{name}: document {number}: expected metadata.name in this {each['kind']}")
            else:
                manifests.append(each)
    if problems:
        raise errors.ConfigError(problems)
    return manifests


def render_file(
    text: str, name: str, *, around: surroundings.Surroundings, namespace: str
) -> tuple[list[Manifest], list[str]]:
    """The objects of all resources of a file, and notes on what is not acted on. Every problem at once, if there is
    one."""
    resources, problems, notes = [], [], []
    for manifest in read(text, name):
        place = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if not _is_ours(manifest):
            notes.append(f"{place}: not one of our kinds, left out")
            continue
        try:
            resource = crd.read_resource(manifest, namespace=namespace)
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {place}: {describe_validation(error)}")
            continue
        notes += [f"{place}: {path}: unknown, ignored" for path in list_unknown(manifest.get("spec") or {}, resource)]
        notes += [f"{place}: {path}: accepted, not acted on" for path, _ in review.list_inert(resource.spec)]
        problems += [f"{name}: {place}: {problem}" for problem in review.review(resource)]
        resources.append(resource)
    if problems:
        raise errors.ConfigError(problems)
    objects = []
    for resource in resources:
        objects += render.render(resource, join(around, resource, resources))
    return objects, notes


def _is_ours(manifest: Manifest) -> bool:
    group, _, version = str(manifest.get("apiVersion")).partition("/")
    return group == crd.GROUP and version in crd.VERSIONS and manifest["kind"] in crd.KINDS


def join(
    around: surroundings.Surroundings, resource: crd.Resource, others: Iterable[crd.Resource]
) -> surroundings.Surroundings:
    """The surroundings of a resource among others: for a VirtualMCPServer, with the members of its group."""
    return msgspec.structs.replace(around, members=surroundings.list_members(resource, others, around.cluster_domain))


def list_unknown(spec: Manifest, resource: crd.Resource) -> list[str]:
    """Fields of a spec that its kind does not have: a cluster would drop them."""
    known = {field.encode_name for field in msgspec.structs.fields(resource.kind.spec)}
    return [f"spec.{name}" for name in spec if name not in known]


def describe_validation(error: msgspec.ValidationError) -> str:
    """What msgspec found, with the place in front: `spec.replicas: expected int, got str`."""
    text, _, place = str(error).partition(" - at `$")
    words = text[:1].lower() + text[1:].replace("`", "")
    return f"spec{place.rstrip('`')}: {words}"


def inject_file(text: str, name: str, *, image: str, port: str | None) -> list[Manifest]:
    """The manifests of a file with sidecars. With a port, every workload has asked for one."""
    injected, problems = [], []
    for each in read(text, name):
        wanted = inject.ask(each, port) if port is not None else each
        try:
            injected.append(inject.inject(wanted, image=image))
        except units.WrongValue as wrong:
            problems.append(f"{name}: {each['kind']}/{each['metadata']['name']}: {wrong}")
    if problems:
        raise errors.ConfigError(problems)
    return injected
