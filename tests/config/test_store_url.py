"""The store's URL: what each form means, and that no message and no repr repeats a password. Pure."""

import msgspec
import pytest

from fastproxy.config import store_url, units

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    ("written", "store"),
    [
        ("memory:", store_url.StoreUrl()),
        ("redis://host", store_url.StoreUrl(kind="redis", hosts=(("host", 6379),))),
        ("redis://host:1/", store_url.StoreUrl(kind="redis", hosts=(("host", 1),))),
        ("redis://[::1]:1/3", store_url.StoreUrl(kind="redis", hosts=(("::1", 1),), db=3)),
        ("rediss://host:1/3", store_url.StoreUrl(kind="redis", tls=True, hosts=(("host", 1),), db=3)),
        ("redis://me@host:1", store_url.StoreUrl(kind="redis", user="me", hosts=(("host", 1),))),
        (
            "redis://me:p%40%2Fw@host:1",
            store_url.StoreUrl(kind="redis", user="me", password="p@/w", hosts=(("host", 1),)),
        ),
        ("redis://:pw@host:1", store_url.StoreUrl(kind="redis", password="pw", hosts=(("host", 1),))),
        (
            "redis+sentinel://a:1,b/main/2",
            store_url.StoreUrl(kind="sentinel", hosts=(("a", 1), ("b", 26379)), service="main", db=2),
        ),
        ("redis+sentinel://a:1/main", store_url.StoreUrl(kind="sentinel", hosts=(("a", 1),), service="main")),
        ("redis+cluster://a,b:2", store_url.StoreUrl(kind="cluster", hosts=(("a", 6379), ("b", 2)))),
        ("rediss+cluster://a:1/0", store_url.StoreUrl(kind="cluster", tls=True, hosts=(("a", 1),))),
        (
            "rediss+sentinel://me:pw@a:1/main",
            store_url.StoreUrl(kind="sentinel", tls=True, user="me", password="pw", hosts=(("a", 1),), service="main"),
        ),
    ],
)
def test_a_store_url_is_taken_apart(written: str, store: store_url.StoreUrl) -> None:
    assert store_url.read_store_url(written) == store


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", "expected memory:, redis://"),
        (None, "expected memory:, redis://"),
        (6379, "expected memory:, redis://"),
        ("memory", "expected memory:, redis://"),
        ("localhost:6379", "expected memory:, redis://"),
        ("postgres://host", "got 'postgres://…'"),
        ("redis://", "expected a host and a port"),
        ("redis://host:x", "expected a host and a port"),
        ("redis://host:0", "expected a host and a port"),
        ("redis://a:1,b:2", "expected one host"),
        ("redis://host/x", "database number of 0 to"),
        ("redis://host/-1", "database number of 0 to"),
        ("redis://host/0/1", "nothing after the database"),
        ("redis://host?db=1", r"without \? and #"),
        ("redis+sentinel://a:1", "master's service name"),
        ("redis+sentinel://a:1/", "master's service name"),
        ("redis+sentinel://a:1/main/x", "database number"),
        ("redis+cluster://a:1/2", "database 0 only"),
        ("redis+cluster://a:1,", "expected a host and a port"),
    ],
)
def test_a_wrong_store_url_is_refused_with_what_was_expected(written: object, expected: str) -> None:
    with pytest.raises(units.WrongValue, match=expected):
        store_url.read_store_url(written)


@pytest.mark.parametrize(
    "written",
    [
        f"redis://me:{PASSWORD}@host:99999",
        f"redis://me:{PASSWORD}",
        f"redis://{PASSWORD}@host/x",
        f"redis://me:a/{PASSWORD}@host",
        f"redis://me:a@{PASSWORD}@host",
        f"redis://me:a?{PASSWORD}@host",
        f"redis:me:{PASSWORD}@host",
        f"redis://host/0/{PASSWORD}",
        f"redis://host/{PASSWORD}",
        f"redis://host?password={PASSWORD}",
        f"redis+sentinel://me:{PASSWORD}@a,b",
        f"foo+bar://me:{PASSWORD}@a",
        f"redis://me:{PASSWORD}\n@a",
    ],
)
def test_no_message_repeats_what_may_be_a_password(written: str) -> None:
    with pytest.raises(units.WrongValue) as caught:
        store_url.read_store_url(written)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("memory:", "memory:"),
        (f"redis://me:{PASSWORD}@host", "redis://me:***@host:6379/0"),
        (f"redis://:{PASSWORD}@host", "redis://:***@host:6379/0"),
        (f"rediss+sentinel://:{PASSWORD}@a:1,[::1]:2/main/3", "rediss+sentinel://:***@a:1,[::1]:2/main/3"),
        ("redis+cluster://a:1,b:2", "redis+cluster://a:1,b:2"),
    ],
)
def test_a_store_is_shown_without_its_password(written: str, shown: str) -> None:
    store = store_url.read_store_url(written)
    assert str(store) == shown
    for text in (repr(store), f"{store}", repr([store]), str(store.__rich_repr__())):
        assert PASSWORD not in text
    assert msgspec.structs.replace(store, password=None).password is None
