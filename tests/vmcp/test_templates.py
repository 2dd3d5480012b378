"""URIs matched against URI templates: the forms of RFC 6570, what is no template, and what a hostile one may cost.

Everything is real and pure. Expansion, which is only needed to make examples, is written here for the simple forms.
"""

import time

import hypothesis
import pytest
from hypothesis import strategies

from fastproxy.vmcp import offers, templates


@pytest.mark.parametrize(
    ("template", "uri", "matches"),
    [
        ("test://fixed", "test://fixed", True),
        ("test://fixed", "test://fixed2", False),
        ("test://{id}/data", "test://5/data", True),
        ("test://{id}/data", "test://a:b%20c@d/data", True),
        ("test://{id}/data", "test:///data", False),
        ("test://{id}/data", "test://a/b/data", False),
        ("test://{id}/data", "test://5/data?x", False),
        ("test://{id}", "test://ünï", True),
        ("{a}-{b}", "x-y-z", True),
        ("{a}{b}", "x", False),
        ("{a,b}", "1,2", True),
        ("file:///{+path}", "file:///a/b?c#d", True),
        ("file:///{+path}", "file:///", True),
        ("doc{#part}", "doc", True),
        ("doc{#part}", "doc#a/b", True),
        ("doc{#part}", "docs", False),
        ("www{.domain*}", "www.example.com", True),
        ("www{.domain*}", "www", True),
        ("root{/a,b}", "root/1/2", True),
        ("root{/a,b}", "root/1/2/3", False),
        ("root{/parts*}", "root/1/2/3", True),
        ("root{/parts*}/end", "root/1/end", True),
        ("map{;x,y}", "map;x=1;y=2", True),
        ("search{?q,lang}", "search", True),
        ("search{?q,lang}", "search?q=a&lang=b", True),
        ("search{?q,lang}", "search#q", False),
        ("search?fixed=1{&q}", "search?fixed=1&q=2", True),
        ("prefix:{var:3}", "prefix:abc", True),
        ("{%61}", "x", True),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_a_uri_matches_the_template_that_it_could_come_from(template: str, uri: str, matches: bool) -> None:
    assert templates.read(template).matches(templates.Subject(uri)) is matches


@pytest.mark.parametrize("text", ["a{b", "a}b", "{}", "{a{b}}", "{a b}", "{!a}", "{a,}", "{a:0}", "{a}" * 33])
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(templates.WrongTemplate):
        templates.read(text)


WORDS = strategies.text("abc-._~", min_size=1, max_size=5)
LITERALS = strategies.text("abc/:?", max_size=4)


@hypothesis.given(pieces=strategies.lists(strategies.tuples(LITERALS, WORDS), max_size=6), end=LITERALS)
def test_whatever_a_template_expands_to_matches_it(pieces: list[tuple[str, str]], end: str) -> None:
    template = "".join(f"{literal}{{v{index}}}" for index, (literal, _) in enumerate(pieces)) + end
    uri = "".join(f"{literal}{word}" for literal, word in pieces) + end
    parsed = templates.read(template)
    assert parsed.matches(templates.Subject(uri))
    assert not parsed.matches(templates.Subject(uri + "\0")) or template.endswith("}")


def test_a_template_made_to_hang_a_matcher_costs_milliseconds() -> None:
    hostile = templates.read("a" + "{+x}b{+y}bb" * 16)
    subject = templates.Subject("a" + "b" * (offers.URI_CHARACTERS_MAX - 2) + "c")
    began = time.thread_time()
    assert not hostile.matches(subject)
    assert time.thread_time() - began < 0.25  # a backtracking matcher would need longer than the universe has lasted
