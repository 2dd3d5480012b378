"""Access lines and the process's log: lines of a real data plane (stage.py) with real clients, and the standard error
of the real program.
"""

import contextlib
import http.client
import json
import logging
import re
import time
from collections.abc import Callable, Iterator

import pytest

from fastproxy.proxy import access
from tests import kit
from tests.proxy import stage

NOWHERE = "http://127.0.0.1:9"
SESSION = "0123456789abcdef0123456789abcdef"
FINGERPRINT = "3eb1bd43"  # printf %s 0123456789abcdef0123456789abcdef | sha256sum
INITIALIZE = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}'
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"counter"}}'
RESULT = b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}'
OPENED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: %s\r\nContent-Length: %d\r\n\r\n%s"


class Lines(logging.Handler):
    """The access lines of a test, as objects."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[access.Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.msg, access.Line)
        self.lines.append(record.msg)

    def await_lines(self, count: int) -> list[access.Line]:
        eventually(lambda: len(self.lines) >= count)
        return self.lines


def eventually(holds: Callable[[], bool], seconds_max: float = 5.0) -> None:
    end = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < end, f"not within {seconds_max} s"
        time.sleep(0.01)


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("fastproxy.access")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def backend() -> Iterator[kit.ScriptedBackend]:
    opened = OPENED % (SESSION.encode(), len(RESULT), RESULT)
    with kit.ScriptedBackend(kit.answering(opened)) as running:
        yield running


@pytest.fixture
def proxy(backend: kit.ScriptedBackend) -> Iterator[stage.Stage]:
    with stage.Stage({"backend": [backend.origin], "access_log": True}) as running:
        yield running


def test_each_exchange_has_one_line_on_either_lane(
    proxy: stage.Stage, backend: kit.ScriptedBackend, lines: Lines
) -> None:
    proxy.send("POST", "/mcp", body=INITIALIZE)
    for _ in range(2):
        proxy.send("POST", "/mcp?a=1", body=CALL, Mcp_Session_Id=SESSION)
    opened, _, called = lines.await_lines(3)
    assert (opened.method, opened.target, opened.status, opened.lane) == ("POST", "/mcp", 200, "story")
    assert (called.target, called.status, called.lane, called.over) == ("/mcp?a=1", 200, "fast", "done")
    assert called.session == FINGERPRINT and called.backend == backend.origin and called.peer == "127.0.0.1"
    assert called.request_bytes == len(CALL) and 0 < called.seconds < 5
    time.sleep(0.05)
    assert len(lines.lines) == 3


def test_a_refusal_of_ours_has_its_status_and_no_backend(proxy: stage.Stage, lines: Lines) -> None:
    proxy.send("POST", "/mcp", body=CALL, Mcp_Session_Id="nobodys")
    (line,) = lines.await_lines(1)
    assert (line.status, line.backend, line.lane) == (404, "", "story")
    assert line.session == access.fingerprint("nobodys")


def test_no_line_holds_a_session_id_not_even_from_a_query(proxy: stage.Stage, lines: Lines) -> None:
    proxy.send("POST", f"/messages/?sessionId={SESSION}&x=1", body=CALL)
    proxy.send("POST", f"/messages/?x=1&session_id={SESSION}", body=CALL)
    proxy.send("POST", f"/messages/?session_id=%30{SESSION[1:]}", body=CALL)
    proxy.send("POST", "/mcp", body=CALL, Mcp_Session_Id=SESSION)
    for line in lines.await_lines(4):
        assert SESSION not in str(line) and SESSION[1:] not in str(line) and line.session == FINGERPRINT
    assert [line.target for line in lines.lines] == [
        f"/messages/?sessionId={FINGERPRINT}&x=1",
        f"/messages/?x=1&session_id={FINGERPRINT}",
        f"/messages/?session_id={FINGERPRINT}",
        "/mcp",
    ]


@pytest.mark.parametrize("session_id", ["", SESSION], ids=["story", "fast lane"])
def test_a_client_that_leaves_has_a_line_with_499(session_id: str, lines: Lines) -> None:
    async def hesitate(connection: kit.Connection) -> None:
        await connection.read_request()
        await connection.send(OPENED % (SESSION.encode(), len(RESULT), RESULT))
        if await connection.read_request() is not None:
            await connection.await_end()

    settings: dict[str, object] = {"access_log": True}
    with kit.ScriptedBackend(hesitate) as backend, stage.Stage({"backend": [backend.origin], **settings}) as proxy:
        proxy.send("POST", "/mcp", body=INITIALIZE)
        lines.await_lines(1)
        with contextlib.closing(kit.RawClient(f"http://127.0.0.1:{proxy.data_port}")) as client:
            method, field = (b"POST", b"Mcp-Session-Id: " + SESSION.encode()) if session_id else (b"GET", b"X: y")
            head = b"%s /mcp HTTP/1.1\r\nHost: %s\r\n%s\r\nContent-Length: %d\r\n\r\n"
            client.send(head % (method, client.authority.encode(), field, len(CALL)) + CALL)
            backend.await_requests(2)
            client.reset()
        if session_id:  # its backend's work goes on, and the exchange with it
            time.sleep(0.1)
            assert len(lines.lines) == 1
            backend.stop()
        line = lines.await_lines(2)[1]
    assert (line.status, line.over, line.method) == (499, "client_gone", "POST" if session_id else "GET")
    assert line.lane == ("fast" if session_id else "story")
    assert line.backend == backend.origin


def test_the_admin_address_writes_no_access_lines(proxy: stage.Stage, lines: Lines) -> None:
    proxy.ask("GET", "/readyz")
    proxy.send("GET", "/mcp")
    (line,) = lines.await_lines(1)
    assert line.target == "/mcp"


def test_nothing_is_written_when_nobody_asked_for_access_lines(backend: kit.ScriptedBackend, lines: Lines) -> None:
    with stage.Stage({"backend": [backend.origin]}) as proxy:
        proxy.send("POST", "/mcp", body=CALL)
        time.sleep(0.05)
    assert lines.lines == []


# ---- how lines look


@pytest.mark.parametrize(
    ("target", "written"),
    [
        pytest.param("/mcp", "/mcp", id="plain"),
        pytest.param("/a b\n\x1b[31m\x7f\u202e", r"/a b\n\u001b[31m\u007f\u202e", id="control characters"),
        pytest.param("/x?mysessionId=a&sessionIds=b", "/x?mysessionId=a&sessionIds=b", id="other names"),
        pytest.param("/x?sessionId=", f"/x?sessionId={access.fingerprint('')}", id="empty"),
        pytest.param("/" + "x" * 4000, "/" + "x" * 2047 + "…", id="long"),
    ],
)
def test_a_target_is_written_so_that_no_reader_is_misled(target: str, written: str) -> None:
    assert access.mask_target(target) == written


def test_a_value_with_blanks_or_quotes_stands_in_quotes() -> None:
    assert access.write_words({"a": "x y", "b": 'x"y', "c": "", "d": 0.5}) == r'a="x y" b="x\"y" c="" d=0.5'


Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """Standard error since the last call, while logging is set up for real; what was set up before comes back."""
    names = (None, "fastproxy", "fastproxy.access")
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in map(logging.getLogger, names)]
    yield lambda: capsys.readouterr().err
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate
    logging.captureWarnings(False)


LINE = access.Line(peer="127.0.0.1", method="GET", target="/", status=200, seconds=0.001, lane="story", over="done")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_text_lines_have_time_weight_and_speaker(written: Written) -> None:
    access.configure_logging("info", "text")
    logging.getLogger("fastproxy.session.redis").info("store=%s", "away\nstore=serving")
    logging.getLogger("fastproxy.access").info(LINE)
    first, second = written().splitlines()
    assert re.fullmatch(TIME + r" info fastproxy\.session\.redis store=away\\nstore=serving", first)
    assert re.fullmatch(
        TIME + r" info fastproxy\.access peer=127\.0\.0\.1 method=GET target=/ status=200 seconds=0\.001 "
        r"lane=story over=done",
        second,
    )


def test_json_lines_are_objects_and_hold_a_traceback_whole(written: Written) -> None:
    access.configure_logging("info", "json")
    try:
        raise ValueError("why \udcff")
    except ValueError:
        logging.getLogger("fastproxy.proxy").exception("it broke: %s", "\x1b\n")
    logging.getLogger("fastproxy.access").info(LINE)
    first, second = map(json.loads, written().splitlines())
    assert re.fullmatch(TIME, first["time"])
    assert (first["level"], first["logger"], first["message"]) == ("error", "fastproxy.proxy", "it broke: \x1b\n")
    assert "Traceback" in first["exception"] and "ValueError: why" in first["exception"]
    assert second.items() >= {"logger": "fastproxy.access", "status": 200, "target": "/", "seconds": 0.001}.items()
    assert "backend" not in second


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", "debug info warning error"),
        ("info", "info warning error"),
        ("warning", "warning error"),
        ("error", "error"),
    ],
)
def test_the_level_is_ours_alone_and_access_lines_come_at_any(level: str, heard: str, written: Written) -> None:
    access.configure_logging(level, "text")
    for weight in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("fastproxy.some.room"), weight)(weight)
    assert [line.split()[-1] for line in written().splitlines()] == heard.split()
    logging.getLogger("asyncio").info("chatter")
    logging.getLogger("fastproxy.access").info(LINE)
    (line,) = written().splitlines()
    assert "fastproxy.access" in line


def test_logging_may_be_set_up_again(written: Written) -> None:
    for _ in range(3):
        access.configure_logging("info", "text")
    logging.getLogger("fastproxy.access").info(LINE)
    logging.getLogger("fastproxy.room").warning("once")
    assert len(written().splitlines()) == 2


# ---- through the real program


def test_the_program_writes_json_lines_that_a_shipper_can_read(backend: kit.ScriptedBackend) -> None:
    flags = ["--access-log", "--log-format", "json", "--log-level", "error"]
    with kit.proxies(backends=[backend], flags=flags) as [proxy]:
        port = int(proxy.origin.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(3):
            connection.request("POST", "/mcp", body=INITIALIZE)
            connection.getresponse().read()
        eventually(lambda: proxy.stderr.count("\n") >= 3)
        connection.close()
        written = [json.loads(line) for line in proxy.stderr.splitlines()]
    assert len(written) == 3 and {line["logger"] for line in written} == {"fastproxy.access"}
    assert all(line["status"] == 200 and line["backend"] == backend.origin for line in written)
    assert SESSION not in json.dumps(written)
