"""From flags, environment and file to one checked VmcpConfig, or to every problem at once.

    flags, environment ─ sources.py ──────────────┬─ check.py ─> front
    file ─┬─ ToolHive's vMCP ─ vmcp_file.py ──────┤
          └─ mcp.json ─ vmcp_client_file.py ──────┴──────────> group

Definitions of composite tools are checked by a function that the roof hands in: what they mean is known further up.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from fastproxy import errors
from fastproxy.config import (
    check,
    document,
    schema,
    sources,
    vmcp_backend,
    vmcp_client_file,
    vmcp_file,
    vmcp_flags,
    vmcp_place,
    vmcp_schema,
)

TOOLHIVE_PASSWORD = "THV_SESSION_REDIS_PASSWORD"  # where deployments of the format's own program keep it

CheckComposites = Callable[[Sequence[Mapping[str, object]]], tuple[Iterable[str], Iterable[str]]]
"""Problems and doubts of `compositeTools`, each with its path; they are handed over as they were written."""


class Loaded(msgspec.Struct, frozen=True):
    """What came out: the configuration, and what is probably not meant (one line each)."""

    config: vmcp_schema.VmcpConfig
    warnings: tuple[str, ...]


class _File(msgspec.Struct):
    """What a file holds."""

    group: vmcp_schema.Group
    settings: Mapping[str, object]
    notes: vmcp_place.Notes
    sort: str


def load(flags: Mapping[str, object], environ: Mapping[str, str], check_composites: CheckComposites) -> Loaded:
    """The configuration. `flags` go by their snake_case names; errors.ConfigError holds every problem."""
    name = str(flags.get("config") or environ.get(vmcp_flags.SETTINGS["config"].variable) or "")
    failure: errors.ConfigError | None = None
    file = None
    try:
        file = _read_file(name, environ, check_composites) if name else None
    except errors.ConfigError as error:
        failure = error  # other sources are still worth a look
    problems = [] if file is None else [f"{name}: {problem}" for problem in file.notes.problems]
    gathered = _gather(flags, _lend_password(environ, file), file, name)
    named = gathered.settings.get("backend", ())
    if failure is None and "backend" in gathered.settings:
        gathered.add(_check_backends(named, has_file=file is not None))
    if failure is not None:
        raise type(failure)([*failure.problems, *gathered.problems]) from failure
    if problems or gathered.problems:
        raise errors.ConfigError([*problems, *gathered.problems])
    doubts = [f"{name}: {doubt}" for doubt in file.notes.doubts] if file else []
    warnings = (*sources.find_misspelt(vmcp_flags.SETTINGS, environ), *doubts, *gathered.find_doubts())
    return Loaded(_assemble(gathered.settings, file.group if file else _make_group(named)), warnings)


def validate(file: str, environ: Mapping[str, str], check_composites: CheckComposites) -> tuple[str, tuple[str, ...]]:
    """Checks a file by itself; answers with its sort, and what is probably not meant. Problems as with `load`."""
    read = _read_file(file, environ, check_composites)
    gathered = _gather({}, {}, read, file)
    problems = [f"{file}: {problem}" for problem in read.notes.problems] + gathered.problems
    if problems:
        raise errors.ConfigError(problems)
    return read.sort, tuple(f"{file}: {doubt}" for doubt in read.notes.doubts)


def _read_file(name: str, environ: Mapping[str, str], check_composites: CheckComposites) -> _File:
    found = document.read(name)
    notes = vmcp_place.Notes(problems=list(found.problems))
    place = vmcp_place.Place(notes, environ)
    if vmcp_client_file.is_client_file(found.values):
        return _File(vmcp_client_file.read(place, found.values), {}, notes, "mcp.json")
    if not document.looks_like_vmcp(found.values) and not found.values.keys().isdisjoint(
        schema.SETTINGS.keys() - {"name"}
    ):
        raise document.Malformed([f"{name}: expected the configuration of a virtual MCP server, got settings of serve"])
    read = vmcp_file.read(place, found.values)
    problems, doubts = check_composites(read.group.composite_tools)
    notes.problems += problems
    notes.doubts += doubts
    for one in read.group.backends:
        if one.ca is not None:
            notes.problems += [
                f"backends: {one.id}: caBundlePath: {problem}" for problem in check.find_distrust(one.ca)
            ]
    return _File(read.group, read.settings, notes, "vmcp")


def _lend_password(environ: Mapping[str, str], file: _File | None) -> Mapping[str, str]:
    """The format's own variable for the password, when the store is the file's and ours says nothing."""
    password = environ.get(TOOLHIVE_PASSWORD)
    ours = [vmcp_flags.SETTINGS[name].variable for name in ("redis_password", "redis_password_file", "store")]
    if file is None or not password or "store" not in file.settings or any(environ.get(name) for name in ours):
        return environ
    return {**environ, vmcp_flags.SETTINGS["redis_password"].variable: password}


def _gather(flags: Mapping[str, object], environ: Mapping[str, str], file: _File | None, name: str) -> sources.Gathered:
    problems: list[str] = []
    values = file.settings if file else {}
    given = sources.choose(vmcp_flags.SETTINGS, flags, environ, values, file=name if file else "")
    settings = sources.read_all(vmcp_flags.SETTINGS, given, problems)
    sources.settle_password(given, settings, problems)
    gathered = sources.Gathered(given, settings, problems)
    # Its checks of replicas have nothing to say about servers of a group.
    gathered.add(check.find_problems({key: value for key, value in settings.items() if key != "backend"}))
    return gathered


def _check_backends(named: Sequence[vmcp_backend.NamedBackend], *, has_file: bool) -> Iterable[check.Problem]:
    if has_file and named:
        yield "backend", "expected either a file or backends, got both"
    if not has_file and not named:
        yield "backend", "expected at least one, as in github=http://127.0.0.1:8001/mcp (or --config FILE)"
    ids = [one.id for one in named]
    for id in sorted({id for id in ids if ids.count(id) > 1}):
        yield "backend", f"expected each name once, got {id} {ids.count(id)} times"


def _make_group(named: Sequence[vmcp_backend.NamedBackend]) -> vmcp_schema.Group:
    backends = [vmcp_schema.BackendConfig(id=one.id, url=one.url, timeout_seconds=0.0) for one in named]
    return vmcp_schema.Group(backends=tuple(sorted(backends, key=lambda one: one.id)))


def _assemble(settings: Mapping[str, object], group: vmcp_schema.Group) -> vmcp_schema.VmcpConfig:
    front = {name: value for name, value in settings.items() if name != "backend"}
    front["key_prefix"] = str(front["key_prefix"]).replace("{name}", str(front["name"]))
    serve = schema.ServeConfig(**front)  # type: ignore[arg-type]  # read by the same kinds as for serve
    backends = tuple(
        one if one.timeout_seconds else msgspec.structs.replace(one, timeout_seconds=serve.response_timeout)
        for one in group.backends
    )
    return vmcp_schema.VmcpConfig(front=serve, group=msgspec.structs.replace(group, backends=backends))
