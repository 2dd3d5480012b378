"""The ids and tokens under which what a backend asks reaches a client, so that the answer finds its way back.

Every backend counts its requests from 1. So a client sees none of their ids but a sealed one, which says whose it is,
which backend's or which replica's of ours, and what it was there; any replica can open it, with the secret that lies in
the session's record. What a client made up, or got in another session, opens nowhere. Pure.
"""

import base64
import binascii
import hashlib
import hmac

import msgspec

SEALED_CHARACTERS_MAX = 4096
_MAC_BYTES = 12
_BEGINNING = "fp."


class Sealed(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """`backend`: who asks; empty: we do (`replica` waits for the answer). `raw`: the id or token, as it was written."""

    backend: str
    raw: str
    replica: str = ""


def seal(secret: str, what: Sealed) -> str:
    """The same for the same."""
    payload = msgspec.json.encode(what)
    return _BEGINNING + base64.urlsafe_b64encode(_sign(secret, payload) + payload).rstrip(b"=").decode()


def unseal(secret: str, text: str) -> Sealed | None:
    """None: it is not ours, or not of this session."""
    if not text.startswith(_BEGINNING) or len(text) > SEALED_CHARACTERS_MAX:
        return None
    encoded = text.removeprefix(_BEGINNING)
    try:
        sealed = base64.b64decode(encoded.encode("ascii") + b"=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (UnicodeError, binascii.Error):
        return None
    payload = sealed[_MAC_BYTES:]
    if not hmac.compare_digest(sealed[:_MAC_BYTES], _sign(secret, payload)):
        return None
    return msgspec.json.decode(payload, type=Sealed)


def _sign(secret: str, payload: bytes) -> bytes:
    return hashlib.blake2b(payload, key=secret.encode(), digest_size=_MAC_BYTES, person=b"vmcp id").digest()
