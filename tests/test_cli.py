"""The command line as a user meets it: exit codes and lines; every bad input of `serve` is one line and a 2.

Real: the process (`python -m fastproxy`) and its files. Not covered: the commands that ask a running proxy
(test_admin_commands.py), and what `serve` does once its configuration is good.
"""

import pathlib

import pytest

import fastproxy
from fastproxy.config import schema
from tests.kit.command import fail, run

URL = "http://127.0.0.1:8001"


# ── serve: what it refuses ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--backend", "127.0.0.1:8000"], "--backend: expected a URL that begins with http://"),
        (["--backend", "http://host:99999"], "--backend: expected a port of 1 to 65535, got '99999'"),
        (["--backend", URL, "--session-ttl", "5 parsecs"], "--session-ttl: expected a duration such as"),
        (["--backend", URL, "--drain-delay", "-1s"], "--drain-delay: expected a duration such as"),
        (["--backend", URL, "--connect-timeout", "0"], "--connect-timeout: expected a duration of 1ms to"),
        (["--backend", URL, "--max-body", "8MB"], "--max-body: expected a size such as"),
        (["--backend", URL, "--listen", "8080"], "--listen: expected HOST:PORT such as 127.0.0.1:8080"),
        (["--backend", URL, "--admin", "on"], "--admin: expected HOST:PORT such as"),
        (["--backend", URL, "--store", "mysql://h"], "--store: expected memory:, redis://"),
        (["--backend", URL, "--store", "redis://:pw@h"], "--store: expected no password in a flag"),
        (
            ["--backend", URL, "--policy", "hash"],
            "--policy: expected least-sessions, round-robin or random, got 'hash'",
        ),
        (["--backend", URL, "--workers", "0"], "--workers: expected a whole number of 1 to 256"),
        (["--backend", URL, "--trusted-proxy", "10.0.0.1/8"], "--trusted-proxy: expected a network, got '10.0.0.1/8'"),
        (["--backend", URL, "--tls-cert", "/nowhere"], "--tls-key: expected a file, since tls_cert is given"),
        (["--backend", URL, "--config", "/nowhere.yaml"], "/nowhere.yaml: cannot be read: no such file or directory"),
        (["--backend", URL, "--backend", URL], "--backend: expected each replica once"),
        ([], "--backend: expected at least one"),
        (["--backend", URL, "--sesion-ttl", "5s"], "no such option '--sesion-ttl' (did you mean --session-ttl?)"),
        (["--backend", URL, "-z"], "no such option '-z' (see fastproxy serve --help)"),
        (["--backend"], "option '--backend' requires an argument (see fastproxy serve --help)"),
        (["--backend", URL, "--access-log=yes"], "option '--access-log' does not take a value"),
        (["python", "server.py"], "got unexpected extra argument"),
        (["--"], "expected a command after -- (see fastproxy serve --help)"),
        (["--backend", URL, "--", "python"], "command: expected either backends or a command, got both"),
    ],
)
def test_wrong_usage_of_serve_is_one_line_and_exit_code_2(words: list[str], line: str) -> None:
    said = fail(2, "serve", *words)
    assert any(one.startswith(line) for one in said), said
    assert len(said) == (2 if "--tls-cert" in words else 1)


def test_every_problem_of_all_sources_is_a_line(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('bakend = ["http://a:1"]\nmax_body = "lots"\n')
    said = fail(2, "serve", "--config", str(file), "--workers", "x", FASTPROXY_DRAIN_TIMEOUT="soon")
    assert [line.split(" expected")[0].split(" unknown")[0] for line in said] == [
        f"{file}: bakend:",
        "--workers:",
        f"{file}: max_body:",
        "FASTPROXY_DRAIN_TIMEOUT:",
        "--backend:",
    ]


def test_the_name_of_a_file_cannot_break_a_line_in_two() -> None:
    assert fail(2, "validate", "/no\nwhere\x1b[31m") == ["/no?where?[31m: cannot be read: no such file or directory"]


@pytest.mark.parametrize("words", [["--store", "redis://me:hunter2@h:x"], ["--backend", "http://me:hunter2@h"]])
def test_a_refused_url_is_not_repeated_with_its_password(words: list[str]) -> None:
    assert "hunter2" not in "".join(fail(2, "serve", *words))


def test_a_password_in_the_environment_is_not_repeated() -> None:
    said = fail(2, "serve", FASTPROXY_STORE="redis://:hunter2@h/x", FASTPROXY_REDIS_PASSWORD="hunter2\n")
    assert len(said) == 3 and "hunter2" not in "".join(said)


# ── the rest of the command line ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "missing command (see fastproxy --help)"),
        (["serv"], "no such command: 'serv' (did you mean serve?)"),
        (
            ["frobnicate"],
            "no such command: 'frobnicate', expected backends, crds, drain, inject, operator, render, serve, sessions, "
            "stdio, validate, vmcp",
        ),
        (["--frobnicate"], "no such option '--frobnicate'"),
        (["sessions"], "missing command (see fastproxy sessions --help)"),
        (["sessions", "lst"], "no such command: 'lst' (did you mean list?)"),
        (["sessions", "show"], "missing argument 'ID' (see fastproxy sessions show --help)"),
        (["sessions", "list", "--limit", "0"], "--limit: expected a whole number of 1 to"),
        (["sessions", "list", "--output", "xml"], "--output: expected table or json, got 'xml'"),
        (["backends", "--admin", "off"], "--admin: expected the URL of an admin address, got off"),
        (["backends", "--admin", "ftp://h"], "--admin: expected a URL such as http://127.0.0.1:9901"),
        (["backends", "--admin", "http://h:x"], "--admin: expected a port"),
        (["validate"], "missing argument 'FILE' (see fastproxy validate --help)"),
    ],
)
def test_other_wrong_usage_is_one_line_and_exit_code_2(words: list[str], line: str) -> None:
    (said,) = fail(2, *words)
    assert said.startswith(line)


def test_the_version_is_told() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"fastproxy {fastproxy.__version__}\n")


def test_help_of_serve_holds_every_flag_its_default_and_its_variable() -> None:
    done = run("serve", "--help")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    for row in schema.SETTINGS.values():
        assert not row.has_flag or row.flag in text
        assert not row.has_variable or row.variable in text
    for default in ("127.0.0.1:8080", "memory:", "fastproxy:{name}:session:", "2h", "300s", "8MiB", "least-sessions"):
        assert f"default: {default}" in text
    for subject in (
        "Backends:",
        "Listening:",
        "Sessions:",
        "Timeouts and limits:",
        "Security:",
        "Logging:",
        "Lifecycle:",
    ):
        assert subject in text
    assert "Examples:" in text


def test_help_lists_every_command() -> None:
    text = run("--help").stdout
    words = "backends crds drain inject operator render serve sessions stdio validate vmcp"
    assert set(words.split()) <= set(text.split())


# ── validate ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_good_file_is_said_to_be_good(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(f"backend: [{URL}]\nsession_ttl: 5s\n")
    done = run("validate", str(file), FASTPROXY_WORKERS="not looked at")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: OK (serve)\n", "")


def test_every_problem_of_a_file_is_a_line_with_its_path(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(f"backend: [{URL}, nowhere]\nsesion_ttl: 5s\nworkers: many\nworkers: 1\n")
    done = run("validate", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert [line.removeprefix(f"{file}: ").partition(": ")[0] for line in done.stderr.splitlines()] == [
        "workers",
        "sesion_ttl",
        "backend[1]",
    ]


@pytest.mark.parametrize("content", [b"backend: [", b"\xff", b'{"mcpServers": {}}'])
def test_a_broken_file_is_a_problem_like_any_other(tmp_path: pathlib.Path, content: bytes) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_bytes(content)
    done = run("validate", str(file))
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_a_file_that_cannot_be_read_is_exit_code_2(tmp_path: pathlib.Path, name: str) -> None:
    (said,) = fail(2, "validate", str(tmp_path / name))
    assert "cannot be read" in said
