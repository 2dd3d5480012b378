"""What every Python server of the kit offers: tools, a resource, a prompt. Written once for three SDKs.

`add(server, dialect)` registers them; `dialect` supplies what the SDKs name differently. State is kept per session,
by the object that the SDK keeps for that session, so a counter that goes on counting proves that the request reached
the process and the session that it belongs to.

Environment: `KIT_CALL_LOG`, a file to which `execute` appends `CALL_ID PID` in one write *before* it works: proof
that no call ran twice.
"""

import asyncio
import json
import os
import typing
import weakref

# One count per live session; it goes when the SDK drops the session. A stateless server makes an object per request, so
# it always counts to 1.
COUNTS: "weakref.WeakKeyDictionary[object, int]" = weakref.WeakKeyDictionary()


def log_call(call_id: str) -> None:
    path = os.environ.get("KIT_CALL_LOG")
    if path is None:
        raise RuntimeError("KIT_CALL_LOG is not set: execute() has nowhere to prove itself")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, f"{call_id} {os.getpid()}\n".encode())
    finally:
        os.close(descriptor)


def add(server: typing.Any, dialect: typing.Any) -> None:
    add_plain(server, dialect)
    add_session(server, dialect)
    add_conversation(server, dialect)
    add_streams(server, dialect)

    @server.resource("kit://greeting", name="greeting", mime_type="text/plain")
    def greeting() -> str:
        return "hello from the kit"

    @server.prompt(name="introduce")
    def introduce(subject: str) -> str:
        return f"Please introduce {subject}."


def add_plain(server: typing.Any, dialect: typing.Any) -> None:
    """Tools that need nothing but their arguments."""

    @dialect.tool(server)
    async def echo(value: typing.Any) -> str:
        """The argument, as JSON."""
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    @dialect.tool(server)
    async def execute(call_id: str, seconds: float = 0.0) -> str:
        """Log the call, then work for a while."""
        log_call(call_id)
        await asyncio.sleep(seconds)
        return f"{call_id} done"

    @dialect.tool(server)
    async def slow(seconds: float) -> str:
        """Answer after a while, silent until then."""
        await asyncio.sleep(seconds)
        return f"slept {seconds}"

    @dialect.tool(server)
    async def big(size_bytes: int) -> str:
        """A text of so many bytes, which differ by place, so that a lost or doubled piece shows."""
        pattern = "".join(f"{line:09d}\t" for line in range(size_bytes // 10 + 1))
        return pattern[:size_bytes]

    @dialect.tool(server)
    async def fail(message: str) -> str:
        """Raise."""
        raise ValueError(message)


def add_session(server: typing.Any, dialect: typing.Any) -> None:
    """Tools that show which process and which session answered."""
    Context = dialect.Context

    @dialect.tool(server)
    async def counter(ctx: Context) -> str:
        """Count this session's calls, from 1."""
        session = dialect.session_object(ctx)
        COUNTS[session] = COUNTS.get(session, 0) + 1
        return str(COUNTS[session])

    @dialect.tool(server)
    async def whoami(ctx: Context) -> str:
        """Process and port that answer, and the headers that came."""
        request = ctx.request_context.request
        return json.dumps({"pid": os.getpid(), "port": request.scope["server"][1], "headers": dict(request.headers)})


def add_conversation(server: typing.Any, dialect: typing.Any) -> None:
    """Tools in which the server asks the client something before it answers."""
    Context = dialect.Context

    @dialect.tool(server)
    async def sample(prompt: str, ctx: Context) -> str:
        """Ask the client's model."""
        return await dialect.sample(ctx, prompt)

    @dialect.tool(server)
    async def elicit(message: str, ctx: Context) -> str:
        """Ask the client's user for a name."""
        return await dialect.elicit(ctx, message)


def add_streams(server: typing.Any, dialect: typing.Any) -> None:
    """Tools that send messages beside their answer: on the call's own stream, or on the session's GET stream."""
    Context = dialect.Context

    @dialect.tool(server)
    async def progress(steps: int, ctx: Context, seconds: float = 0.0) -> str:
        """So many progress notifications, so many seconds apart."""
        for step in range(1, steps + 1):
            await ctx.report_progress(step, steps, f"step {step}")
            await asyncio.sleep(seconds)
        return f"{steps} steps"

    @dialect.tool(server)
    async def log(text: str, ctx: Context) -> str:
        """A log message on the call's own stream."""
        await dialect.log(ctx, text)
        return "logged"

    @dialect.tool(server)
    async def notify(kind: str, ctx: Context) -> str:
        """On the GET stream: `tools`, `resources`, `prompts` have changed, or the resource was `updated`."""
        await dialect.notify(ctx, kind)
        return f"notified {kind}"

    @dialect.tool(server)
    async def interrupted(steps: int, ctx: Context) -> str:
        """Close the call's stream half-way: the client must come back with Last-Event-ID (needs the event store)."""
        for step in range(1, steps + 1):
            await ctx.report_progress(step, steps, f"step {step}")
            if step == steps // 2:
                await dialect.close_stream(ctx)
                await asyncio.sleep(0.3)
        return f"{steps} steps, interrupted once"
