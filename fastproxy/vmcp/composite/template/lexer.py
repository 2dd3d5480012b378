"""From text to pieces: what stands between actions, and the tokens of each action."""

import re
from collections.abc import Iterator
from typing import NoReturn

import msgspec

from fastproxy.vmcp.composite.template import nodes

_COMMENT = re.compile(r"(?:- )?/\*.*?\*/( -)?\}\}", re.DOTALL)
_SPACE = " \t\r\n"
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<text>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
  | (?P<character>'(?:[^'\\\n]|\\.)*')
  | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+
               |(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?))(?![\w.])
  | (?P<field>\.[^\W\d]\w*)
  | (?P<variable>\$\w*)
  | (?P<word>[^\W\d]\w*)
  | (?P<mark>:=|[=|(),.])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


class Token(msgspec.Struct, frozen=True):
    """`kind`: constant, field, variable, word or mark. `close`: nothing stands between it and the token before."""

    kind: str
    value: object
    close: bool = False


class Action(msgspec.Struct, frozen=True):
    """The tokens between {{ and }}."""

    tokens: tuple[Token, ...]
    line: int


def split(text: str) -> Iterator[str | Action]:
    """Texts and actions in their order, white space trimmed where an action says so."""
    position, counted, line, trims = 0, 0, 1, False
    while True:
        start = text.find("{{", position)
        between = text[position : start if start >= 0 else len(text)]
        if trims:
            between = between.lstrip(_SPACE)
        if start < 0:
            if between:
                yield between
            return
        trims_before = text.startswith("{{-", start) and text[start + 3 : start + 4] in tuple(_SPACE)
        if trims_before:
            between = between.rstrip(_SPACE)
        if between:
            yield between
        line += text.count("\n", counted, start)
        counted = start
        comment = _COMMENT.match(text, start + 2)
        if comment is not None:
            position, trims = comment.end(), comment.group(1) is not None
            continue
        tokens, position, trims = _read_action(text, start + (3 if trims_before else 2), line)
        yield Action(tokens, line)


def _read_action(text: str, position: int, line: int) -> tuple[tuple[Token, ...], int, bool]:
    tokens: list[Token] = []
    close = False
    while True:
        if text.startswith("}}", position):
            return tuple(tokens), position + 2, False
        found = _TOKEN.match(text, position)
        if found is None:
            if position >= len(text):
                _refuse(line, "an action is not closed: }} is missing")
            if text.startswith("{{", position):
                _refuse(line, "an action begins within an action: }} is missing")
            _refuse(line, f"{text[position]!r} is not expected here")
        position = found.end()
        kind, word = str(found.lastgroup), found.group()
        if kind == "space":
            if text.startswith("-}}", position):
                return tuple(tokens), position + 3, True
            close = False
            continue
        tokens.append(_read_token(kind, word, close, line))
        close = True


def _read_token(kind: str, word: str, close: bool, line: int) -> Token:
    match kind:
        case "text":
            return Token("constant", word[1:-1] if word[0] == "`" else _unescape(word[1:-1], line), close)
        case "character":
            character = _unescape(word[1:-1], line)
            if len(character) != 1:
                _refuse(line, f"expected one character, got {word}")
            return Token("constant", ord(character), close)
        case "number":
            return Token("constant", _read_number(word, line), close)
        case "field" | "variable":
            return Token(kind, word[1:], close)
        case _:
            return Token(kind, word, close)


def _read_number(word: str, line: int) -> int | float:
    try:
        try:
            return int(word, 0)
        except ValueError:
            return float(word)
    except ValueError:
        _refuse(line, f"expected a number, got {word}")


def _unescape(text: str, line: int) -> str:
    def read(found: re.Match[str]) -> str:
        for group, base in ((1, 16), (2, 16), (3, 16), (4, 8)):
            digits = found.group(group)
            if digits:
                code = int(digits, base)
                if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                    _refuse(line, f"no such character: {found.group()}")
                return chr(code)
        if found.group(5) not in _ESCAPED:
            _refuse(line, f"unknown escape in text: {found.group()}")
        return _ESCAPED[found.group(5)]

    return _ESCAPE.sub(read, text)


def _refuse(line: int, problem: str) -> NoReturn:
    raise nodes.TemplateError(f"line {line}: {problem}")
