"""Messages of `subscriptions/listen`: what an event is, and one acknowledgement for many. Pure; nothing is fake."""

import json

import pytest

from fastproxy.mcp import subscription

Kind = subscription.Kind


def event(text: bytes) -> bytes:
    return b"event: message\ndata: " + text + b"\n\n"


def acknowledged(notifications: object, identity: str = "1", **more: object) -> bytes:
    """With the id as raw JSON text, since it must pass as it is."""
    members = {"notifications": notifications, **more}
    meta = b'{"io.modelcontextprotocol/subscriptionId":' + identity.encode() + b"}"
    params = json.dumps(members).encode()[:-1] + b',"_meta":' + meta + b"}"
    return event(b'{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":' + params + b"}")


def honoured(acknowledgement: bytes) -> dict[str, object]:
    line = next(line for line in acknowledgement.splitlines() if line.startswith(b"data: "))
    found: dict[str, object] = json.loads(line[6:])["params"]["notifications"]
    return found


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b": ping\n\n", Kind.NOTHING),
        (b"event: message\n\n", Kind.NOTHING),
        (b"id: 1\ndata:\n\n", Kind.NOTHING),
        (acknowledged({}), Kind.ACKNOWLEDGED),
        (event(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'), Kind.NEWS),
        (event(b'{"jsonrpc":"2.0","method":"notifications/x","result":{}}'), Kind.NEWS),
        (event(b'{"jsonrpc":"2.0","id":1,"result":{}}'), Kind.ANSWER),
        (event(b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}'), Kind.ANSWER),
        (b'event: message\r\ndata: {"id":1,\r\ndata: "result":{}}\r\n\r\n', Kind.ANSWER),
        (event(b"not JSON"), Kind.NEWS),
        (event(b"[]"), Kind.NEWS),
    ],
)
def test_an_event_is_told_by_its_message(text: bytes, kind: Kind) -> None:
    assert subscription.kind_of(text) is kind


def test_what_all_replicas_say_alike_passes_as_the_first_has_said_it() -> None:
    first = acknowledged({"toolsListChanged": True}, '"a"', extra=12345678901234567890123)
    second = acknowledged({"toolsListChanged": True}, '"a"')
    assert subscription.acknowledge([first, second]) == first
    assert subscription.acknowledge([first]) == first


def test_only_what_all_replicas_honour_is_acknowledged() -> None:
    first = acknowledged(
        {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": ["a", "b", "c"]}
    )
    second = acknowledged({"toolsListChanged": True, "resourceSubscriptions": ["c", "a", "d"], "own": 1})
    third = acknowledged({"resourceSubscriptions": ["a", "c"], "toolsListChanged": True, "promptsListChanged": True})
    merged = subscription.acknowledge([first, second, third])
    assert honoured(merged) == {"toolsListChanged": True, "resourceSubscriptions": ["a", "c"]}


def test_a_list_with_nothing_in_common_is_left_out() -> None:
    merged = subscription.acknowledge(
        [acknowledged({"resourceSubscriptions": ["a"]}), acknowledged({"resourceSubscriptions": ["b"]})]
    )
    assert honoured(merged) == {}


def test_a_task_is_honoured_by_whoever_has_it() -> None:
    merged = subscription.acknowledge(
        [acknowledged({"taskIds": ["t-1"]}), acknowledged({"taskIds": ["t-2", "t-1"]}), acknowledged({})]
    )
    assert honoured(merged) == {"taskIds": ["t-1", "t-2"]}
    merged = subscription.acknowledge([acknowledged({}), acknowledged({"taskIds": ["t-2"]})])
    assert honoured(merged) == {"taskIds": ["t-2"]}


@pytest.mark.parametrize("identity", ["7", '"seven"', "123456789012345678901234567890", '"\\u00e9"'])
def test_an_acknowledgement_that_is_written_anew_keeps_the_id_as_it_was(identity: str) -> None:
    first = acknowledged({"toolsListChanged": True}, identity, own=[1.0, 10**25])
    merged = subscription.acknowledge([first, acknowledged({}, identity)])
    assert subscription.kind_of(merged) is Kind.ACKNOWLEDGED
    assert honoured(merged) == {}
    assert b'"io.modelcontextprotocol/subscriptionId":' + identity.encode() in merged
    assert b"10000000000000000000000000" in merged


@pytest.mark.parametrize("broken", [event(b"{}"), event(b"not JSON"), event(b'{"params":[]}'), b": nothing\n\n"])
def test_an_acknowledgement_that_cannot_be_read_promises_nothing(broken: bytes) -> None:
    assert honoured(subscription.acknowledge([acknowledged({"toolsListChanged": True}), broken])) == {}
    assert subscription.acknowledge([broken, acknowledged({})]) == broken
