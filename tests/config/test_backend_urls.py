"""The forms of --backend, and what each means. Pure; DNS is asked elsewhere (routing)."""

import pytest

from fastproxy.config import backend, units


@pytest.mark.parametrize(
    ("written", "host", "port", "path", "url"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, "", "http://127.0.0.1:8000"),
        ("HTTP://Host.Example:8000/", "host.example", 8000, "", "http://host.example:8000"),
        ("https://host/base/", "host", 443, "/base", "https://host:443"),
        ("http://[::1]:8000/a%20b", "::1", 8000, "/a%20b", "http://[::1]:8000"),
        ("http://[0::0:1]", "::1", 80, "", "http://[::1]:80"),
    ],
)
def test_a_url_names_one_replica(written: str, host: str, port: int, path: str, url: str) -> None:
    scheme = url.partition(":")[0]
    assert backend.read_backend(written) == backend.StaticBackend(scheme, host, port, path, url)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("127.0.0.1:8000", "begins with http://"),
        ("ftp://host:1", "begins with http://"),
        ("http:/host", "begins with http://"),
        ("", "expected a URL, got nothing"),
        (8000, "expected a URL, got 8000"),
        (["http://a"], "expected a URL, got a list"),
        ("http://", "expected a host after http://"),
        ("http:///mcp", "expected a host after http://"),
        ("http://host:0", "port of 1 to 65535"),
        ("http://host:", "port of 1 to 65535"),
        ("http://host:99999", "port of 1 to 65535"),
        ("http://::1:80", "in brackets"),
        ("http://host:1?a=b", "without a query"),
        ("http://host:1#a", "without a fragment"),
        ("http://host:1/a b", "URL characters"),
        ("http://host:1/%zz", "URL characters"),
        ("http://host:1/\x00", "control characters"),
        ("http://ho st:1", "host name"),
        ("dns://host", "expected a port"),
        ("dns://host:1/path", "expected no path"),
        ("dns://10.0.0.1:80", "use http://10.0.0.1:80"),
        ("dns://host:1?srv=", "name of a port"),
        ("dns://host:1?ttl=5", "only srv"),
        ("dns://host:1?srv=a&srv=b", "srv= once"),
        ("statefulset://a.b.c:1", r"\?replicas=N"),
        ("statefulset://a.b:1?replicas=1", "NAME.SERVICE.NAMESPACE"),
        ("statefulset://a.b.c.d:1?replicas=1", "NAME.SERVICE.NAMESPACE"),
        ("statefulset://a_a.b.c:1?replicas=1", "NAME.SERVICE.NAMESPACE"),
        ("statefulset://a.b.c?replicas=1", "expected a port"),
        ("statefulset://a.b.c:1?replicas=0", "replicas: expected a whole number of 1 to 1000, got '0'"),
        ("statefulset://a.b.c:1?replicas=-1", "replicas: "),
        ("statefulset://a.b.c:1?replicas=x", "replicas: "),
        ("statefulset://a.b.c:1?replicas=1&domain=", "host name"),
    ],
)
def test_a_wrong_url_is_refused_with_what_was_expected(written: object, expected: str) -> None:
    with pytest.raises(units.WrongValue, match=expected):
        backend.read_backend(written)


@pytest.mark.parametrize("scheme", ["http", "https", "dns", "statefulset", "ftp"])
@pytest.mark.parametrize("userinfo", ["me:hunter2", "me:hun/hunter2", ":hunter2", "hunter2", "hunter2:"])
def test_a_password_in_a_backend_url_is_refused_and_not_repeated(scheme: str, userinfo: str) -> None:
    with pytest.raises(units.WrongValue) as caught:
        backend.read_backend(f"{scheme}://{userinfo}@host:1")
    assert "hunter2" not in str(caught.value)


def test_replicas_may_be_found_by_dns() -> None:
    assert backend.read_backend("dns://mcp.default.svc:8000") == backend.DnsBackend("mcp.default.svc", 8000, "http")
    assert backend.read_backend("dns://mcp:8000?srv=web") == backend.DnsBackend("mcp", 8000, "web")


def test_a_statefulset_expands_to_its_pods_in_the_order_of_their_ordinals() -> None:
    read = backend.read_backend("statefulset://mcp.mcp-headless.tools:8000?replicas=2")
    assert isinstance(read, backend.StatefulSetBackend)
    host = "mcp-{}.mcp-headless.tools.svc.cluster.local"
    assert read.expand() == tuple(
        backend.StaticBackend("http", host.format(n), 8000, "", f"http://{host.format(n)}:8000", pod=f"mcp-{n}")
        for n in range(2)
    )


def test_a_statefulset_may_live_in_a_cluster_with_another_domain() -> None:
    read = backend.read_backend("statefulset://mcp.headless.ns:1?replicas=1&domain=corp.internal.")
    assert isinstance(read, backend.StatefulSetBackend)
    assert [one.host for one in read.expand()] == ["mcp-0.headless.ns.svc.corp.internal"]


@pytest.mark.parametrize(
    "canonical",
    [
        "http://127.0.0.1:8000",
        "https://[::1]:443/base",
        "dns://mcp:8000",
        "dns://mcp:8000?srv=web",
        "statefulset://mcp.headless.ns:1?replicas=3",
        "statefulset://mcp.headless.ns:1?replicas=3&domain=corp.internal",
    ],
)
def test_a_backend_is_shown_as_it_can_be_written(canonical: str) -> None:
    assert str(backend.read_backend(canonical)) == canonical
