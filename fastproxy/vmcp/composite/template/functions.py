"""What templates may call, how values are shown, and what is true. Every function is total on JSON values, or says why
it is not; none gives more than TEXT_CHARACTERS_MAX characters.

Texts are made as Go's fmt makes them: `map[a:1 b:2]`, `[1 2]`, floats in the shortest form, with an exponent from 1e+21
on and below 1e-4 (Go shows floats that are whole from 1e+06 on so; here they are numbers like any other).
"""

import math
import re
from collections.abc import Callable, Mapping

import msgspec

from fastproxy.vmcp.composite.template import nodes

TEXT_CHARACTERS_MAX = 10 << 20
_WIDTH_MAX = 1000  # of a number or text in printf
_VERB = re.compile(r"%(?P<flags>[-+# 0]*)(?P<width>\d*)(?:\.(?P<precision>\d*))?(?P<verb>.)", re.DOTALL)
_QUOTED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def call(name: str, arguments: tuple[object, ...]) -> object:
    """TemplateError: the arguments do not fit."""
    function, fewest, most = _FUNCTIONS[name]
    if not fewest <= len(arguments) <= most:
        expected = f"{fewest}" if fewest == most else f"{fewest} or more" if most == _MANY else f"{fewest} to {most}"
        raise nodes.TemplateError(f"{name} takes {expected} arguments, got {len(arguments)}")
    if name not in _LENIENT:
        for argument in arguments:
            check(argument)
    try:
        return function(*arguments)
    except nodes.TemplateError as error:
        raise nodes.TemplateError(f"{name}: {error}") from None


def check(value: object) -> object:
    """The value, if there is one."""
    if isinstance(value, nodes.Missing):
        raise nodes.TemplateError(f"{value.path} is not there")
    return value


def is_true(value: object) -> bool:
    """Go's truth: not false, 0, null, missing, or empty."""
    return bool(value)


def name_kind(value: object) -> str:
    """For messages."""
    match value:
        case None:
            return "null"
        case nodes.Missing(path):
            return f"not there ({path})"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case Mapping():
            return "an object"
        case _:
            return "a list"


# ---- showing values


def show(value: object) -> str:
    """As an action writes it."""
    if value is None:
        raise nodes.TemplateError("the value is null: json writes it, or an if leaves it out")
    return _bounded(_show(value, _Room()))


class _Room:
    """What a text may still hold: lists within lists can name one another many times over."""

    def __init__(self) -> None:
        self.left = TEXT_CHARACTERS_MAX

    def take(self, text: str) -> str:
        self.left -= len(text) + 1
        if self.left < 0:
            raise nodes.TemplateError(f"a text over {TEXT_CHARACTERS_MAX} characters")
        return text


def _show(value: object, room: _Room) -> str:
    match value:
        case None:
            return room.take("<nil>")
        case bool():
            return room.take("true" if value else "false")
        case str():
            return room.take(value)
        case int():
            return room.take(_show_whole(value))
        case float():
            return room.take(show_float(value))
        case Mapping():
            return "map[" + " ".join(f"{room.take(key)}:{_show(value[key], room)}" for key in sorted(value)) + "]"
        case list() | tuple():
            return "[" + " ".join(_show(one, room) for one in value) + "]"
        case _:
            raise nodes.TemplateError(f"{name_kind(value)} can't be written")


def _show_whole(value: int) -> str:
    if value.bit_length() > 4096:
        raise nodes.TemplateError("a number of more than 1,000 digits")
    return str(value)


def show_float(value: float) -> str:
    """The shortest text that reads as this number."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value)) if value or math.copysign(1, value) > 0 else "-0"
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    if exponent:
        return f"{mantissa.removesuffix('.0')}e{exponent[0] if exponent[0] in '+-' else '+'}{exponent.lstrip('+-'):0>2}"
    return text


def _bounded(text: str) -> str:
    if len(text) > TEXT_CHARACTERS_MAX:
        raise nodes.TemplateError(f"a text over {TEXT_CHARACTERS_MAX} characters")
    return text


# ---- comparison and logic


def _equal(first: object, *others: object) -> bool:
    return any(_same(first, other) for other in others)


def _same(first: object, second: object) -> bool:
    if first is None or second is None:
        return first is second
    kind, other = _kind(first), _kind(second)
    if kind != other:
        raise nodes.TemplateError(f"{name_kind(first)} can't be compared with {name_kind(second)}")
    return first == second


def _kind(value: object) -> str:
    if isinstance(value, (bool, int, float, str)):
        return name_kind(value)
    raise nodes.TemplateError(f"{name_kind(value)} can't be compared")


def _less(first: object, second: object) -> bool:
    kind = _kind(first)
    if kind != _kind(second) or isinstance(first, bool):
        raise nodes.TemplateError(f"{name_kind(first)} has no order to {name_kind(second)}")
    below: bool = first < second  # type: ignore[operator]  # both are numbers, or both are texts
    return below


def _less_or_equal(first: object, second: object) -> bool:
    return _less(first, second) or _same(first, second)


def _and(*values: object) -> object:
    return next((value for value in values if not value), values[-1])


def _or(*values: object) -> object:
    return next((value for value in values if value), values[-1])


# ---- objects, lists and texts


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))  # Go counts bytes
    if isinstance(value, (list, tuple, Mapping)):
        return len(value)
    raise nodes.TemplateError(f"{name_kind(value)} has no length")


def _index(value: object, *keys: object) -> object:
    for depth, key in enumerate(keys):
        if isinstance(value, Mapping):
            if not isinstance(key, str):
                raise nodes.TemplateError(f"an object has names, got {name_kind(key)}")
            if key not in value:
                if depth == len(keys) - 1:
                    return nodes.Missing(f"index {show_text(key)}")
                raise nodes.TemplateError(f"{show_text(key)} is not there")
            value = value[key]
        elif isinstance(value, (list, tuple)):
            position = _whole(key)
            if not 0 <= position < len(value):
                raise nodes.TemplateError(f"{position} is outside of a list of {len(value)}")
            value = value[position]
        else:
            raise nodes.TemplateError(f"{name_kind(value)} has no elements")
    return value


def _slice(value: object, *bounds: object) -> object:
    if not isinstance(value, (str, list, tuple)):
        raise nodes.TemplateError(f"{name_kind(value)} can't be cut")
    whole = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    start = _whole(bounds[0]) if bounds else 0
    end = _whole(bounds[1]) if len(bounds) > 1 else len(whole)
    if not 0 <= start <= end <= len(whole):
        raise nodes.TemplateError(f"{start} to {end} is outside of 0 to {len(whole)}")
    piece = whole[start:end]
    return piece.decode("utf-8", "replace") if isinstance(piece, bytes) else piece


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise nodes.TemplateError(f"expected a whole number, got {name_kind(value)}")
    return int(value)


# ---- texts


def show_text(text: str) -> str:
    """In double quotes, as Go's %q."""
    quoted = []
    for character in text:
        if character in '"\\':
            quoted.append("\\" + character)
        elif character.isprintable():
            quoted.append(character)
        elif character in _QUOTED:
            quoted.append(_QUOTED[character])
        else:
            code = ord(character)
            quoted.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(quoted) + '"'


def _quote(value: object) -> str:
    return _bounded(show_text(value if isinstance(value, str) else show(value)))


def _json(value: object) -> str:
    room = _Room()
    _weigh(value, room)
    try:
        return _bounded(msgspec.json.encode(value, order="sorted").decode())
    except (msgspec.MsgspecError, ValueError, OverflowError) as error:
        raise nodes.TemplateError(str(error)) from None


def _weigh(value: object, room: _Room) -> None:
    """Before it is written: a small object that is named many times over can be a large text."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            room.take(key)
            _weigh(one, room)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _weigh(one, room)
    else:
        room.take(value if isinstance(value, str) else "0")


def _from_json(text: object) -> object:
    if not isinstance(text, str):
        raise nodes.TemplateError(f"expected a text, got {name_kind(text)}")
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise nodes.TemplateError(f"the text is not JSON: {error}") from None


def _print(*values: object) -> str:
    pieces: list[str] = []
    room = _Room()
    for before, value in zip((None, *values), values, strict=False):
        if pieces and not isinstance(before, str) and not isinstance(value, str):
            pieces.append(" ")
        pieces.append(_show(value, room))
    return "".join(pieces)


def _print_line(*values: object) -> str:
    room = _Room()
    return " ".join(_show(value, room) for value in values) + "\n"


def _print_formatted(pattern: object, *values: object) -> str:
    if not isinstance(pattern, str):
        raise nodes.TemplateError(f"expected a pattern, got {name_kind(pattern)}")
    left = list(values)
    room = _Room()

    def write(found: re.Match[str]) -> str:
        verb = found["verb"]
        if verb == "%":
            return "%"
        if not left:
            raise nodes.TemplateError(f"{found.group()} has no value")
        return room.take(_write_verb(found, left.pop(0), room))

    text = _VERB.sub(write, room.take(pattern))
    if text.endswith("%") and _VERB.search(pattern) is None:
        raise nodes.TemplateError("% at the end of a pattern")
    if left:
        raise nodes.TemplateError(f"{len(left)} values more than the pattern has verbs")
    return _bounded(text)


def _write_verb(found: re.Match[str], value: object, room: _Room) -> str:
    flags, verb = found["flags"], found["verb"]
    width = int(found["width"] or 0)
    precision = None if found["precision"] is None else int(found["precision"] or 0)
    if width > _WIDTH_MAX or (precision or 0) > _WIDTH_MAX:
        raise nodes.TemplateError(f"{found.group()}: expected a width of at most {_WIDTH_MAX}")
    sign = "+" if "+" in flags else " " if " " in flags else ""
    numeric = False
    match verb:
        case "v":
            text = _show(value, room)
        case "s":
            text = (value if isinstance(value, str) else _show(value, room))[:precision]
        case "q":
            text = show_text(value if isinstance(value, str) else _show(value, room))
        case "t" if isinstance(value, bool):
            text = "true" if value else "false"
        case "d" | "x" | "X" | "o" | "b" if not isinstance(value, (str, bool)):
            text, numeric = format(_whole(value), sign + verb), True
        case "x" | "X" if isinstance(value, str):
            text = value.encode().hex()
            text = text.upper() if verb == "X" else text
        case "e" | "E" | "f" | "F" | "g" | "G" if isinstance(value, (int, float)) and not isinstance(value, bool):
            if verb in "gG" and precision is None:
                text, numeric = (sign if value >= 0 and sign else "") + show_float(float(value)), True
            else:
                text, numeric = format(float(value), f"{sign}.{6 if precision is None else precision}{verb}"), True
        case "c" if not isinstance(value, (str, bool)) and 0 <= _whole(value) <= 0x10FFFF:
            text = chr(_whole(value))
        case _:
            raise nodes.TemplateError(f"{found.group()} does not fit {name_kind(value)}")
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and numeric:
        return text.zfill(width)
    return text.rjust(width)


_MANY = 1 << 30
_FUNCTIONS: Mapping[str, tuple[Callable[..., object], int, int]] = {
    "and": (_and, 1, _MANY),
    "or": (_or, 1, _MANY),
    "not": (lambda value: not is_true(value), 1, 1),
    "eq": (_equal, 2, _MANY),
    "ne": (lambda first, second: not _same(first, second), 2, 2),
    "lt": (_less, 2, 2),
    "le": (_less_or_equal, 2, 2),
    "gt": (lambda first, second: not _less_or_equal(first, second), 2, 2),
    "ge": (lambda first, second: not _less(first, second), 2, 2),
    "len": (_length, 1, 1),
    "index": (_index, 1, _MANY),
    "slice": (_slice, 1, 3),
    "print": (_print, 0, _MANY),
    "println": (_print_line, 0, _MANY),
    "printf": (_print_formatted, 1, _MANY),
    "json": (_json, 1, 1),
    "quote": (_quote, 1, 1),
    "fromJson": (_from_json, 1, 1),
}
_LENIENT = frozenset(("and", "or", "not"))  # what asks whether a value is there
NAMES = frozenset(_FUNCTIONS)
