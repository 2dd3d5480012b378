"""Whose is what on a shared wire. Everything here is pure: messages in, messages out.

The server is the test: it answers under the ids that it was given.
"""

import json
import random

import hypothesis
from hypothesis import strategies

from fastproxy.stdio import ledger, message

ids = strategies.one_of(
    strategies.integers(), strategies.text(max_size=5), strategies.just(2**64), strategies.just("1")
)


class Owner:
    """A client."""


class Noted(ledger.Call):
    """A call that keeps what it hears."""

    def __init__(self, owner: object, asked: message.Message) -> None:
        super().__init__(owner, asked)
        self.told: list[dict[str, object]] = []

    def tell(self, text: bytes) -> None:
        self.told.append(json.loads(text))


def read(**members: object) -> message.Message:
    found = message.read(json.dumps({"jsonrpc": "2.0", **members}).encode())
    assert found is not None
    return found


def begin(book: ledger.Ledger, owner: object, number: object, **params: object) -> tuple[Noted, dict[str, object]]:
    asked = read(id=number, method="tools/call", params=params)
    call = Noted(owner, asked)
    return call, json.loads(book.begin(call, asked))


@hypothesis.given(strategies.lists(ids, min_size=1, max_size=20), strategies.randoms(use_true_random=False))
def test_answers_in_any_order_find_their_calls_and_the_clients_own_ids(
    given: list[object], dice: random.Random
) -> None:
    book = ledger.Ledger()
    under_way = [begin(book, Owner(), number, place=place) for place, number in enumerate(given)]
    assert len({sent["id"] for _, sent in under_way}) == len(given)
    dice.shuffle(under_way)
    for call, sent in under_way:
        found = book.settle(read(id=sent["id"], result=sent["params"]))
        assert found is not None
        assert found[0] is call
        answer = json.loads(found[1])
        assert answer["id"] == given[answer["result"]["place"]]
        assert book.settle(read(id=sent["id"], result={})) is None  # a second answer to the same
    assert len(book) == 0


@hypothesis.given(ids, ids)
def test_progress_finds_its_call_under_the_clients_own_token(token: object, number: object) -> None:
    book = ledger.Ledger()
    calls = [begin(book, Owner(), number, _meta={"progressToken": token, "other": 1}) for _ in range(3)]
    for call, sent in calls:
        params = sent["params"]
        assert isinstance(params, dict)
        assert params["_meta"] == {"progressToken": sent["id"], "other": 1}
        news = read(method="notifications/progress", params={"progressToken": sent["id"], "progress": 1})
        found = book.progress(news)
        assert found is not None
        assert found[0] is call
        assert json.loads(found[1])["params"] == {"progressToken": token, "progress": 1}
    unknown = read(method="notifications/progress", params={"progressToken": 999})
    assert book.progress(unknown) is None


def test_progress_that_was_not_asked_for_goes_nowhere() -> None:
    book = ledger.Ledger()
    _, sent = begin(book, Owner(), 1)
    news = read(method="notifications/progress", params={"progressToken": sent["id"], "progress": 1})
    assert book.progress(news) is None


def test_a_client_cancels_its_own_call_and_no_other_ones() -> None:
    book, one, other = ledger.Ledger(), Owner(), Owner()
    mine, sent = begin(book, one, "x")
    begin(book, other, "x")
    news = read(method="notifications/cancelled", params={"requestId": "x", "reason": "no"})
    found = book.cancel(one, news)
    assert found is not None
    assert found[0] is mine
    assert json.loads(found[1])["params"] == {"requestId": sent["id"], "reason": "no"}
    assert book.cancel(Owner(), news) is None


def test_a_servers_question_is_answered_by_whom_it_was_asked_and_once() -> None:
    book, one, other = ledger.Ledger(), Owner(), Owner()
    asked = json.loads(book.ask(one, read(id="q", method="elicitation/create", params={"message": "?"})))
    same = json.loads(book.ask(other, read(id="q", method="elicitation/create")))
    assert asked["id"] != same["id"]
    answer = read(id=asked["id"], result={"action": "accept"})
    assert book.answer(other, answer) is None
    answered = book.answer(one, answer)
    assert answered is not None
    assert json.loads(answered) == {"jsonrpc": "2.0", "id": "q", "result": {"action": "accept"}}
    assert book.answer(one, answer) is None


def test_a_question_that_the_server_takes_back_goes_to_whom_it_was_asked() -> None:
    book, one = ledger.Ledger(), Owner()
    asked = json.loads(book.ask(one, read(id=7, method="sampling/createMessage")))
    news = read(method="notifications/cancelled", params={"requestId": 7})
    found = book.take_back(news)
    assert found is not None
    assert found[0] is one
    assert json.loads(found[1])["params"] == {"requestId": asked["id"]}
    assert book.answer(one, read(id=asked["id"], result={})) is None
    assert book.take_back(news) is None


def test_who_leaves_takes_its_calls_and_its_questions_along() -> None:
    book, one, other = ledger.Ledger(), Owner(), Owner()
    mine, _ = begin(book, one, 1)
    begin(book, other, 1)
    book.ask(one, read(id="a", method="ping"))
    book.ask(other, read(id="b", method="ping"))
    assert book.questions_of(one) == [b'"a"']
    assert book.questions_of(one) == []
    assert book.drop_all(one) == [mine]
    assert len(book) == 1
    assert len(book.drop_all()) == 1
    assert book.questions_of(other) == []


# Messages.


def test_only_what_must_change_is_written_anew() -> None:
    body = b'{"id":1,"x":[1.0,1e400,"\\u00e9"],"method":"a","params":{"n":123456789012345678901234567890,"_meta":{}}}'
    found = message.read(body)
    assert found is not None
    assert found.text(id=b'"z"') == body.replace(b'"id":1', b'"id":"z"')


def test_what_is_no_message_is_none_and_odd_ids_are_no_ids() -> None:
    for body in (b"", b"[]", b"1", b'"a"', b'{"a":', b'{"method":1}', b"\xff", b'{"a":"\xff"}', b"[" * 10_000):
        assert message.read(body) is None
    for number in ("null", "true", "[]", "{}"):
        found = message.read(b'{"method":"a","id":%s}' % number.encode())
        assert found is not None
        assert not found.is_request


def test_an_answer_has_an_id_and_a_result_or_an_error() -> None:
    assert read(id=1, result={}).is_answer
    assert read(error={"code": 1}).is_answer
    assert not read(id=1).is_answer
    assert not read(id=1, method="a", result={}).is_answer
    assert message.error(b"", 1, "x") == b'{"jsonrpc":"2.0","error":{"code":1,"message":"x"}}'
