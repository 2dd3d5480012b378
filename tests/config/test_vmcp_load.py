"""`fastproxy vmcp`: flags, environment and file brought together, what stands in whose place, and that no secret shows.

Files are real, the environment is a dictionary. Not covered: each section of a file (test_vmcp_file.py,
test_vmcp_client_file.py), and how a process says all this (tests/test_cli.py).
"""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import pytest
import trustme
import yaml

from fastproxy import errors
from fastproxy.config import document, store_url, vmcp_flags, vmcp_load, vmcp_schema

MINIMAL: dict[str, object] = {
    "name": "tools",
    "groupRef": "tools",
    "backends": [{"name": "git", "url": "http://127.0.0.1:8001/mcp", "transport": "streamable-http"}],
    "incomingAuth": {"type": "anonymous"},
    "outgoingAuth": {"source": "inline"},
    "aggregation": {"conflictResolution": "prefix", "conflictResolutionConfig": {"prefixFormat": "{workload}_"}},
}


def no_composites(definitions: Sequence[Mapping[str, object]]) -> tuple[Iterable[str], Iterable[str]]:
    return (), ()


def load(flags: dict[str, object], environ: dict[str, str] | None = None) -> vmcp_schema.VmcpConfig:
    return vmcp_load.load(flags, environ or {}, no_composites).config


def find_problems(flags: dict[str, object], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(errors.ConfigError) as caught:
        load(flags, environ)
    for problem in caught.value.problems:
        assert problem.isprintable(), "one line each"
    return caught.value.problems


@pytest.fixture
def write(tmp_path: pathlib.Path) -> "Write":
    return Write(tmp_path)


class Write:
    """Writes a file and answers with its name."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def __call__(self, changes: Mapping[str, object], name: str = "group.yaml") -> str:
        file = self.folder / name
        values = {key: value for key, value in {**MINIMAL, **changes}.items() if value is not None}
        file.write_text(json.dumps(values) if name.endswith("json") else yaml.safe_dump(values))
        return str(file)


# ── backends by flags ───────────────────────────────────────────────────────────────────────────────────────────────


def test_backends_by_flags_need_no_file_and_are_prefixed() -> None:
    config = load({"backend": ("git=http://127.0.0.1:8001/mcp", "docs=https://Docs.example/a?k=v")})
    docs, git = config.group.backends
    assert (git.id, str(git.url), git.transport) == ("git", "http://127.0.0.1:8001/mcp", "streamable-http")
    assert docs.url and (docs.url.origin, docs.url.target) == ("https://docs.example:443", "/a?k=v")
    assert (config.group.aggregation.strategy, config.group.aggregation.prefix_format) == ("prefix", "{workload}_")
    assert (config.front.name, config.front.key_prefix) == ("default", "fastproxy:default:vsession:")


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h:1", "/mcp"),
        ("http://h:1/", "/"),
        ("http://h:1/x/", "/x/"),
        ("http://h:1?k=v", "/mcp?k=v"),
        ("http://h:1/sse#name", "/sse"),
    ],
)
def test_a_url_is_the_endpoint_itself_and_a_flag_may_leave_the_usual_path_out(
    write: Write, url: str, target: str
) -> None:
    (backend,) = load({"backend": (f"a={url}",)}).group.backends
    assert backend.url and backend.url.target == target
    (backend,) = load({"config": write({"backends": [{"name": "a", "url": url}]})}).group.backends
    assert backend.url and backend.url.target == (target if url.count("/") > 2 else target.replace("mcp", ""))


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("http://h:1/mcp", "expected NAME=URL, as in github=http://127.0.0.1:8001/mcp, got 'http://h:1/mcp'"),
        ("=http://h:1", "expected a name of letters, digits and . _ - that begins and ends with a letter or a digit"),
        ("-a=http://h:1", "expected a name of letters, digits and . _ - that begins and ends with a letter or a digit"),
        ("a" * 64 + "=http://h:1", "expected at most 63 characters, got 64"),
        ("a=h:1", "expected a URL that begins with http:// or https://, got 'h:1'"),
        ("a=dns://h:1", "expected a URL that begins with http:// or https://, got 'dns://h:1'"),
        ("a=http://me:hunter2@h:1", "expected a URL without user and password (use a header, as outgoingAuth does)"),
        ("a=http://h:0", "expected a port of 1 to 65535, got '0'"),
        ("a=http://h/a b", "expected URL characters only in path and query (others are written %XX)"),
        ("a=http://", "expected a host after http://"),
    ],
)
def test_a_wrong_backend_is_named(word: str, problem: str) -> None:
    (said,) = find_problems({"backend": (word,)})
    assert said.startswith(f"--backend: {problem}") and "hunter2" not in said


def test_each_name_may_stand_once_and_there_must_be_one() -> None:
    assert find_problems({"backend": ("a=http://h:1", "a=http://h:2")}) == [
        "--backend: expected each name once, got a 2 times"
    ]
    assert find_problems({}) == [
        "--backend: expected at least one, as in github=http://127.0.0.1:8001/mcp (or --config FILE)"
    ]


def test_a_file_and_backends_at_once_are_too_much(write: Write) -> None:
    said = find_problems({"config": write({})}, {"FASTPROXY_BACKEND": "a=http://h:1"})
    assert said == ["FASTPROXY_BACKEND: expected either a file or backends, got both"]


# ── what the file says of the front ─────────────────────────────────────────────────────────────────────────────────


def test_the_file_s_own_sections_count_as_the_file_s(write: Write) -> None:
    file = write(
        {
            "sessionStorage": {"provider": "redis", "address": "Redis.example:6380", "db": 3, "keyPrefix": "mine"},
            "operational": {"logLevel": "debug", "timeouts": {"default": "20s", "perWorkload": {"git": "1m30s"}}},
        }
    )
    front = load({"config": file}).front
    assert front.store == store_url.StoreUrl(kind="redis", hosts=(("redis.example", 6380),), db=3)
    assert (front.key_prefix, front.log_level, front.response_timeout, front.name) == ("mine:", "debug", 20.0, "tools")
    flags = {"config": file, "store": "memory:", "name": "other", "response_timeout": "5s"}
    environ = {"FASTPROXY_KEY_PREFIX": "{name}/", "FASTPROXY_LOG_LEVEL": "error"}
    front = load(flags, environ).front
    assert (front.store.kind, front.key_prefix, front.log_level) == ("memory", "other/", "error")
    assert (front.response_timeout, front.session_ttl, front.cache_sessions) == (5.0, 1800.0, 10_000)


def test_a_backend_s_own_timeout_wins_over_the_one_for_all(write: Write) -> None:
    two = [{"name": name, "url": "http://h:1/mcp"} for name in ("git", "docs")]
    operational = {"timeouts": {"perWorkload": {"git": "90s"}}}
    file = write({"backends": two, "operational": operational})
    docs, git = load({"config": file}).group.backends
    assert (docs.timeout_seconds, git.timeout_seconds) == (300.0, 90.0)
    docs, git = load({"config": file, "response_timeout": "7s"}).group.backends
    assert (docs.timeout_seconds, git.timeout_seconds) == (7.0, 90.0)


@pytest.mark.parametrize(
    ("environ", "password"),
    [
        ({"THV_SESSION_REDIS_PASSWORD": "theirs"}, "theirs"),
        ({"THV_SESSION_REDIS_PASSWORD": "theirs", "FASTPROXY_REDIS_PASSWORD": "ours"}, "ours"),
        ({"THV_SESSION_REDIS_PASSWORD": "theirs", "FASTPROXY_STORE": "redis://:url@h:1/0"}, "url"),
        ({}, None),
    ],
)
def test_the_password_of_the_file_s_store_may_come_by_the_format_s_own_variable(
    write: Write, environ: dict[str, str], password: str | None
) -> None:
    file = write({"sessionStorage": {"provider": "redis", "address": "r:1"}})
    assert load({"config": file}, environ).front.store.password == password


def test_that_variable_is_not_for_a_store_that_a_flag_names(write: Write) -> None:
    config = load({"config": write({}), "store": "redis://h:1"}, {"THV_SESSION_REDIS_PASSWORD": "theirs"})
    assert config.front.store.password is None


# ── problems, doubts, secrets ───────────────────────────────────────────────────────────────────────────────────────


def test_every_problem_of_all_sources_is_named_in_one_go(write: Write) -> None:
    file = write({"name": "a b", "agregation": {}, "aggregation": None})
    said = find_problems({"config": file, "listen": "8080", "drain_delay": "-1"}, {"FASTPROXY_STORE": "nowhere"})
    assert [line.removeprefix(f"{file}: ").partition(": ")[0] for line in said] == [
        *("agregation", "name", "aggregation", "--listen", "FASTPROXY_STORE", "--drain-delay"),
    ]
    assert f"{file}: agregation: unknown key (did you mean aggregation?)" in said


def test_a_broken_file_does_not_hide_what_is_wrong_elsewhere_nor_invent_more(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "group.yaml"
    file.write_text("backends: [")
    said = find_problems({"config": str(file), "max_body": "x"})
    assert [line.rpartition(": expected")[0] for line in said][1:] == ["--max-body"] and len(said) == 2


def test_a_file_for_serve_is_said_to_be_one(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text("backend: [http://h:1]\nname: x\n")
    assert find_problems({"config": str(file)}) == [
        f"{file}: expected the configuration of a virtual MCP server, got settings of serve"
    ]


def test_a_file_that_is_not_there_cannot_be_read() -> None:
    with pytest.raises(errors.ConfigError) as caught:
        load({"config": "/nowhere.yaml"})
    assert caught.value.problems == ["/nowhere.yaml: cannot be read: no such file or directory"]
    assert isinstance(caught.value, document.Unreadable)


def test_definitions_of_composites_are_handed_on_and_their_problems_come_back(write: Write) -> None:
    seen: list[Mapping[str, object]] = []

    def check(definitions: Sequence[Mapping[str, object]]) -> tuple[Iterable[str], Iterable[str]]:
        seen.extend(definitions)
        return problems, ["compositeTools[0].timeout: shorter than its steps"]

    problems = ["compositeTools[0].steps: expected at least one"]

    file = write({"compositeTools": [{"name": "flow", "steps": []}]})
    with pytest.raises(errors.ConfigError) as caught:
        vmcp_load.load({"config": file}, {}, check)
    assert seen == [{"name": "flow", "steps": []}]
    assert caught.value.problems == [f"{file}: compositeTools[0].steps: expected at least one"]
    problems.clear()
    doubts = (f"{file}: compositeTools[0].timeout: shorter than its steps",)
    assert vmcp_load.load({"config": file}, {}, check).warnings == doubts
    assert vmcp_load.validate(file, {}, check) == ("vmcp", doubts)


def test_what_is_probably_not_meant_is_a_warning(write: Write) -> None:
    file = write(
        {
            "aggregation": {
                "conflictResolution": "priority",
                "conflictResolutionConfig": {"priorityOrder": ["gti"]},
                "tools": [{"workload": "gut"}],
            },
            "outgoingAuth": {"source": "inline", "backends": {"got": {"type": "unauthenticated"}}},
            "operational": {"timeouts": {"perWorkload": {"gat": "5s"}}},
        }
    )
    loaded = vmcp_load.load({"config": file}, {"FASTPROXY_LISTN": "x"}, no_composites)
    assert loaded.warnings == (
        "FASTPROXY_LISTN: unknown variable (did you mean FASTPROXY_LISTEN?)",
        f"{file}: outgoingAuth.backends.got: no backend has this name",
        f"{file}: aggregation.tools[0].workload: no backend is named gut",
        f"{file}: aggregation.conflictResolutionConfig.priorityOrder[0]: no backend is named gti",
        f"{file}: operational.timeouts.perWorkload.gat: no backend has this name",
    )
    assert vmcp_load.validate(file, {}, no_composites)[0] == "vmcp"


def test_a_group_without_backends_runs_with_a_warning(write: Write) -> None:
    loaded = vmcp_load.load({"config": write({"backends": None})}, {}, no_composites)
    assert loaded.config.group.backends == () and "nothing will be offered" in loaded.warnings[0]


def test_no_secret_shows_in_the_effective_configuration_nor_in_any_repr(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "mcp.json"
    servers = {
        "web": {"url": "https://h/mcp?key=hunter2", "headers": {"Authorization": "Bearer hunter2"}},
        "own": {"command": "server", "args": ["--key", "hunter2"], "env": {"KEY": "hunter2"}},
    }
    file.write_text(json.dumps({"mcpServers": servers}))
    config = load({"config": str(file)}, {"FASTPROXY_STORE": "redis://me:hunter2@h:1/0"})
    shown = json.dumps(config.effective()) + repr(config) + repr(config.group) + str(config.group.backends)
    assert "hunter2" not in shown
    assert "https://h:443/mcp?***" in shown and "redis://me:***@h:1/0" in shown
    web = config.group.backends[1]
    assert web.url and web.url.target == "/mcp?key=hunter2" and web.headers[0].value == "Bearer hunter2"


def test_the_effective_configuration_holds_every_setting_and_the_group(write: Write) -> None:
    shown = load({"config": write({})}).effective()
    assert set(shown) == (set(vmcp_flags.SETTINGS) - {"backend"}) | {"group"}
    assert shown["session_ttl"] == "30m" and shown["key_prefix"] == "fastproxy:tools:vsession:"
    json.dumps(shown)


def test_trust_for_a_backend_must_be_pem(write: Write, tmp_path: pathlib.Path) -> None:
    pem = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(pem))
    backend = {"name": "git", "url": "https://h/mcp", "type": "entry", "caBundlePath": str(pem)}
    assert load({"config": write({"backends": [backend]})}).group.backends[0].ca == str(pem)
    pem.write_text("no PEM")
    (said,) = find_problems({"config": write({"backends": [backend]})})
    assert f"backends: git: caBundlePath: {pem}: expected PEM" in said
