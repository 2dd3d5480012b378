"""`fastproxy vmcp` and `fastproxy validate` on the command line: exit codes and lines, --help that teaches.

Real: the process (`python -m fastproxy`) and its files. Not covered: each rule of a file (tests/config), and what vmcp
does once its configuration is good (tests/vmcp).
"""

import json
import pathlib

import pytest

from fastproxy.config import vmcp_flags
from tests import tree
from tests.kit.command import fail, run

GOOD = """
name: tools
groupRef: tools
backends:
  - {name: github, url: "http://127.0.0.1:8001/mcp", transport: streamable-http}
incomingAuth: {type: anonymous}
outgoingAuth: {source: inline}
aggregation:
  conflictResolution: prefix
  conflictResolutionConfig: {prefixFormat: "{workload}_"}
"""


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--backend: expected at least one, as in github=http://127.0.0.1:8001/mcp (or --config FILE)"),
        (["--backend", "http://h:1"], "--backend: expected NAME=URL, as in github=http://127.0.0.1:8001/mcp"),
        (["--backend", "a=h:1"], "--backend: expected a URL that begins with http:// or https://, got 'h:1'"),
        (["--backend", "a=http://h", "--backend", "a=http://g"], "--backend: expected each name once, got a 2 times"),
        (["--backend", "a=http://h", "--listen", "8080"], "--listen: expected HOST:PORT such as 127.0.0.1:8080"),
        (["--backend", "a=http://h", "--store", "redis://:pw@h"], "--store: expected no password in a flag"),
        (["--backend", "a=http://h", "--policy", "random"], "no such option '--policy'"),
        (["--backend", "a=http://h", "--key-prefx", "x"], "no such option '--key-prefx' (did you mean --key-prefix?)"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml: cannot be read: no such file or directory"),
        (["--backend", "a=http://h", "--", "python"], "expected no command after -- (see fastproxy vmcp --help)"),
        (["mcp.json"], "got unexpected extra argument (mcp.json)"),
    ],
)
def test_wrong_usage_of_vmcp_is_one_line_and_exit_code_2(words: list[str], line: str) -> None:
    (said,) = fail(2, "vmcp", *words)
    assert said.startswith(line)


def test_every_problem_of_a_file_and_of_flags_is_a_line_and_exit_code_2(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "group.yaml"
    file.write_text(GOOD.replace("anonymous", "oidc") + "optimizer: {}\nagregation: {}\n")
    said = fail(2, "vmcp", "--config", str(file), "--max-body", "lots")
    assert [line.removeprefix(f"{file}: ") for line in said] == [
        "agregation: unknown key (did you mean aggregation?)",
        "incomingAuth.type: not supported yet: oidc (anonymous is)",
        "optimizer: not supported yet",
        "--max-body: expected a size such as 512KiB, 8MiB or plain bytes, got 'lots'",
    ]


@pytest.mark.parametrize(
    ("name", "content", "sort"),
    [
        ("group.yaml", GOOD, "vmcp"),
        ("group", GOOD, "vmcp"),
        ("mcp.json", json.dumps({"mcpServers": {"a": {"command": "x"}}, "theme": "dark"}), "mcp.json"),
        ("proxy.yaml", "backend: [http://127.0.0.1:8001]\n", "serve"),
    ],
)
def test_validate_tells_files_apart_by_their_content(
    tmp_path: pathlib.Path, name: str, content: str, sort: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    done = run("validate", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: OK ({sort})\n", "")


def test_validate_names_every_problem_of_a_group_with_exit_code_1_and_its_doubts_with_0(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "group.yaml"
    file.write_text(GOOD.replace("name: github", "nam: github") + "passthroughHeaders: [Cookie]\n")
    done = run("validate", str(file))
    assert done.returncode == 1 and done.stdout == ""
    assert [line.removeprefix(f"{file}: ").partition(": ")[0] for line in done.stderr.splitlines()] == [
        "backends[0].nam",
        "backends[0].name",
        "passthroughHeaders[0]",
    ]
    file.write_text(GOOD + "operational: {timeouts: {perWorkload: {gihub: 5s}}}\n")
    done = run("validate", str(file))
    assert (done.returncode, done.stdout) == (0, f"{file}: OK (vmcp)\n")
    assert done.stderr == f"{file}: operational.timeouts.perWorkload.gihub: no backend has this name\n"


def test_a_group_with_its_sections_left_out_is_still_told_from_settings_of_serve(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "group.yaml"
    file.write_text("name: tools\nbackends: [{name: a, url: 'http://h:1/mcp'}]\n")
    done = run("validate", str(file))
    assert [line.removeprefix(f"{file}: ").partition(":")[0] for line in done.stderr.splitlines()] == [
        *("groupRef", "incomingAuth", "outgoingAuth", "aggregation")
    ]
    file.write_text("name: tools\nbackends: [http://h:1]\n")
    assert "backends: unknown name (did you mean backend?)" in run("validate", str(file)).stderr


def test_validate_checks_composite_tools_too(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "group.yaml"
    file.write_text(
        GOOD + "compositeTools: [{name: flow, description: d, steps: [{id: a, tool: t, dependsOn: [b]}]}]\n"
    )
    done = run("validate", str(file))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{file}: compositeTools[0].") and "b" in done.stderr


def test_a_secret_of_a_file_is_never_repeated(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "group.yaml"
    strategy = "{type: header_injection, headerName: Host, headerValue: hunter2, headerValueEnv: hunter2}"
    file.write_text(GOOD.replace("{source: inline}", f"{{source: inline, default: {strategy}}}"))
    done = run("validate", str(file))
    assert done.returncode == 1 and "outgoingAuth.default.headerName" in done.stderr and "hunter2" not in done.stderr


def test_help_of_vmcp_teaches_both_ways_and_holds_every_flag_its_default_and_its_variable() -> None:
    done = run("vmcp", "--help")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    for row in vmcp_flags.SETTINGS.values():
        assert not row.has_flag or row.flag in text
        assert not row.has_variable or row.variable in text
    for words in ("--backend NAME=URL", "mcpServers", "default: fastproxy:{name}:vsession:", "default: 30m", "10000"):
        assert words in text
    assert "[-- COMMAND" not in text and "--policy" not in text and "--workers" not in text


def test_the_example_in_the_tree_is_a_good_file_once_its_secret_is_there() -> None:
    file = str(tree.ROOT / "deploy" / "examples" / "group.yaml")
    done = run("validate", file, GITHUB_AUTHORIZATION="Bearer x")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: OK (vmcp)\n", "")
    done = run("validate", file)
    assert done.returncode == 1 and "GITHUB_AUTHORIZATION" in done.stderr


def test_the_file_that_help_shows_is_a_good_one(tmp_path: pathlib.Path) -> None:
    lines = run("vmcp", "--help").stdout.splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip() == "A file begins like this:") + 1
    shown = lines[first : next(number for number in range(first, len(lines)) if not lines[number].strip())]
    file = tmp_path / "group.yaml"
    file.write_text("\n".join(line[4:] for line in shown))
    assert run("validate", str(file)).stdout == f"{file}: OK (vmcp)\n"
