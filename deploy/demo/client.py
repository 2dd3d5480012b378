"""What a client sees of two replicas behind one address: two sessions, three calls each, on the official SDK.

The sessions count apart and each stays with its replica; `mode="legacy"` asks for the revisions that have sessions.
"""

import argparse
import asyncio
import socket
import sys
import urllib.parse

import mcp

CALLS = 3
CONNECT_SECONDS_MAX = 2


async def call_counters(url: str) -> None:
    """Two sessions side by side, their calls in turn."""
    async with mcp.Client(url, mode="legacy") as one, mcp.Client(url, mode="legacy") as two:
        for _ in range(CALLS):
            for name, client in (("one", one), ("two", two)):
                result = await client.call_tool("counter", {})
                print(f"session {name}: {result.content[0].text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080/mcp")
    url = parser.parse_args().url
    where = urllib.parse.urlsplit(url)
    try:
        socket.create_connection((where.hostname, where.port), CONNECT_SECONDS_MAX).close()
    except OSError as error:
        sys.exit(f"make try: nothing answers at {url} ({error}); start it with: make run")
    asyncio.run(call_counters(url))


if __name__ == "__main__":
    main()
