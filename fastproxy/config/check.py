"""What one setting asks of another, and of the files that it names.

Every check looks at the settings that were read and returns problems as (name of the setting, what is wrong); load.py
adds where that setting came from. Values that could not be read are absent: they have a problem already, and a second
line about them would mislead. This is the one file of the room that opens what settings name.
"""

import functools
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from fastproxy.config import address, backend, document, store_url, units

Problem = tuple[str, str]
END_SECONDS = 5.0  # from the end of a drain to that of the process: streams are cut, the store is told, Python ends
SECRET_BYTES_MAX = 4096  # a password file; more is the wrong file


def find_problems(values: Mapping[str, object]) -> Iterator[Problem]:
    """All that is wrong between settings. `values` holds every setting that could be read, defaults included."""
    for check in (_check_source, _check_replicas, _check_addresses, _check_pairs, _check_files, _check_store):
        yield from check(values)


def find_gaps(values: Mapping[str, object]) -> Iterator[Problem]:
    """What is still missing before anything can be served: a file may leave it to flags."""
    if values.get("backend") == () and values.get("command") == ():
        yield "backend", "expected at least one, as in http://127.0.0.1:8000"


def find_doubts(values: Mapping[str, object]) -> Iterator[Problem]:
    """What is allowed and probably not meant."""
    yield from _doubt_grace(values)
    for one in _list_backends(values):
        if isinstance(one, backend.StaticBackend) and one.path.endswith(("/mcp", "/sse")):
            yield (
                "backend",
                f"{one.path} is put in front of the request's path (a request to /mcp goes to {one.path}/mcp)",
            )


def _doubt_grace(values: Mapping[str, object]) -> Iterator[Problem]:
    grace, delay, timeout = (values.get(name) for name in ("grace_period", "drain_delay", "drain_timeout"))
    if not (isinstance(grace, float) and isinstance(delay, float) and isinstance(timeout, float)):
        return
    needed = delay + timeout + END_SECONDS
    if needed > grace:
        left = grace - delay - END_SECONDS
        other = f", or drain_timeout to at most {units.show_duration(left)}" if left >= 0 else ""
        yield (
            "grace_period",
            f"{units.show_duration(grace)} are too short for drain_delay {units.show_duration(delay)}, drain_timeout "
            f"{units.show_duration(timeout)} and {units.show_duration(END_SECONDS)} to end: set the platform's grace "
            f"period to at least {units.show_duration(needed)}{other}",
        )


def read_secret_file(path: str) -> str:
    """The secret in a file, without the newline that editors leave. ValueError says what is wrong, not the content."""
    try:
        with open(path, "rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {document.explain(error)}") from error
    if len(content) > SECRET_BYTES_MAX:
        raise ValueError(f"{path}: expected at most {SECRET_BYTES_MAX} bytes")
    try:
        secret = content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        secret = ""
    if not secret or not secret.isprintable():
        raise ValueError(f"{path}: expected one line of text")
    return secret


def _list_backends(values: Mapping[str, object]) -> tuple[backend.Backend, ...]:
    backends = values.get("backend", ())
    assert isinstance(backends, tuple)
    return backends


def _check_source(values: Mapping[str, object]) -> Iterator[Problem]:
    if values.get("backend") and values.get("command"):
        yield "command", "expected either backends or a command, got both"
    where, workers = values.get("stdio_address"), values.get("workers")
    if isinstance(where, address.Address) and where.port and isinstance(workers, int) and workers > 1:
        yield "stdio_address", f"expected port 0 with {workers} workers, each of which needs one of its own"


def _check_replicas(values: Mapping[str, object]) -> Iterator[Problem]:
    """A session record names a replica by scheme, host and port: two with the same could not be told apart."""
    named: list[str] = []
    for one in _list_backends(values):
        if isinstance(one, backend.StatefulSetBackend):
            named += [replica.url for replica in one.expand()]
        else:
            named.append(one.url if isinstance(one, backend.StaticBackend) else f"dns://{one.name}:{one.port}")
    for url, times in Counter(named).items():
        if times > 1:
            yield "backend", f"expected each replica once, got {url} {times} times"


def _check_addresses(values: Mapping[str, object]) -> Iterator[Problem]:
    listen, admin = values.get("listen"), values.get("admin")
    if isinstance(listen, address.Address) and listen == admin and listen.port != 0:
        yield "admin", f"expected another address than listen's, got {admin} for both"


def _check_pairs(values: Mapping[str, object]) -> Iterator[Problem]:
    for one, other in (("tls_cert", "tls_key"), ("redis_cert", "redis_key")):
        if one in values and other in values and bool(values[one]) != bool(values[other]):
            missing, given = (other, one) if values[one] else (one, other)
            yield missing, f"expected a file, since {given} is given"


def _check_files(values: Mapping[str, object]) -> Iterator[Problem]:
    for name in ("backend_ca", "redis_ca"):
        path = values.get(name)
        if isinstance(path, str):
            yield from _try_pem(name, path, functools.partial(_context().load_verify_locations, path))
    for cert_name, key_name in (("tls_cert", "tls_key"), ("redis_cert", "redis_key")):
        cert, key = values.get(cert_name), values.get(key_name)
        unreadable = [
            problem for name, path in ((cert_name, cert), (key_name, key)) for problem in _try_open(name, path)
        ]
        yield from unreadable
        if isinstance(cert, str) and isinstance(key, str) and not unreadable:
            # Without a password of its own, OpenSSL would ask for one at the terminal.
            yield from _try_pem(cert_name, cert, functools.partial(_context().load_cert_chain, cert, key, password=""))


def find_distrust(path: str) -> Iterator[str]:
    """Why this file cannot say which authorities to trust."""
    for _, problem in _try_pem("", path, functools.partial(_context().load_verify_locations, path)):
        yield problem


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def _try_open(name: str, path: object) -> Iterator[Problem]:
    if isinstance(path, str):
        try:
            with open(path, "rb"):
                pass
        except (OSError, ValueError) as error:
            yield name, f"{path}: cannot be read: {document.explain(error)}"


def _try_pem(name: str, path: str, load: Callable[[], None]) -> Iterator[Problem]:
    try:
        load()
    except ssl.SSLError as error:
        reason = (error.reason or "not PEM").replace("_", " ").lower()
        yield name, f"{path}: expected PEM that OpenSSL takes, with a key that fits and is not encrypted ({reason})"
    except (OSError, ValueError) as error:
        yield name, f"{path}: cannot be read: {document.explain(error)}"


def _check_store(values: Mapping[str, object]) -> Iterator[Problem]:
    store = values.get("store")
    if not isinstance(store, store_url.StoreUrl) or store.kind == "memory" or store.tls:
        return
    for name in ("redis_ca", "redis_cert", "redis_key"):
        if values.get(name):
            yield name, "expected a store with TLS (rediss…), since without it this file does nothing"
