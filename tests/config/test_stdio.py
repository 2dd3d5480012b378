"""How a stdio server is written in a file: words, `command` with `args`, `env`, an entry of a client's mcp.json.

Real: files. Nothing is started here (tests/proxy/test_stdio_*.py).
"""

import json
import pathlib

import pytest

from fastproxy import errors
from fastproxy.config import load


def read(tmp_path: pathlib.Path, text: str, file_name: str = "proxy.yaml", **flags: object) -> load.Loaded:
    file = tmp_path / file_name
    file.write_text(text)
    return load.load({"config": str(file), **flags}, {})


def problems_of(tmp_path: pathlib.Path, text: str, file_name: str = "proxy.yaml", **flags: object) -> list[str]:
    with pytest.raises(errors.ConfigError) as refused:
        read(tmp_path, text, file_name, **flags)
    return [problem.removeprefix(str(tmp_path) + "/") for problem in refused.value.problems]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("command: npx\nargs: [-y, some-server, '']\n", id="a word and its arguments"),
        pytest.param("command: [npx]\nargs: [-y, some-server, '']\n", id="a list and its arguments"),
        pytest.param("command: [npx, -y, some-server, '']\n", id="one list"),
    ],
)
def test_a_command_is_written_as_clients_do_or_as_a_list(tmp_path: pathlib.Path, text: str) -> None:
    assert read(tmp_path, text).config.command == ("npx", "-y", "some-server", "")


def test_environment_and_folder_belong_to_it_and_values_are_not_shown(tmp_path: pathlib.Path) -> None:
    config = read(tmp_path, "command: a\nenv: {TOKEN: 'se=cret', EMPTY: ''}\ncwd: /srv\n").config
    assert config.env == (("TOKEN", "se=cret"), ("EMPTY", ""))
    assert config.cwd == "/srv"
    shown = config.effective()
    assert shown["env"] == {"TOKEN": "***", "EMPTY": "***"}
    assert "se=cret" not in repr(config)


ENTRY = {"command": "node", "args": ["server.js"], "env": {"A": "1"}, "type": "stdio", "autoApprove": ["all"]}


def test_an_entry_of_a_clients_file_is_taken_without_what_is_the_clients(tmp_path: pathlib.Path) -> None:
    config = read(tmp_path, json.dumps({"mcpServers": {"files": ENTRY}}), "mcp.json").config
    assert (config.command, config.env, config.name) == (("node", "server.js"), (("A", "1"),), "default")


def test_of_several_entries_the_name_says_which(tmp_path: pathlib.Path) -> None:
    text = json.dumps({"mcpServers": {"files": ENTRY, "other": {"command": "b"}}})
    assert read(tmp_path, text, "mcp.json", name="other").config.command == ("b",)
    assert problems_of(tmp_path, text, "mcp.json")[0].startswith(
        "mcp.json: mcpServers: expected one server, got 2 (say which by --name)"
    )
    assert problems_of(tmp_path, text, "mcp.json", name="third")[0].startswith(
        "mcp.json: mcpServers: expected an entry 'third'"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("command: a\nenv: [A]\n", "env: expected names with values", id="env is no mapping"),
        pytest.param("command: a\nenv: {A: 1}\n", "env: 'A': expected text", id="a number"),
        pytest.param("command: a\nenv: {'A=B': x}\n", "env: expected the name of a variable", id="a name with ="),
        pytest.param("command: [a, 1]\n", "command[1]: expected a word of a command, got 1", id="a number as a word"),
        pytest.param("args: [a]\nbackend: ['http://a:1']\n", "args: unknown name", id="arguments of nothing"),
        pytest.param("command: a\nstdio_mode: each\n", "stdio_mode: expected per-session", id="no such mode"),
        pytest.param(
            "command: a\nworkers: 2\nstdio_address: '10.0.0.1:81'\n",
            "stdio_address: expected port 0 with 2 workers",
            id="one port for two workers",
        ),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: pathlib.Path, text: str, problem: str) -> None:
    [found] = problems_of(tmp_path, text)
    assert found.startswith(f"proxy.yaml: {problem}")


def test_an_entry_at_a_url_is_for_a_backend(tmp_path: pathlib.Path) -> None:
    text = json.dumps({"mcpServers": {"remote": {"type": "http", "url": "http://a:1/mcp"}}})
    assert "expected a command (for one at a URL give --backend)" in problems_of(tmp_path, text, "mcp.json")[0]
