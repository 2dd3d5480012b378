"""What `make run` shows, as a user sees it: one page, a curl that works as printed, sessions that stay, a clean end.

Real: deploy/demo/run.py with two servers on the official SDK, `fastproxy serve`, the curl program, the SDK's client.
Not covered: make itself, and the default port. Skipped by name where the `demo` extra or curl is not installed.
"""

import collections
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests import tree

DEMO = tree.ROOT / "deploy" / "demo"
LAST_LINE = "Ctrl-C ends all of it."
END_SECONDS_MAX = 15

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mcp") is None, reason="the demo extra is not installed")


class Demonstration:
    """A running run.py: the page it has printed, and the process to end."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.process = subprocess.Popen(
            [sys.executable, DEMO / "run.py", "--listen", self.address, "--admin", "127.0.0.1:0"],
            cwd=tree.ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.page = self.read_page()

    def read_page(self) -> str:
        assert self.process.stdout is not None
        page = ""
        for line in self.process.stdout:
            page += line
            if LAST_LINE in line:
                break
        return page

    def children(self) -> list[int]:
        listing = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listing.split()]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS_MAX)


@pytest.fixture
def demonstration() -> Iterator[Demonstration]:
    running = Demonstration()
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end(signal.SIGINT)
        assert running.process.stdout is not None
        running.process.stdout.close()


def are_gone(pids: list[int]) -> bool:
    """Whether none of them runs within a moment (the kernel takes one to end orphans)."""
    deadline = time.monotonic() + END_SECONDS_MAX
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_the_page_tells_the_address_and_how_to_point_a_client_at_it(demonstration: Demonstration) -> None:
    assert f'"url": "http://{demonstration.address}/mcp"' in demonstration.page
    assert '"mcpServers"' in demonstration.page


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_opens_a_session_as_it_is_printed(demonstration: Demonstration) -> None:
    (command,) = (line for line in demonstration.page.splitlines() if line.lstrip().startswith("curl "))
    result = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.startswith("HTTP/1.1 200 ")
    assert re.search(r"(?im)^mcp-session-id: \S+", result.stdout)
    assert '"serverInfo"' in result.stdout


def test_each_session_stays_with_its_replica_and_two_sessions_use_both(demonstration: Demonstration) -> None:
    command = [sys.executable, DEMO / "client.py", f"http://{demonstration.address}/mcp"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    calls = collections.defaultdict(list)
    for session, count, replica in re.findall(r"session (\w+): call (\d) .* replica (\w)", result.stdout):
        calls[session].append((count, replica))
    assert {session: [count for count, _ in made] for session, made in calls.items()} == {
        "one": ["1", "2", "3"],
        "two": ["1", "2", "3"],
    }
    replicas = ["".join(sorted({replica for _, replica in made})) for made in calls.values()]
    assert sorted(replicas) == ["A", "B"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_all_of_it(demonstration: Demonstration, number: signal.Signals) -> None:
    children = demonstration.children()
    assert len(children) == 3
    assert demonstration.end(number) == 0
    assert are_gone(children)


def test_no_child_outlives_a_runner_that_is_killed(demonstration: Demonstration) -> None:
    children = demonstration.children()
    demonstration.end(signal.SIGKILL)
    assert are_gone(children)


def test_a_replica_that_dies_ends_the_demonstration_with_a_word(demonstration: Demonstration) -> None:
    children = demonstration.children()
    os.kill(children[0], signal.SIGKILL)
    assert demonstration.process.wait(END_SECONDS_MAX) == 1
    assert are_gone(children)
