"""sessions, backends and drain against an admin address: what they print, how they page, what they say when it fails.

Real: the process (`python -m fastproxy`) and the HTTP it speaks. The admin address is a small server here that answers
as interface §5 says, so that pages, faults and hostile records can be had at will; the proxy's own is met in tests/e2e.
"""

import contextlib
import http.server
import json
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator

import pytest

from tests.kit.command import COMMAND_SECONDS_MAX, PROGRAM, clean_environment, fail, run


def make_record(number: int) -> dict[str, object]:
    return {
        "v": 1,
        "session_id": f"session/{number}",
        "backend_pod": None if number % 2 else f"mcp-{number}",
        "backend_url": "http://10.0.0.7:8000",
        "transport": "streamable-http",
        "path": "/mcp",
        "protocol_version": "2025-06-18",
        "initialize": {"clientInfo": {"name": "\x9b31mred\u202e"}},
        "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:01Z",
        "generation": number,
    }


class AdminAddress:
    """A server with interface §5's answers. `page_max` bounds its pages, as a real store does."""

    def __init__(self) -> None:
        self.records = {str(record["session_id"]): record for record in map(make_record, range(5))}
        self.page_max = 2
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.ready: list[int] = []  # statuses of /readyz, one per request; then the address is gone
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, method: str, target: str) -> tuple[int, bytes]:
        self.asked.append(f"{method} {target}")
        path, _, query = target.partition("?")
        if path in self.answers:
            return self.answers[path]
        session_id = urllib.parse.unquote(path.removeprefix("/sessions/"))
        if path == "/sessions":
            options = dict(urllib.parse.parse_qsl(query))
            start = int(options.get("cursor", "0"))
            end = start + min(int(options["limit"]), self.page_max)
            page = list(self.records.values())[start:end]
            following = str(end) if end < len(self.records) else None
            return 200, json.dumps({"sessions": page, "next_cursor": following}).encode()
        if path.startswith("/sessions/") and session_id in self.records:
            return (200, json.dumps(self.records[session_id]).encode()) if method == "GET" else (204, b"")
        if path == "/backends":
            rows = [{"url": "http://10.0.0.7:8000", "pod": "mcp-0", "state": "live", "sessions": 12, "in_flight": 3}]
            rows += [{"url": "http://h:1", "pod": None, "state": "failed", "sessions": 0, "in_flight": 0}]
            rows[1]["last_error"] = "connection\x1b[31m refused"
            return 200, json.dumps({"backends": rows}).encode()
        if path == "/drain" and method == "POST":
            return 202, b""
        if path == "/readyz" and self.ready:
            return self.ready.pop(0), b"{}"
        return 404, b"{}"

    def _make_handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        admin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self) -> None:
                status, body = admin.answer(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                if self.path == "/readyz" and not admin.ready:
                    admin.server.socket.close()  # the process ends: nobody listens any more

            do_GET = do_POST = do_DELETE = _answer

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def admin() -> Iterator[AdminAddress]:
    address = AdminAddress()
    with contextlib.closing(address):
        yield address


def ask(admin: AdminAddress, *words: str) -> subprocess.CompletedProcess[str]:
    return run(*words, FASTPROXY_ADMIN=f"http://127.0.0.1:{admin.port}")


def test_all_sessions_are_listed_over_all_pages_in_aligned_columns(admin: AdminAddress) -> None:
    done = ask(admin, "sessions", "list")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["SESSION", "BACKEND", "TRANSPORT", "PROTOCOL", "GENERATION", "CREATED", "UPDATED"]
    assert [row[:2] for row in rows[1:]] == [
        ["session/0", "mcp-0"],
        ["session/1", "http://10.0.0.7:8000"],
        ["session/2", "mcp-2"],
        ["session/3", "http://10.0.0.7:8000"],
        ["session/4", "mcp-4"],
    ]
    assert len({line.index("streamable-http") for line in done.stdout.splitlines()[1:]}) == 1
    assert len(admin.asked) == 3


def test_sessions_are_listed_as_json_for_programs(admin: AdminAddress) -> None:
    done = ask(admin, "sessions", "list", "--output", "json")
    assert json.loads(done.stdout) == {"sessions": list(admin.records.values()), "next_cursor": None}
    assert "\x9b" not in done.stdout and "\u202e" not in done.stdout, "a terminal would obey these"


def test_a_list_with_a_limit_says_where_to_go_on(admin: AdminAddress) -> None:
    done = ask(admin, "sessions", "list", "--limit", "3")
    assert len(done.stdout.splitlines()) == 1 + 3
    assert done.stderr == "fastproxy: there are more: --cursor 3\n"
    done = ask(admin, "sessions", "list", "--cursor", "3", "-o", "json")
    assert [record["session_id"] for record in json.loads(done.stdout)["sessions"]] == ["session/3", "session/4"]


def test_an_empty_list_is_its_heads(admin: AdminAddress) -> None:
    admin.records = {}
    assert ask(admin, "sessions", "list").stdout.split()[0] == "SESSION"


def test_a_list_that_never_ends_is_noticed(admin: AdminAddress) -> None:
    admin.answers["/sessions"] = 200, b'{"sessions": [], "next_cursor": "7"}'
    (said,) = fail(1, "sessions", "list", "-o", "json", FASTPROXY_ADMIN=f"127.0.0.1:{admin.port}")
    assert "same page again and again" in said


def test_one_session_is_shown(admin: AdminAddress) -> None:
    done = ask(admin, "sessions", "show", "session/2")
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert shown["session_id"] == "session/2" and shown["generation"] == "2" and shown["path"] == "/mcp"
    assert "\x9b" not in done.stdout
    assert json.loads(ask(admin, "sessions", "show", "session/2", "--output=json").stdout) == admin.records["session/2"]
    assert admin.asked[0] == "GET /sessions/session%2F2"


def test_a_session_is_ended(admin: AdminAddress) -> None:
    done = ask(admin, "sessions", "end", "session/2")
    assert (done.returncode, done.stdout) == (0, "ended\n")
    assert admin.asked == ["DELETE /sessions/session%2F2"]


@pytest.mark.parametrize("verb", ["show", "end"])
def test_an_unknown_session_is_one_line_and_exit_code_1(admin: AdminAddress, verb: str) -> None:
    assert fail(1, "sessions", verb, "none", FASTPROXY_ADMIN=f"127.0.0.1:{admin.port}") == ["unknown session 'none'"]


def test_backends_are_listed(admin: AdminAddress) -> None:
    lines = ask(admin, "backends").stdout.splitlines()
    assert lines[0].split() == ["URL", "POD", "STATE", "SESSIONS", "IN-FLIGHT", "LAST", "ERROR"]
    assert lines[1].split() == ["http://10.0.0.7:8000", "mcp-0", "live", "12", "3", "-"]
    assert lines[2].endswith("connection?[31m refused")
    assert len(json.loads(ask(admin, "backends", "--output", "json").stdout)["backends"]) == 2


def test_a_drain_is_begun(admin: AdminAddress) -> None:
    done = ask(admin, "drain")
    assert (done.returncode, done.stdout, admin.asked) == (0, "draining\n", ["POST /drain"])


def test_a_drain_is_waited_for_until_nobody_listens(admin: AdminAddress) -> None:
    admin.ready = [503, 503, 503]
    done = ask(admin, "drain", "--wait")
    assert (done.returncode, done.stdout) == (0, "drained\n")
    assert admin.asked == ["POST /drain", *["GET /readyz"] * 3]


def test_a_drain_is_over_when_a_successor_answers(admin: AdminAddress) -> None:
    admin.ready = [503, 200, 200]
    assert ask(admin, "drain", "--wait").stdout == "drained\n"
    assert admin.ready == [200]


def test_serves_own_form_of_the_admin_address_is_understood(admin: AdminAddress) -> None:
    for form in (f"127.0.0.1:{admin.port}", f"0.0.0.0:{admin.port}", f"http://localhost:{admin.port}/"):
        assert run("backends", FASTPROXY_ADMIN=form).returncode == 0
        assert run("backends", "--admin", form, FASTPROXY_ADMIN="off").returncode == 0


@pytest.mark.parametrize("words", [["sessions", "list"], ["sessions", "end", "x"], ["backends"], ["drain", "--wait"]])
def test_a_proxy_that_is_not_there_is_one_line_with_what_to_do(words: list[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can take the port
        (said,) = fail(1, *words, "--admin", f"http://127.0.0.1:{held.getsockname()[1]}")
    assert "cannot be reached: connection refused" in said and "--admin URL" in said


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, b"<html>"), "something else than JSON"),
        ((200, b"[]"), "something else than JSON"),
        ((200, b"{}"), "something else"),
        ((503, b'{"error": "away\n\x1b[31m"}'), "answers 503: "),
        ((500, b""), "answers 500"),
    ],
)
def test_a_strange_answer_is_one_line(admin: AdminAddress, answer: tuple[int, bytes], expected: str) -> None:
    admin.answers["/backends"] = answer
    (said,) = fail(1, "backends", FASTPROXY_ADMIN=f"127.0.0.1:{admin.port}")
    assert expected in said and said.isprintable()


def test_a_server_that_is_no_http_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-hello\r\n")
            connection.close()

        thread = threading.Thread(target=talk)
        thread.start()
        (said,) = fail(1, "backends", "--admin", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert "cannot be reached" in said


def test_a_reader_that_goes_away_is_no_traceback(admin: AdminAddress) -> None:
    admin.records = {str(n): make_record(n) for n in range(3000)}
    admin.page_max = 500
    words = [*PROGRAM, "sessions", "list", "--admin", f"127.0.0.1:{admin.port}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_an_interrupt_is_exit_code_130() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = [*PROGRAM, "backends", "--admin", f"127.0.0.1:{silent.getsockname()[1]}"]
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
        ) as process:
            connection, _ = silent.accept()  # it waits for an answer now
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=COMMAND_SECONDS_MAX)
            connection.close()
    assert process.returncode == 130 and b"Traceback" not in said
