"""Lists in pages, rendered once, and the cursors that lead from one to the next.

A cursor says behind which name the next page begins, so that it holds on every replica and over a change of the list:
nothing that stays is told twice or left out. It is sealed for its kind of list by a key that all replicas share; what a
client made up, or took from another list, is refused. Pure: the key comes from whoever assembles the server.
"""

import base64
import binascii
import bisect
import hashlib
import hmac
from collections.abc import Sequence

import msgspec

PAGE_ITEMS_MAX = 1000  # most clients do not follow cursors well; ordinary groups fit into one page
CURSOR_CHARACTERS_MAX = 8192  # the longest URI in base64, and the seal
KEY_BYTES = 32
_SEAL_BYTES = 16


class WrongCursor(ValueError):
    """A cursor that we have not handed out, or not for this list: JSON-RPC -32602."""


def derive_key(*words: str) -> bytes:
    """The same key for the same words: how replicas that share a configuration share a key without asking each other.

    It is as secret as the most secret of the words. A list is the same for everyone who may ask for it, so that who
    knows them all gains nothing by a cursor of his own.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES, person=b"vmcp seal")
    for word in words:
        digest.update(b"%d:%s" % (len(word.encode()), word.encode()))
    return digest.digest()


class Seal:
    """Closes cursors and opens them again."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key, digest_size=KEY_BYTES, person=b"vmcp cursor").digest()

    def close(self, kind: str, after: str) -> str:
        """The cursor of the page of `kind` that begins behind the name `after`."""
        sealed = self._sign(kind, after) + after.encode()
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, kind: str, cursor: str) -> str:
        """The name behind which the page begins. WrongCursor: it is not ours."""
        if len(cursor) > CURSOR_CHARACTERS_MAX:
            raise WrongCursor("cursor: too long to be one of ours")
        try:
            sealed = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
            after = sealed[_SEAL_BYTES:].decode()
        except (UnicodeError, binascii.Error) as error:
            raise WrongCursor("cursor: none of ours") from error
        if not hmac.compare_digest(sealed[:_SEAL_BYTES], self._sign(kind, after)):
            raise WrongCursor("cursor: none of ours, or of another list")
        return after

    def _sign(self, kind: str, after: str) -> bytes:
        return hashlib.blake2b(
            b"%s\0%s" % (kind.encode(), after.encode()), key=self._key, digest_size=_SEAL_BYTES
        ).digest()


class Pages:
    """One list, in order of the names, as the members of a result: `"tools":[…],"nextCursor":"…"`."""

    def __init__(self, member: str, items: Sequence[tuple[str, bytes]], seal: Seal) -> None:
        self._member = member
        self._names = [name for name, _ in items]
        self._items = [item for _, item in items]
        self._seal = seal
        self._first = self._render(0)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> Sequence[str]:
        """All names of the list, in order."""
        return self._names

    @property
    def items(self) -> Sequence[bytes]:
        """All items of the list, as they are told, in the order of the names."""
        return self._items

    def page(self, cursor: str | None) -> bytes:
        """The members of one page's result. WrongCursor: that one is not ours."""
        if cursor is None:
            return self._first
        return self._render(bisect.bisect_right(self._names, self._seal.open(self._member, cursor)))

    def same(self, other: "Pages") -> bool:
        """Whether a client would be told the same."""
        return self._names == other._names and self._items == other._items

    def _render(self, start: int) -> bytes:
        end = start + PAGE_ITEMS_MAX
        members = b'"%s":[%s]' % (self._member.encode(), b",".join(self._items[start:end]))
        if end >= len(self._items):
            return members
        cursor = self._seal.close(self._member, self._names[end - 1])
        return b'%s,"nextCursor":%s' % (members, msgspec.json.encode(cursor))
