"""`fastproxy operator` where there is no cluster, or one that does not answer. Real: the program."""

import json
import pathlib
import re
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.kit import command

KUBECONFIG = (
    "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
    "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}]\n"
    "users: [{name: c, user: {token: t}}]\ncontexts: [{name: c, context: {cluster: c, user: c}}]\n"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(None, "not found", id="missing"),
        pytest.param("just text", "no cluster to talk to", id="text"),
        pytest.param("clusters: [", "no cluster to talk to", id="broken"),
        pytest.param("kind: Config", "no cluster to talk to", id="empty"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_ends_the_operator_with_one_line(
    tmp_path: pathlib.Path, text: str | None, words: str
) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    (line,) = command.fail(1, "operator", "--kubeconfig", str(path), "--admin", "off")
    assert words in line


def test_wrong_usage_is_told_in_one_line(tmp_path: pathlib.Path) -> None:
    (line,) = command.fail(2, "operator", "--admin", "nowhere")
    assert "--admin: expected HOST:PORT" in line
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    (line,) = command.fail(1, "operator", "--kubeconfig", str(path), "--admin", "off", "--webhook", "127.0.0.1:0")
    assert "--webhook needs --tls-cert and --tls-key" in line


def test_an_api_server_that_does_not_answer_is_waited_for_alive_and_not_ready(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    words = [sys.executable, "-m", "fastproxy", "operator", "--kubeconfig", str(path), "--admin", "127.0.0.1:0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        match = re.fullmatch(r"fastproxy: admin on (http://127\.0\.0\.1:\d+)\n", line)
        assert match, line
        assert ask(f"{match[1]}/healthz") == (200, "ok\n")
        status, text = ask(f"{match[1]}/readyz")
        assert (status, json.loads(text)) == (503, {"ready": False, "reasons": ["listing"]})
        assert "fastproxy_operator_resources 0" in ask(f"{match[1]}/metrics")[1]
        assert ask(f"{match[1]}/other")[0] == 404
    finally:
        process.terminate()
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 0, complaints
    assert "Traceback" not in complaints


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
