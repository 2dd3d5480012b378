"""Pages of a list and the cursors between them: complete, stable over changes, and nobody else's to make.

Everything is real and pure.
"""

import base64

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from fastproxy.vmcp import paging

SEAL = paging.Seal(b"k" * paging.KEY_BYTES)


def make_pages(names: list[str], seal: paging.Seal = SEAL) -> paging.Pages:
    return paging.Pages("tools", [(name, msgspec.json.encode({"name": name})) for name in sorted(names)], seal)


def read(page: bytes) -> tuple[list[str], str | None]:
    members = msgspec.json.decode(b"{%s}" % page)
    return [item["name"] for item in members["tools"]], members.get("nextCursor")


def walk(pages: paging.Pages) -> list[list[str]]:
    told = []
    names, cursor = read(pages.page(None))
    told.append(names)
    while cursor is not None:
        names, cursor = read(pages.page(cursor))
        told.append(names)
    return told


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (1, [1]), (1000, [1000]), (1001, [1000, 1]), (2500, [1000, 1000, 500])]
)
def test_a_list_is_told_once_and_whole_in_pages_of_a_thousand(count: int, sizes: list[int]) -> None:
    names = [f"tool-{number:05}" for number in range(count)]
    told = walk(make_pages(names))
    assert [len(page) for page in told] == sizes
    assert [name for page in told for name in page] == names


def test_the_last_page_has_no_cursor() -> None:
    assert b"nextCursor" not in make_pages(["a"]).page(None)


def test_a_cursor_holds_on_another_replica_with_the_same_key() -> None:
    names = [f"{number:05}" for number in range(1500)]
    cursor = read(make_pages(names).page(None))[1]
    other = make_pages(names, paging.Seal(b"k" * paging.KEY_BYTES))
    assert read(other.page(cursor))[0] == names[1000:]


def test_replicas_of_one_configuration_derive_one_key_and_others_another() -> None:
    key = paging.derive_key("fastproxy:tools:vsession:", "secret")
    assert len(key) == paging.KEY_BYTES and key == paging.derive_key("fastproxy:tools:vsession:", "secret")
    others = [("fastproxy:tools:vsession:", ""), ("fastproxy:tools:vsession:s", "ecret"), ("secret",)]
    assert key not in [paging.derive_key(*words) for words in others]


def test_what_stays_is_told_once_although_the_list_changes_between_two_pages() -> None:
    names = [f"{number:05}" for number in range(2000)]
    first, cursor = read(make_pages(names).page(None))
    changed = [name for name in names if name not in ("00010", "00999", "01500")] + ["00005x", "01700x"]
    second, _ = read(make_pages(changed).page(cursor))
    stays = set(names) & set(changed)
    assert [name for name in [*first, *second] if name in stays] == sorted(stays)


@pytest.mark.parametrize(
    "forge", ["", "x", "!!!", "AAAA", "é", "A" * 9000, base64.urlsafe_b64encode(b"\xff" * 40).decode()]
)
def test_a_made_up_cursor_is_refused(forge: str) -> None:
    with pytest.raises(paging.WrongCursor):
        make_pages(["a"]).page(forge)


def test_a_cursor_of_another_list_or_key_or_with_another_name_in_it_is_refused() -> None:
    cursor = SEAL.close("tools", "m")
    assert SEAL.open("tools", cursor) == "m"
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    renamed = base64.urlsafe_b64encode(raw[:-1] + b"n").decode().rstrip("=")
    for seal, kind, word in [
        (SEAL, "prompts", cursor),
        (paging.Seal(b"other"), "tools", cursor),
        (SEAL, "tools", renamed),
    ]:
        with pytest.raises(paging.WrongCursor):
            seal.open(kind, word)


@hypothesis.given(strategies.text(), strategies.text())
def test_any_name_survives_its_cursor_and_no_text_is_one_by_chance(name: str, text: str) -> None:
    hypothesis.assume(not any("\ud800" <= character <= "\udfff" for character in name))
    assert SEAL.open("tools", SEAL.close("tools", name)) == name
    with pytest.raises(paging.WrongCursor):
        SEAL.open("tools", text)
