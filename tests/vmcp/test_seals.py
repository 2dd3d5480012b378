"""Ids under which a backend's requests reach a client. Pure; hypothesis makes the ids up, and the forgeries."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from fastproxy.vmcp import seals

SEALED = st.builds(seals.Sealed, backend=st.text(max_size=40), raw=st.text(max_size=60), replica=st.text(max_size=32))


@given(SEALED)
def test_what_was_sealed_opens_with_the_sessions_secret_alone(what: seals.Sealed) -> None:
    text = seals.seal("secret", what)
    assert seals.unseal("secret", text) == what
    assert seals.unseal("another", text) is None
    assert seals.seal("secret", what) == text


@given(SEALED, SEALED)
def test_no_two_backends_or_ids_collide(one: seals.Sealed, other: seals.Sealed) -> None:
    assert (seals.seal("secret", one) == seals.seal("secret", other)) == (one == other)


@given(SEALED, st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_a_bit_that_is_changed_opens_nothing(what: seals.Sealed, place: int, bit: int) -> None:
    encoded = seals.seal("secret", what).removeprefix("fp.")
    sealed = bytearray(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    sealed[place % len(sealed)] ^= 1 << bit
    forged = "fp." + base64.urlsafe_b64encode(bytes(sealed)).rstrip(b"=").decode()
    assert seals.unseal("secret", forged) is None


@given(st.text(max_size=200))
def test_what_a_client_makes_up_opens_nothing(text: str) -> None:
    assert seals.unseal("secret", text) is None
    assert seals.unseal("secret", "fp." + text) is None


def test_an_id_longer_than_any_of_ours_is_not_looked_at() -> None:
    assert seals.unseal("secret", "fp." + "A" * 10_000_000) is None
