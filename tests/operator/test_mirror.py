"""The picture that the watches paint: newer replaces older, a list has the last word, who belongs to whom. Pure."""

from typing import Any

from fastproxy.operator import mirror


def resource(version: int, uid: str = "u", name: str = "s", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "n", "uid": uid, "resourceVersion": str(version), "managedFields": [{}]}
    spec = {"image": "i", "transport": "sse", **spec}
    return {"apiVersion": "toolhive.stacklok.dev/v1beta1", "kind": "MCPServer", "metadata": metadata, "spec": spec}


def deployment(version: int, owner: str = "u", **spec: Any) -> dict[str, Any]:
    reference = {"kind": "MCPServer", "name": "s", "uid": owner, "controller": True}
    metadata = {
        "name": "s",
        "namespace": "n",
        "uid": "d",
        "resourceVersion": str(version),
        "ownerReferences": [reference],
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


KEY = ("MCPServer", "n", "s")


def test_an_older_version_is_no_news_until_a_list_or_a_new_object_says_so() -> None:
    picture = mirror.Mirror()
    assert picture.note_resource(resource(5, image="five"))
    assert not picture.note_resource(resource(5)) and not picture.note_resource(resource(4))
    assert picture.note_resource(resource(6, image="six"))
    assert picture.note_resource(resource(3, image="three"), listed=True)
    assert picture.resources[KEY]["spec"]["image"] == "three"
    assert picture.note_resource(resource(2, uid="another"))


def test_an_object_moves_with_its_owner_and_is_forgotten_with_itself() -> None:
    picture = mirror.Mirror()
    seen = picture.note_owned(deployment(1, replicas=2))
    assert mirror.owner_key(seen) == KEY
    assert [each.replicas for each in picture.list_owned("u")] == [2]
    picture.note_owned(deployment(2, owner="other"))
    assert picture.list_owned("u") == [] and len(picture.list_owned("other")) == 1
    assert picture.note_owned(deployment(1)).version == 2
    picture.forget_owned(("Deployment", "n", "s"))
    assert picture.list_owned("other") == []


def test_a_fingerprint_changes_with_a_wish_and_not_with_a_status() -> None:
    base = mirror.describe(deployment(1, replicas=2))
    counted = deployment(2, replicas=2) | {"status": {"readyReplicas": 2}}
    counted["metadata"] |= {"generation": 9, "annotations": {"deployment.kubernetes.io/revision": "3"}}
    assert mirror.describe(counted).fingerprint == base.fingerprint
    assert mirror.describe(counted).ready == 2
    for changed in (deployment(2, replicas=3), deployment(2, owner="x", replicas=2)):
        assert mirror.describe(changed).fingerprint != base.fingerprint
    labelled = deployment(2, replicas=2)
    labelled["metadata"]["labels"] = {"a": "b"}
    assert mirror.describe(labelled).fingerprint != base.fingerprint


def test_records_in_one_place_make_neighbours_until_one_moves() -> None:
    picture = mirror.Mirror()
    redis = {"provider": "redis", "address": "r:1", "keyPrefix": "p:"}
    picture.note_resource(resource(1, sessionStorage=redis))
    picture.note_resource(resource(1, uid="t", name="t", sessionStorage=redis))
    one = picture.read(KEY)
    assert one is not None
    assert picture.list_sharers(one, ("redis://r:1/0", "p:")) == ["MCPServer n/t"]
    picture.note_resource(resource(2, uid="t", name="t", sessionStorage={**redis, "keyPrefix": "q"}))
    assert picture.list_sharers(one, ("redis://r:1/0", "p:")) == []
    assert picture.list_placed(("MCPServer", "n", "t")) == {("MCPServer", "n", "t")}


def test_a_resource_that_cannot_be_read_is_kept_and_is_nobody_s_neighbour() -> None:
    picture = mirror.Mirror()
    picture.note_resource(resource(1, replicas="many"))
    assert KEY in picture.resources and picture.read(KEY) is None
    assert list(picture.list_resources("n")) == []
