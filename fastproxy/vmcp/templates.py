"""Does a URI come from a URI template (RFC 6570)? The question of `resources/read`, asked in reverse.

A template is a row of literals and expressions; each moves a set of places in the URI to the set of places where it may
end. The set is one integer, a bit for each place, so that a match costs a few integer operations per expression
whatever stands in the template: a regular expression would need minutes for one that a hostile backend made up.

Reversing is loose where the expansion says little: a simple `{name}` takes anything but `/`, `?` and `#`, since clients
do not escape what the standard would; names in a query are not looked at. The backend has the last word. Pure.
"""

import re
from collections.abc import Callable, Sequence

import msgspec

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_VARIABLE = re.compile(r"(?:[A-Za-z0-9_.]|%[0-9A-Fa-f]{2})+(\*|:[1-9][0-9]{0,3})?", re.ASCII)
_EXPRESSIONS_MAX = 32  # of one template; the longest seen have six


class WrongTemplate(ValueError):
    """Not a URI template."""


class Literal(msgspec.Struct, frozen=True):
    """Just these characters."""

    text: str


class Run(msgspec.Struct, frozen=True):
    """Characters other than some, `least` of them or more; behind `first`, where there is one, or not at all."""

    excluded: str
    least: int = 0
    first: str = ""


Part = Literal | Run


class Subject:
    """A URI that is asked about, with a bit for each place at which a character stands."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.everywhere = (1 << len(uri)) - 1
        self._places: dict[str, int] = {}
        bit = 1
        for character in uri:
            self._places[character] = self._places.get(character, 0) | bit
            bit <<= 1

    def places_of(self, characters: str) -> int:
        """Where one of these stands."""
        places = 0
        for character in characters:
            places |= self._places.get(character, 0)
        return places


class Template(msgspec.Struct, frozen=True):
    """A template taken apart."""

    text: str
    parts: tuple[Part, ...]
    start: str  # every URI of it begins so

    def matches(self, subject: Subject) -> bool:
        """Whether the URI may have been made from this."""
        if not subject.uri.startswith(self.start):
            return False
        places = 1  # bit n: n characters of the URI are accounted for
        for part in self.parts:
            if isinstance(part, Literal):
                places = _follow_literal(part.text, subject, places)
            else:
                places = _follow_run(part, subject, places)
            if not places:
                return False
        return bool(places >> len(subject.uri) & 1)


def read(text: str) -> Template:
    """The template of this text. WrongTemplate says why it is none."""
    parts: list[Part] = []
    at = expressions = 0
    for match in _EXPRESSION.finditer(text):
        _add_literal(parts, text[at : match.start()])
        parts += _read_expression(match[1])
        at = match.end()
        expressions += 1
    _add_literal(parts, text[at:])
    if expressions > _EXPRESSIONS_MAX:
        raise WrongTemplate(f"expected at most {_EXPRESSIONS_MAX} expressions, got {expressions}")
    first = parts[0] if parts else None
    return Template(text, tuple(parts), first.text if isinstance(first, Literal) else "")


def _add_literal(parts: list[Part], text: str) -> None:
    if "{" in text or "}" in text:
        raise WrongTemplate("expected each { to have its }")
    if text:
        parts.append(Literal(text))


def _read_expression(expression: str) -> Sequence[Part]:
    operator = expression[:1] if expression[:1] in _OPERATORS else ""
    variables = expression[len(operator) :].split(",")
    for variable in variables:
        if not _VARIABLE.fullmatch(variable):
            raise WrongTemplate(f"expected names of variables in {{{expression[:40]}}}")
    return _OPERATORS[operator](variables)


def _simple(variables: list[str]) -> Sequence[Part]:
    return [Run("/?#", least=1)]  # several are joined by commas, which are among the rest


def _reserved(variables: list[str]) -> Sequence[Part]:
    return [Run("")]


def _fragment(variables: list[str]) -> Sequence[Part]:
    return [Run("", first="#")]


def _label(variables: list[str]) -> Sequence[Part]:
    return [Run("/?#", first=".")]


def _path(variables: list[str]) -> Sequence[Part]:
    if any(variable.endswith("*") for variable in variables):
        return [Run("?#", first="/")]
    return [Run("/?#", first="/") for _ in variables]


def _parameters(variables: list[str]) -> Sequence[Part]:
    return [Run("/?#", first=";")]


def _query(variables: list[str]) -> Sequence[Part]:
    return [Run("#", first="?")]


def _continuation(variables: list[str]) -> Sequence[Part]:
    return [Run("#", first="&")]


_OPERATORS: dict[str, Callable[[list[str]], Sequence[Part]]] = {
    "": _simple,
    "+": _reserved,
    "#": _fragment,
    ".": _label,
    "/": _path,
    ";": _parameters,
    "?": _query,
    "&": _continuation,
}


def _follow_literal(literal: str, subject: Subject, places: int) -> int:
    for character in literal:
        places = (places & subject.places_of(character)) << 1
    return places


def _follow_run(run: Run, subject: Subject, places: int) -> int:
    allowed = subject.everywhere & ~subject.places_of(run.excluded)
    inside = _follow_literal(run.first, subject, places)
    for _ in range(run.least):
        inside = (inside & allowed) << 1
    # Adding a starting bit to a row of ones carries to the row's end: the bits that change are the places reached.
    reached = inside | ((allowed + (inside & allowed)) ^ allowed)
    return reached | places if run.first else reached
