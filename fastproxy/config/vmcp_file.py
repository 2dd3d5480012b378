"""ToolHive's vMCP file: from a document to a Group and the settings of the front that it holds.

    backends · operational · sessionStorage …  one table of rows each, here
    incomingAuth · outgoingAuth                vmcp_auth.py
    aggregation                                vmcp_aggregation.py
    compositeTools                             left as written; vmcp/composite reads them

What belongs to the format and is not there yet is refused by its name, never ignored: who asked for authorization must
not be served without it. Keys are the format's own, strictly. Sans-io.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from fastproxy.config import (
    address,
    schema,
    store_url,
    units,
    vmcp_aggregation,
    vmcp_auth,
    vmcp_backend,
    vmcp_headers,
    vmcp_schema,
)
from fastproxy.config import vmcp_place as places
from fastproxy.config.vmcp_place import INVALID, Place, Row

_PATH_FORBIDDEN = re.compile(r"\.\.|\x00")
PREFIX_CHARACTERS_MAX = 256


class Read(msgspec.Struct, frozen=True):
    """What a file says: the group, and settings of the front as a file of `serve` would name them."""

    group: vmcp_schema.Group
    settings: Mapping[str, object]


def read(place: Place, document: Mapping[str, object]) -> Read:
    """The group. What is wrong is noted at its place; the answer is of use only when nothing is."""
    values = places.read_section(place, dict(document), _ROOT)
    operational = values["operational"]
    backends = _join_backends(place, values)
    vmcp_aggregation.check_workloads(place.key("aggregation"), values["aggregation"], [one.id for one in backends])
    _check_timeouts(place, operational, backends)
    if not backends and not place.notes.problems:
        place.doubt("no backends: nothing will be offered (groupRef alone is looked up in Kubernetes only)")
    group = vmcp_schema.Group(
        name=values["name"],
        group_ref=values["groupRef"],
        backends=tuple(sorted(backends, key=lambda one: one.id)),
        aggregation=values["aggregation"],
        operational=operational.ill,
        composite_tools=values["compositeTools"],
        passthrough_headers=tuple(dict.fromkeys(values["passthroughHeaders"])),
        metadata=tuple(values["metadata"].items()),
    )
    settings: dict[str, object] = dict(values["sessionStorage"])
    settings |= {"name": values["name"], "log_level": operational.log_level}
    settings |= {"response_timeout": operational.timeout_seconds}
    return Read(group, {name: value for name, value in settings.items() if value is not None})


# ── backends and what is sent to them ───────────────────────────────────────────────────────────────────────────────


def _make_backend(place: Place, values: dict[str, Any]) -> object:
    if values["caBundlePath"] and values["type"] != "entry":
        place.key("caBundlePath").refuse("expected it only with type: entry")
    if "group" in values["metadata"]:
        place.key("metadata").key("group").doubt("the key is reserved; the group's name stands there")
    if values["name"] is None or values["url"] is None:
        return INVALID
    try:
        url = vmcp_backend.read_url(values["url"])
    except units.WrongValue as wrong:
        return place.key("url").refuse(str(wrong))
    return vmcp_schema.BackendConfig(
        id=values["name"],
        transport=values["transport"],
        url=url,
        ca=values["caBundlePath"],
        metadata=tuple(values["metadata"].items()),
    )


def _read_ca(place: Place, raw: object) -> object:
    if not isinstance(raw, str) or not raw.startswith("/") or _PATH_FORBIDDEN.search(raw) or not raw.isprintable():
        return place.refuse(f"expected an absolute path without .., got {units.quote(raw)}")
    return raw


def _join_backends(place: Place, values: dict[str, Any]) -> list[vmcp_schema.BackendConfig]:
    """The backends with what other sections say of them: outgoing headers and timeouts."""
    at = place.key("backends")
    backends: tuple[vmcp_schema.BackendConfig, ...] = values["backends"]
    places.refuse_twice(at, [one.id for one in backends], "name")
    outgoing: vmcp_auth.Outgoing = values["outgoingAuth"]
    known = {one.id for one in backends}
    for name in outgoing.backends:
        if name not in known:
            place.key("outgoingAuth").key("backends").key(name).doubt("no backend has this name")
    per_workload = values["operational"].per_workload
    return [
        msgspec.structs.replace(
            one,
            headers=outgoing.backends.get(one.id, outgoing.default),
            timeout_seconds=per_workload.get(one.id, 0.0),
        )
        for one in backends
    ]


def _read_disabled(place: Place, raw: object) -> object:
    """A section that says of itself that it is switched off, or does not say that it is on."""
    if isinstance(raw, dict) and raw.get("enabled") in (None, False):
        return INVALID
    return place.refuse("not supported yet (enabled: false is)")


def _read_telemetry(place: Place, raw: object) -> object:
    """Metrics are always there, at /metrics of the admin address; the rest is somebody else's protocol."""
    if not isinstance(raw, dict):
        return place.refuse(f"expected a section, got {units.quote(raw)}")
    for key, value in raw.items():
        if str(key) not in _TELEMETRY:
            place.key(str(key)).refuse(f"unknown key{places.suggest(str(key), _TELEMETRY)}")
        elif key in ("metricsEnabled", "enablePrometheusMetricsPath"):
            places.flag(place.key(key), value)
        elif value not in (None, False, "", [], {}):
            place.key(str(key)).refuse("not supported yet (metrics are at /metrics of the admin address)")
    return INVALID


# ── operational, sessionStorage ─────────────────────────────────────────────────────────────────────────────────────


class _Operational(msgspec.Struct, frozen=True):
    ill: vmcp_schema.Operational = vmcp_schema.Operational()
    log_level: str | None = None
    timeout_seconds: float | None = None
    per_workload: Mapping[str, float] = {}


def _make_operational(place: Place, values: dict[str, Any]) -> object:
    default, per_workload = values["timeouts"]
    return _Operational(values["failureHandling"], values["logLevel"], default, per_workload)


def _make_timeouts(place: Place, values: dict[str, Any]) -> object:
    return values["default"], values["perWorkload"]


def _make_failure_handling(place: Place, values: dict[str, Any]) -> object:
    interval, timeout = values["healthCheckInterval"], values["healthCheckTimeout"]
    if timeout >= interval:
        shown = f"{units.show_duration(timeout)} of {units.show_duration(interval)}"
        place.key("healthCheckTimeout").refuse(f"expected it to be shorter than the interval, got {shown}")
    return vmcp_schema.Operational(
        health_interval_seconds=interval,
        health_timeout_seconds=timeout or None,
        unhealthy_threshold=values["unhealthyThreshold"],
        status_interval_seconds=values["statusReportingInterval"],
        partial_failure_fails=values["partialFailureMode"] == "fail",
        breaker=values["circuitBreaker"],
    )


def _make_breaker(place: Place, values: dict[str, Any]) -> object:
    return vmcp_schema.CircuitBreaker(values["enabled"], values["failureThreshold"], values["timeout"])


def _check_timeouts(place: Place, operational: _Operational, backends: list[vmcp_schema.BackendConfig]) -> None:
    known = {one.id for one in backends}
    for name in operational.per_workload:
        if name not in known:
            place.key("operational").key("timeouts").key("perWorkload").key(name).doubt("no backend has this name")


def _make_storage(place: Place, values: dict[str, Any]) -> object:
    """`store` and `key_prefix`, as a file of `serve` would hold them."""
    settings: dict[str, object] = {}
    prefix = values["keyPrefix"]
    if prefix is not None:
        settings["key_prefix"] = prefix if prefix.endswith(":") else f"{prefix}:"
    if values["provider"] == "memory":
        for key in ("address", "db"):
            if values[key] is not None:
                place.key(key).refuse("expected it only with provider: redis")
        settings["store"] = "memory:"
    elif values["provider"] == "redis":
        at = place.key("address")
        if values["address"] is None and not at.is_refused:
            at.refuse("expected HOST:PORT of Redis, got nothing")
        elif values["address"] is not None:
            settings["store"] = f"redis://{values['address']}/{values['db'] or 0}"
    return settings


def _read_address(place: Place, raw: object) -> object:
    try:
        host, port = address.split_port(units.read_text(raw, expected="HOST:PORT of Redis").strip())
        if port is None or not host:
            raise units.WrongValue(f"expected HOST:PORT such as redis:6379, got {units.quote(raw)}")
        return f"{address.bracket(address.read_host(host))}:{address.read_port(port)}"
    except units.WrongValue as wrong:
        return place.refuse(str(wrong))


def _read_composite(place: Place, raw: object) -> object:
    return raw if isinstance(raw, dict) else place.refuse(f"expected a section, got {units.quote(raw)}")


_TELEMETRY = dict.fromkeys(
    (
        *("endpoint", "serviceName", "serviceVersion", "tracingEnabled", "metricsEnabled", "samplingRate", "headers"),
        *("insecure", "enablePrometheusMetricsPath", "prometheusPort", "metricsOnTransportPort"),
        *("environmentVariables", "customAttributes", "useLegacyAttributes", "caCertPath"),
    )
)
_BACKEND: Mapping[str, Row] = {
    "name": Row(places.value(units.Kind("NAME", vmcp_backend.read_id, str)), required="a name"),
    "url": Row(places.text("a URL"), required="a URL"),
    "transport": Row(
        places.value(units.choice(vmcp_schema.STREAMABLE, vmcp_schema.SSE)), default=vmcp_schema.STREAMABLE
    ),
    "type": Row(places.choice("entry")),
    "caBundlePath": Row(_read_ca),
    "metadata": Row(places.table(places.text()), default={}),
}
_TIMEOUT = places.duration(least_seconds=0.001)
_BREAKER: Mapping[str, Row] = {
    "enabled": Row(places.flag, default=False),
    "failureThreshold": Row(places.value(units.count(minimum=1, maximum=1_000_000)), default=5),
    "timeout": Row(places.duration(least_seconds=1.0), default=60.0),
}
_FAILURE_HANDLING: Mapping[str, Row] = {
    "healthCheckInterval": Row(_TIMEOUT, default=30.0),
    "healthCheckTimeout": Row(places.duration(least_seconds=0.001, zero=True), default=10.0),
    "unhealthyThreshold": Row(places.value(units.count(minimum=1, maximum=1_000_000)), default=3),
    "statusReportingInterval": Row(_TIMEOUT, default=30.0),
    "partialFailureMode": Row(places.value(units.choice("fail", "best_effort")), default="best_effort"),
    "circuitBreaker": Row(places.section(_BREAKER, _make_breaker), default=vmcp_schema.CircuitBreaker()),
}
_OPERATIONAL: Mapping[str, Row] = {
    "logLevel": Row(places.choice("debug")),
    "timeouts": Row(
        places.section(
            {"default": Row(_TIMEOUT), "perWorkload": Row(places.table(_TIMEOUT), default={})}, _make_timeouts
        ),
        default=(None, {}),
    ),
    "failureHandling": Row(
        places.section(_FAILURE_HANDLING, _make_failure_handling), default=vmcp_schema.Operational()
    ),
}
_STORAGE: Mapping[str, Row] = {
    "provider": Row(places.value(units.choice("memory", "redis")), required="memory or redis"),
    "address": Row(_read_address),
    "db": Row(places.value(units.count(minimum=0, maximum=store_url.DATABASE_MAX))),
    "keyPrefix": Row(
        places.value(units.text("PREFIX", expected="a prefix of keys", characters_max=PREFIX_CHARACTERS_MAX))
    ),
}
_ROOT: Mapping[str, Row] = {
    "name": Row(places.value(schema.SETTINGS["name"].kind), required="the name of the server"),
    "groupRef": Row(places.text("the name of a group"), required="the name of the group"),
    "backends": Row(places.items(places.section(_BACKEND, _make_backend)), default=()),
    "incomingAuth": Row(vmcp_auth.INCOMING, required="a section"),
    "outgoingAuth": Row(vmcp_auth.OUTGOING, required="a section", default=vmcp_auth.Outgoing()),
    "aggregation": Row(vmcp_aggregation.read_aggregation, required="a section", default=vmcp_schema.Aggregation()),
    "compositeTools": Row(places.items(_read_composite), default=()),
    "compositeToolRefs": Row(places.unsupported("they live in Kubernetes: write the tools under compositeTools")),
    "operational": Row(places.section(_OPERATIONAL, _make_operational), default=_Operational()),
    "metadata": Row(places.table(places.text()), default={}),
    "sessionStorage": Row(places.section(_STORAGE, _make_storage), default={}),
    "passthroughHeaders": Row(places.items(places.value(vmcp_headers.PASSED)), default=()),
    "telemetry": Row(_read_telemetry),
    "audit": Row(_read_disabled),
    "codeMode": Row(_read_disabled),
    "optimizer": Row(places.unsupported()),
    "rateLimiting": Row(places.unsupported()),
}
