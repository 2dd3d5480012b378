"""ToolHive's vMCP file, section by section: what is accepted, what is refused, where, and with which words.

Documents are given as YAML; nothing else is needed. Not covered: what flags and environment change about it
(test_vmcp_load.py), and definitions of composite tools, which another room checks.
"""

from typing import Any

import pytest
import yaml

from fastproxy.config import vmcp_file, vmcp_place, vmcp_schema

MINIMAL = """
name: tools
groupRef: tools
backends: [{name: git, url: "http://h:1/mcp"}, {name: docs, url: "http://h:2/sse", transport: sse}]
incomingAuth: {type: anonymous}
outgoingAuth: {source: inline}
aggregation: {conflictResolution: prefix, conflictResolutionConfig: {prefixFormat: "{workload}_"}}
"""
EVERYTHING = """
backends:
  - {name: git, url: "http://h:1/mcp", transport: streamable-http, type: "", metadata: {team: core}}
  - {name: web, url: "https://h:2", type: entry, caBundlePath: /etc/ssl/ca.pem}
outgoingAuth:
  source: inline
  default: {type: unauthenticated}
  backends:
    git: {type: header_injection, headerName: Authorization, headerValue: "Bearer x"}
    web: {type: headerInjection, headerInjection: {headerName: X-Key, headerValueEnv: KEY}}
aggregation:
  conflictResolution: priority
  conflictResolutionConfig: {priorityOrder: [web, git], prefixFormat: "{workload}."}
  tools:
    - workload: git
      filter: [push, clone]
      overrides:
        push: {name: git_push, description: Pushes.}
        clone: {annotations: {title: Clone, readOnlyHint: true, openWorldHint: false}}
    - {workload: web, excludeAll: true}
  excludeAllTools: false
  defaultToolVisibility: deny
operational:
  timeouts: {default: 1m, perWorkload: {git: 250ms}}
  failureHandling:
    healthCheckInterval: 15s
    healthCheckTimeout: 0
    unhealthyThreshold: 5
    statusReportingInterval: 1h30m
    partialFailureMode: fail
    circuitBreaker: {enabled: true, failureThreshold: 2, timeout: 1s}
passthroughHeaders: [X-Tenant, x-tenant, Accept-Language]
metadata: {owner: me}
telemetry: {metricsEnabled: true, enablePrometheusMetricsPath: true, tracingEnabled: false, endpoint: ""}
audit: {enabled: false, component: x}
codeMode: {enabled: false}
compositeToolRefs: []
rateLimiting: null
"""
ENVIRON = {"KEY": "from-the-environment", "EMPTY": ""}


def read(text: str) -> tuple[vmcp_file.Read, list[str]]:
    """The group of a minimal file with these sections in place of its own, and what is wrong with it."""
    values: dict[str, object] = yaml.safe_load(MINIMAL) | (yaml.safe_load(text) or {})
    notes = vmcp_place.Notes()
    return vmcp_file.read(vmcp_place.Place(notes, ENVIRON), values), notes.problems


def good(text: str) -> vmcp_file.Read:
    found, problems = read(text)
    assert not problems
    return found


def test_a_minimal_file_has_the_format_s_defaults() -> None:
    found = good("")
    group = found.group
    assert [one.id for one in group.backends] == ["docs", "git"], "in order, whatever the file's"
    assert [one.transport for one in group.backends] == ["sse", "streamable-http"]
    ill = group.operational
    assert (ill.health_interval_seconds, ill.health_timeout_seconds, ill.unhealthy_threshold) == (30.0, 10.0, 3)
    assert (ill.partial_failure_fails, ill.breaker) == (False, vmcp_schema.CircuitBreaker(False, 5, 60.0))
    assert dict(found.settings) == {"name": "tools"}


def test_a_file_with_everything_that_is_supported_is_read_whole() -> None:
    found = good(EVERYTHING)
    group = found.group
    git, web = group.backends
    assert git.headers == (vmcp_schema.Header("Authorization", "Bearer x"),) and git.timeout_seconds == 0.25
    assert web.headers == (vmcp_schema.Header("X-Key", "from-the-environment"),)
    assert (web.ca, git.metadata) == ("/etc/ssl/ca.pem", (("team", "core"),))
    assert group.aggregation == vmcp_schema.Aggregation(
        strategy="priority",
        prefix_format="{workload}.",
        priority_order=("web", "git"),
        tools=(
            vmcp_schema.ToolRules(
                "git",
                ("push", "clone"),
                {
                    "push": vmcp_schema.Override("git_push", "Pushes."),
                    "clone": vmcp_schema.Override(
                        annotations={"title": "Clone", "readOnlyHint": True, "openWorldHint": False}
                    ),
                },
            ),
            vmcp_schema.ToolRules("web", exclude_all=True),
        ),
        default_visible=False,
    )
    assert group.operational == vmcp_schema.Operational(
        health_interval_seconds=15.0,
        health_timeout_seconds=None,
        unhealthy_threshold=5,
        status_interval_seconds=5400.0,
        partial_failure_fails=True,
        breaker=vmcp_schema.CircuitBreaker(True, 2, 1.0),
    )
    assert group.passthrough_headers == ("x-tenant", "accept-language")


@pytest.mark.parametrize(
    ("provider", "settings"),
    [
        ("{provider: memory}", {"store": "memory:"}),
        ("{provider: redis, address: 'r:1'}", {"store": "redis://r:1/0"}),
        ("{provider: redis, address: '[::1]:1', db: 9}", {"store": "redis://[::1]:1/9"}),
        ("{provider: memory, keyPrefix: x}", {"store": "memory:", "key_prefix": "x:"}),
        ("{provider: memory, keyPrefix: 'x:'}", {"store": "memory:", "key_prefix": "x:"}),
    ],
)
def test_session_storage_becomes_a_store_and_a_prefix_that_ends_with_a_colon(
    provider: str, settings: dict[str, Any]
) -> None:
    assert dict(good(f"sessionStorage: {provider}").settings) == {"name": "tools"} | settings


NOT_SUPPORTED = "not supported yet"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        # the whole
        ("groupRef: null", "groupRef: expected the name of the group, got nothing"),
        ("name: 7", "name: expected a name of letters, digits and . _ - / that begins with a letter or a digit, got 7"),
        ("incomingAuth: null", "incomingAuth: expected a section, got nothing"),
        ("outgoingAuth: null", "outgoingAuth: expected a section, got nothing"),
        ("aggregation: null", "aggregation: expected a section, got nothing"),
        ("agregation: {}", "agregation: unknown key (did you mean aggregation?)"),
        ("backend: []", "backend: unknown key (did you mean backends?)"),
        ("composite_tools: []", "composite_tools: unknown key (did you mean compositeTools?)"),
        ("zzz: 1", "zzz: unknown key (known here: name, groupRef, backends,"),
        # backends
        ("backends: {}", "backends: expected a list, got a section"),
        ("backends: [git]", "backends[0]: expected a section, got 'git'"),
        ("backends: [{url: 'http://h'}]", "backends[0].name: expected a name, got nothing"),
        ("backends: [{name: a}]", "backends[0].url: expected a URL, got nothing"),
        ("backends: [{name: a_, url: 'http://h'}]", "backends[0].name: expected a name of letters, digits and . _ -"),
        (
            "backends: [{name: a, url: 'ws://h'}]",
            "backends[0].url: expected a URL that begins with http:// or https://",
        ),
        ("backends: [{name: a, url: 'http://h', transport: stdio}]", "backends[0].transport: expected streamable-http"),
        ("backends: [{name: a, url: 'http://h', type: x}]", "backends[0].type: expected entry, got 'x'"),
        ("backends: [{name: a, url: 'http://h', typ: x}]", "backends[0].typ: unknown key (did you mean type?)"),
        (
            "backends: [{name: a, url: 'https://h', caBundlePath: /x}]",
            "backends[0].caBundlePath: expected it only with type: entry",
        ),
        (
            "backends: [{name: a, url: 'https://h', type: entry, caBundlePath: x/../y}]",
            "backends[0].caBundlePath: expected an absolute path without ..",
        ),
        (
            "backends: [{name: a, url: 'http://h'}, {name: a, url: 'http://g'}]",
            "backends: expected each name once, got 'a' 2 times",
        ),
        # authentication, in and out
        ("incomingAuth: {}", "incomingAuth.type: expected anonymous, got nothing"),
        ("incomingAuth: {type: oidc}", f"incomingAuth.type: {NOT_SUPPORTED}: oidc (anonymous is)"),
        ("incomingAuth: {type: local}", f"incomingAuth.type: {NOT_SUPPORTED}: local (anonymous is)"),
        ("incomingAuth: {type: anonymus}", "incomingAuth.type: expected anonymous, got 'anonymus'"),
        ("incomingAuth: {type: anonymous, authz: {type: cedar}}", f"incomingAuth.authz: {NOT_SUPPORTED}"),
        ("incomingAuth: {type: anonymous, oidc: {issuer: x}}", f"incomingAuth.oidc: {NOT_SUPPORTED}"),
        ("outgoingAuth: {source: discovered}", f"outgoingAuth.source: {NOT_SUPPORTED}: discovered"),
        ("outgoingAuth: {}", "outgoingAuth.source: expected inline, got nothing"),
        (
            "outgoingAuth: {source: inline, default: {type: token_exchange}}",
            f"outgoingAuth.default.type: {NOT_SUPPORTED}: token_exchange",
        ),
        (
            "outgoingAuth: {source: inline, backends: {git: {type: aws_sts}}}",
            f"outgoingAuth.backends.git.type: {NOT_SUPPORTED}: aws_sts",
        ),
        (
            "outgoingAuth: {source: inline, default: {type: none}}",
            "outgoingAuth.default.type: expected unauthenticated or header_injection, got 'none'",
        ),
        (
            "outgoingAuth: {source: inline, default: {type: header_injection, headerValue: x}}",
            "outgoingAuth.default.headerName: expected the name of a header, got nothing",
        ),
        (
            "outgoingAuth: {source: inline, default: {type: header_injection, headerName: X}}",
            "outgoingAuth.default: expected exactly one of headerValue and headerValueEnv, got neither",
        ),
        (
            "outgoingAuth: {source: inline, default: {type: header_injection, headerName: X, headerValue: hunter2, "
            "headerValueEnv: KEY}}",
            "outgoingAuth.default: expected exactly one of headerValue and headerValueEnv, got both",
        ),
        (
            "outgoingAuth: {source: inline, default: {type: header_injection, headerName: X, headerValueEnv: NOPE}}",
            "outgoingAuth.default.headerValueEnv: expected the variable NOPE to be set in the environment",
        ),
        (
            "outgoingAuth: {source: inline, default: {type: header_injection, headerName: X, headerValueEnv: EMPTY}}",
            "outgoingAuth.default.headerValueEnv: expected the variable EMPTY to be set in the environment",
        ),
        (
            "outgoingAuth: {source: inline, default: {type: header_injection, headerName: Host, headerValue: x}}",
            "outgoingAuth.default.headerName: expected a header that is not the proxy's own to set, got 'Host'",
        ),
        (
            "outgoingAuth: {source: inline, default: "
            '{type: header_injection, headerName: X, headerValue: "hunter2\\n"}}',
            "outgoingAuth.default.headerValue: expected the value of a header: text without line breaks",
        ),
        (
            "outgoingAuth: {source: inline, default: {type: unauthenticated, headerName: X}}",
            "outgoingAuth.default.headerName: expected it only with type: header_injection",
        ),
        # aggregation
        ("aggregation: {}", "aggregation.conflictResolutionConfig: expected a section, got nothing"),
        (
            "aggregation: {conflictResolution: merge, conflictResolutionConfig: {}}",
            "aggregation.conflictResolution: expected prefix, priority or manual, got 'merge'",
        ),
        (
            "aggregation: {conflictResolution: prefix, conflictResolutionConfig: {}}",
            "aggregation.conflictResolutionConfig.prefixFormat: expected it with prefix",
        ),
        (
            "aggregation: {conflictResolution: prefix, conflictResolutionConfig: {prefixFormat: 'a b'}}",
            "aggregation.conflictResolutionConfig.prefixFormat: expected text such as {workload}_ without spaces",
        ),
        (
            "aggregation: {conflictResolution: priority, conflictResolutionConfig: {}}",
            "aggregation.conflictResolutionConfig.priorityOrder: expected names of backends with priority",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: ''}}",
            "aggregation.conflictResolutionConfig.prefixFormat: expected text such as {workload}_ without",
        ),
        (
            "aggregation: {conflictResolution: manual, conflictResolutionConfig: {}}",
            "aggregation.tools: expected entries with manual",
        ),
        (
            "aggregation: {conflictResolution: priority, defaultToolVisibility: deny, "
            "conflictResolutionConfig: {priorityOrder: [git, docs]}, tools: [{workload: git}]}",
            "aggregation.tools: expected an entry for docs: it has priority, and deny would hide it",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: x}, defaultToolVisibility: hide}",
            "aggregation.defaultToolVisibility: expected allow or deny, got 'hide'",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: x}, tools: [{}]}",
            "aggregation.tools[0].workload: expected the name of a backend, got nothing",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: x}, tools: [{workload: git}, {workload: git}]}",
            "aggregation.tools: expected each workload once, got 'git' 2 times",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: x}, tools: [{workload: git, overrides: {a: {}}}]}",
            "aggregation.tools[0].overrides.a: expected a name, a description or annotations",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: x}, "
            "tools: [{workload: git, overrides: {a: {annotations: {readOnly: true}}}}]}",
            "aggregation.tools[0].overrides.a.annotations.readOnly: unknown key (did you mean readOnlyHint?)",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: x}, "
            "tools: [{workload: git, overrides: {a: {annotations: {readOnlyHint: 'yes'}}}}]}",
            "aggregation.tools[0].overrides.a.annotations.readOnlyHint: expected true or false, got 'yes'",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: x}, "
            "tools: [{workload: git, overrides: {a: {name: b c}}}]}",
            "aggregation.tools[0].overrides.a.name: expected a tool's name of letters, digits and . _ -, got 'b c'",
        ),
        (
            "aggregation: {conflictResolutionConfig: {prefixFormat: x}, tools: [{workload: git, toolConfigRef: {}}]}",
            f"aggregation.tools[0].toolConfigRef: {NOT_SUPPORTED}",
        ),
        # operational
        ("operational: {logLevel: info}", "operational.logLevel: expected debug, got 'info'"),
        ("operational: {timeouts: {default: 0s}}", "operational.timeouts.default: expected a duration of 1ms to 8760h"),
        ("operational: {timeouts: {default: 5}}", "operational.timeouts.default: expected a duration such as 250ms"),
        ("operational: {timeouts: {default: 5x}}", "operational.timeouts.default: expected a duration such as 250ms"),
        (
            "operational: {timeouts: {perWorkload: {git: -1s}}}",
            "operational.timeouts.perWorkload.git: expected a duration such as 250ms",
        ),
        (
            "operational: {failureHandling: {healthCheckInterval: 0}}",
            "operational.failureHandling.healthCheckInterval: expected a duration of 1ms to 8760h, got 0",
        ),
        (
            "operational: {failureHandling: {healthCheckInterval: 5s, healthCheckTimeout: 5s}}",
            "operational.failureHandling.healthCheckTimeout: expected it to be shorter than the interval, got 5s of 5s",
        ),
        (
            "operational: {failureHandling: {unhealthyThreshold: 0}}",
            "operational.failureHandling.unhealthyThreshold: expected a whole number of 1 to",
        ),
        (
            "operational: {failureHandling: {partialFailureMode: panic}}",
            "operational.failureHandling.partialFailureMode: expected fail or best_effort, got 'panic'",
        ),
        (
            "operational: {failureHandling: {circuitBreaker: {enabled: true, failureThreshold: 0}}}",
            "operational.failureHandling.circuitBreaker.failureThreshold: expected a whole number of 1 to",
        ),
        (
            "operational: {failureHandling: {circuitBreaker: {enabled: true, timeout: 500ms}}}",
            "operational.failureHandling.circuitBreaker.timeout: expected a duration of 1s to 8760h, got '500ms'",
        ),
        # storage, headers
        ("sessionStorage: {}", "sessionStorage.provider: expected memory or redis, got nothing"),
        ("sessionStorage: {provider: redis}", "sessionStorage.address: expected HOST:PORT of Redis, got nothing"),
        ("sessionStorage: {provider: redis, address: r}", "sessionStorage.address: expected HOST:PORT such as redis"),
        ("sessionStorage: {provider: memory, db: 1}", "sessionStorage.db: expected it only with provider: redis"),
        (
            "sessionStorage: {provider: redis, address: 'r:1', db: -1}",
            "sessionStorage.db: expected a whole number of 0",
        ),
        ("sessionStorage: {provider: memory, password: hunter2}", "sessionStorage.password: unknown key"),
        ("passthroughHeaders: ['']", "passthroughHeaders[0]: expected the name of a header, got nothing"),
        ("passthroughHeaders: [a b]", "passthroughHeaders[0]: expected the name of a header, got 'a b'"),
        ("passthroughHeaders: [Cookie]", "passthroughHeaders[0]: expected no credentials of the client's among them"),
        ("passthroughHeaders: [X-Forwarded-For]", "passthroughHeaders[0]: expected a header that may pass"),
        ("passthroughHeaders: [Mcp-Session-Id]", "passthroughHeaders[0]: expected a header that may pass"),
        # what is not there yet
        ("rateLimiting: {shared: {}}", f"rateLimiting: {NOT_SUPPORTED}"),
        ("audit: {enabled: true}", f"audit: {NOT_SUPPORTED}"),
        ("optimizer: {}", f"optimizer: {NOT_SUPPORTED}"),
        ("codeMode: {enabled: true}", f"codeMode: {NOT_SUPPORTED}"),
        ("compositeToolRefs: [{name: x}]", f"compositeToolRefs: {NOT_SUPPORTED} (they live in Kubernetes"),
        ("telemetry: {endpoint: 'h:1'}", f"telemetry.endpoint: {NOT_SUPPORTED}"),
        ("telemetry: {endpont: ''}", "telemetry.endpont: unknown key (did you mean endpoint?)"),
        ("telemetry: {metricsEnabled: 1}", "telemetry.metricsEnabled: expected true or false, got 1"),
        ("compositeTools: [x]", "compositeTools[0]: expected a section, got 'x'"),
    ],
)
def test_what_is_wrong_is_said_once_with_its_path_and_what_would_be_right(text: str, problem: str) -> None:
    _, problems = read(text)
    assert any(one.startswith(problem) for one in problems), problems
    assert len(problems) == 1, problems
    assert "hunter2" not in "".join(problems)


def test_what_is_allowed_and_not_wise_is_doubted() -> None:
    values = yaml.safe_load(MINIMAL)
    settings = {"prefixFormat": "{workload}/", "priorityOrder": ["git", "git"]}
    values["aggregation"] = {"conflictResolution": "priority", "conflictResolutionConfig": settings}
    notes = vmcp_place.Notes()
    found = vmcp_file.read(vmcp_place.Place(notes, ENVIRON), values)
    assert (notes.problems, found.group.aggregation.prefix_format) == ([], "{workload}/")
    at = "aggregation.conflictResolutionConfig"
    assert notes.doubts == [
        f"{at}.prefixFormat: '{{workload}}/': many clients take only letters, digits, _ and - in a tool's name",
        f"{at}.priorityOrder: git stands there 2 times",
    ]


def test_all_problems_come_in_one_answer() -> None:
    _, problems = read("""
name: null
backends: [{name: a, url: ftp://h, transport: x}, {nam: b}]
incomingAuth: {type: oidc}
aggregation: {conflictResolution: manual, tools: [{workload: a, overrides: {x: {}, y: {nme: z}}}]}
operational: {timeouts: {default: never}}
optimizer: {}
""")
    assert [problem.partition(": ")[0] for problem in problems] == [
        *("name", "backends[0].transport", "backends[0].url", "backends[1].nam", "backends[1].name", "backends[1].url"),
        *("incomingAuth.type", "aggregation.conflictResolutionConfig", "aggregation.tools[0].overrides.x"),
        "aggregation.tools[0].overrides.y.nme",
        *("operational.timeouts.default", "optimizer"),
    ]
