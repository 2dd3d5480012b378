"""A small stdio server that does what a test tells it: standard library only, up within 50 ms.

`tools/call` names a verb of `VERBS`; the arguments say the rest. Calls run at once (a thread each), so that they may
overtake each other. `STDIO_SCRIPT` in the environment: words, of which `deaf` reads nothing after the handshake,
`stubborn` minds neither the end of its input nor SIGTERM, `child` leaves a child that outlives it, in a session of its
own, and `dies` ends at once.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import typing

MANNERS = os.environ.get("STDIO_SCRIPT", "").split()
OUT = threading.Lock()
COUNT = [0]
ASKED: dict[object, typing.Any] = {}
ANSWERED = threading.Condition()

Message = dict[str, typing.Any]


def say(message: Message) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")))


def write(line: str) -> None:
    with OUT:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def tell(method: str, **params: typing.Any) -> None:
    say({"method": method, "params": params})


def ask(method: str, number: object = None, **params: typing.Any) -> typing.Any:
    """Ask the client, and wait for what it says."""
    with OUT:
        COUNT[0] += 1
        number = COUNT[0] if number is None else number
    say({"id": number, "method": method, "params": params})
    with ANSWERED:
        while number not in ASKED:
            ANSWERED.wait()
        return ASKED.pop(number)


def echo(value: typing.Any = None, **_: typing.Any) -> str:
    return json.dumps(value)


def environment(**_: typing.Any) -> str:
    return json.dumps(dict(os.environ))


def whoami(**_: typing.Any) -> str:
    return str(os.getpid())


def count(**_: typing.Any) -> str:
    COUNT[0] += 1
    return str(COUNT[0])


def sleep(seconds: float, value: typing.Any = None, **_: typing.Any) -> str:
    time.sleep(seconds)
    return json.dumps(value)


def die(status: int = 1, **_: typing.Any) -> str:
    os._exit(status)


def progress(steps: int, token: typing.Any = None, **_: typing.Any) -> str:
    for step in range(steps):
        tell("notifications/progress", progressToken=token, progress=step + 1, total=steps)
        time.sleep(0.01)
    return f"{steps} steps"


def big(size_bytes: int, **_: typing.Any) -> str:
    return "x" * size_bytes


def flood(lines: int, size_bytes: int = 100, **_: typing.Any) -> str:
    for line in range(lines):
        tell("notifications/message", level="info", data=f"{line:06d}" + "x" * size_bytes)
    return f"{lines} lines"


def garbage(text: str, **_: typing.Any) -> str:
    write(text)
    return "said"


def complain(lines: int, **_: typing.Any) -> str:
    for line in range(lines):
        sys.stderr.write(f"complaint {line}\n")
    sys.stderr.flush()
    return "complained"


def elicit(message: str, number: object = None, **_: typing.Any) -> str:
    return json.dumps(ask("elicitation/create", number, message=message, requestedSchema={"type": "object"}))


def update(uri: str, **_: typing.Any) -> str:
    tell("notifications/resources/updated", uri=uri)
    return "updated"


def changed(kind: str = "tools", **_: typing.Any) -> str:
    say({"method": f"notifications/{kind}/list_changed"})
    return "changed"


def repeat(times: int, uri: str, **_: typing.Any) -> str:
    for _number in range(times):
        say({"method": "notifications/tools/list_changed", "params": {"_meta": {"filler": uri}}})
    return "repeated"


def later(seconds: float, kind: str = "tools", **_: typing.Any) -> str:
    threading.Timer(seconds, changed, (kind,)).start()
    return "soon"


def seen(**_: typing.Any) -> str:
    return json.dumps(SEEN)


TALKING = (echo, environment, whoami, count, sleep, progress, big, elicit, seen)
TELLING = (flood, garbage, complain, update, changed, repeat, later, die)
VERBS: dict[str, typing.Any] = {verb.__name__: verb for verb in (*TALKING, *TELLING)}
SEEN: list[str] = []


def call(message: Message) -> None:
    params = message.get("params", {})
    arguments = {"token": params.get("_meta", {}).get("progressToken"), **params.get("arguments", {})}
    text = VERBS[params["name"]](**arguments)
    say({"id": message["id"], "result": {"content": [{"type": "text", "text": text}]}})


def answer(message: Message) -> None:
    number, method = message["id"], message["method"]
    SEEN.append(method)
    if method == "initialize":
        capabilities = {name: {} for name in ("tools", "resources", "logging", "prompts")}
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": capabilities,
            "serverInfo": {"name": "script", "version": "1"},
        }
        say({"id": number, "result": result})
    elif method == "tools/call":
        threading.Thread(target=call, args=(message,), daemon=True).start()
    elif method in ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"):
        say({"id": number, "result": {}})
    elif method == "tools/list":
        tools = [{"name": verb, "inputSchema": {"type": "object"}} for verb in VERBS]
        say({"id": number, "result": {"tools": tools}})
    else:
        say({"id": number, "error": {"code": -32601, "message": f"unknown: {method}"}})


def main() -> None:
    if "dies" in MANNERS:
        sys.exit("no licence for today")
    if "stubborn" in MANNERS:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "child" in MANNERS:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "method" in message and "id" in message:
            answer(message)
        elif "method" in message:
            SEEN.append(message["method"])
            if message["method"] == "notifications/initialized" and "deaf" in MANNERS:
                time.sleep(1000)
        else:
            with ANSWERED:
                ASKED[message["id"]] = message.get("result", message.get("error"))
                ANSWERED.notify_all()
    while "stubborn" in MANNERS:
        time.sleep(1000)


if __name__ == "__main__":
    main()
