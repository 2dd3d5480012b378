"""Whose is what on a wire that clients share: ids and tokens of theirs are replaced by numbers that nobody else has.

    client's request     id and progress token -> a number       server's answer, progress -> the client's own again
    server's request     id -> a number of ours                  client's answer           -> the server's own again
    client's cancellation of its request, server's of its own: the same way

A client can name only its own requests, and answer only what it was asked: nobody sees, ends or answers what is
another's, however alike their ids are. Sans-io, and bounded by what is under way.
"""

from collections.abc import Iterator

import msgspec

from fastproxy.stdio import message

Message = message.Message


class Call:
    """A request under way. Whoever made it hears what belongs to it: `tell` before the answer, `settle` once.

    `lost` stands for an answer that will not come; `ran`: may the request have been begun?"""

    owner: object
    id: bytes
    method: str = ""
    token: bytes | None = None
    number: int = 0
    wants_log: bool = False

    def __init__(self, owner: object, asked: Message) -> None:
        self.owner = owner
        self.id = asked.id
        self.method = asked.method

    def tell(self, text: bytes) -> None:
        """A message that belongs to the call."""

    def settle(self, answer: Message, text: bytes) -> None:
        """The answer, as it came and as the client shall see it."""

    def lost(self, detail: str, *, ran: bool) -> None:
        """There will be none."""


class _Question(msgspec.Struct, gc=False):
    """A request of the server's to a client."""

    owner: object
    id: bytes


class Ledger:
    """The calls and the questions of one wire."""

    def __init__(self) -> None:
        self._last = 0
        self._calls: dict[int, Call] = {}
        self._questions: dict[int, _Question] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def calls(self) -> Iterator[Call]:
        """All that is under way."""
        return iter(list(self._calls.values()))

    def number(self) -> int:
        """One that nobody has."""
        self._last += 1
        return self._last

    # ---- calls

    def begin(self, call: Call, asked: Message) -> bytes:
        """Note a call; its text for the wire."""
        call.number = self.number()
        self._calls[call.number] = call
        number = b"%d" % call.number
        params = asked.members.get("params")
        if params is not None and b"progressToken" in bytes(params):
            meta = asked.meta()
            if "progressToken" in meta:
                call.token = bytes(meta["progressToken"])
                return asked.text(id=number, params=message.with_meta(asked, {"progressToken": number}))
        return asked.text(id=number)

    def settle(self, answer: Message) -> tuple[Call, bytes] | None:
        """The call that this answers, and the answer for its owner; None: nobody asked."""
        call = self._calls.pop(_as_number(answer.id), None)
        return None if call is None else (call, answer.text(id=call.id))

    def progress(self, news: Message) -> tuple[Call, bytes] | None:
        """The call that this tells of, and how it is told to its owner."""
        params = news.params()
        call = self._calls.get(_as_number(bytes(params.get("progressToken", b""))))
        if call is None or call.token is None:
            return None
        return call, news.text(params=message.text_of(params, {"progressToken": call.token}))

    def find(self, number: bytes) -> Call | None:
        """The call that goes by this number on the wire."""
        return self._calls.get(_as_number(number))

    def cancel(self, owner: object, news: Message) -> tuple[Call, bytes] | None:
        """A client's cancellation, for the wire; None: it has no such call (any more)."""
        params = news.params()
        wanted = bytes(params.get("requestId", b""))
        for call in self._calls.values():
            if call.owner is owner and call.id == wanted:
                return call, news.text(params=message.text_of(params, {"requestId": b"%d" % call.number}))
        return None

    def drop(self, call: Call) -> bool:
        """Nobody waits for it any more. False: it is over already."""
        return self._calls.pop(call.number, None) is not None

    def drop_all(self, owner: object = None) -> list[Call]:
        """The calls under way, of one owner or of all; they are forgotten, and their questions, too."""
        gone = [call for call in self._calls.values() if owner is None or call.owner is owner]
        for call in gone:
            del self._calls[call.number]
        self._questions = {
            number: asked for number, asked in self._questions.items() if owner is not None and asked.owner is not owner
        }
        return gone

    # ---- questions

    def ask(self, owner: object, asked: Message) -> bytes:
        """Note a server's request to a client; its text for the client."""
        number = self.number()
        self._questions[number] = _Question(owner, asked.id)
        return asked.text(id=b"%d" % number)

    def answer(self, owner: object, answer: Message) -> bytes | None:
        """A client's answer, for the wire; None: it was not asked that."""
        number = _as_number(answer.id)
        question = self._questions.get(number)
        if question is None or question.owner is not owner:
            return None
        del self._questions[number]
        return answer.text(id=question.id)

    def questions_of(self, owner: object) -> list[bytes]:
        """The ids, as the server has them, of what a client has not answered; it is taken off the list."""
        open_ones = {number: asked for number, asked in self._questions.items() if asked.owner is owner}
        for number in open_ones:
            del self._questions[number]
        return [asked.id for asked in open_ones.values()]

    def take_back(self, news: Message) -> tuple[object, bytes] | None:
        """A server's cancellation of its request: whose it is, and its text for that client."""
        params = news.params()
        wanted = bytes(params.get("requestId", b""))
        for number, question in self._questions.items():
            if question.id == wanted:
                del self._questions[number]
                return question.owner, news.text(params=message.text_of(params, {"requestId": b"%d" % number}))
        return None


def _as_number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 19 else 0
