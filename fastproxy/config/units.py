"""Single values: from what the owner wrote to what the program counts with, and back.

A `Kind` reads one value and shows it again: `show(read(x))` is text that `read` accepts, so that `/config` can be saved
as a file. `read` takes what a flag or variable (always text) or a file (text, number, truth value) holds, and raises
`WrongValue` with what was expected and what came. Sans-io; files that a setting names are looked at in check.py.
"""

import re
from collections.abc import Callable
from decimal import Decimal

import msgspec

SECONDS_MAX = 8760 * 3600.0  # a year: timers and the store's EX take it, and a typing error rarely stays below
_SHOWN_CHARACTERS_MAX = 100  # of a wrong value in a message; enough to recognise it, too little to flood a terminal

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h)?", re.ASCII)
_SECONDS_PER_UNIT = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_SIZE = re.compile(r"([0-9]{1,18})(B|KiB|MiB|GiB)?", re.ASCII)
_BYTES_PER_UNIT = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_COUNT = re.compile(r"[0-9]{1,18}", re.ASCII)
_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})


class WrongValue(ValueError):
    """A value that cannot be used; the text says what was expected and what came, in lower case, on one line."""


class Kind(msgspec.Struct, frozen=True):
    """How one sort of value is written: the word for it in --help, reading, and showing."""

    metavar: str
    read: Callable[[object], object]
    show: Callable[[object], object]


def quote(value: object) -> str:
    """A wrong value as it may stand in a message: its type when it is not plain, else itself, short and on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _cut(str(value)) if isinstance(value, float) or value.bit_length() < 256 else "a very long number"
    if isinstance(value, str):
        return _cut(ascii(value) if not value.isprintable() else repr(value))
    return {list: "a list", dict: "a section", type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "…"


def read_text(value: object, *, expected: str = "text") -> str:
    """Text; a number or truth value of a file is refused, since its spelling (`007`, `1e3`) would be lost."""
    if isinstance(value, bool | int | float):
        raise WrongValue(f"expected {expected}, got {quote(value)} (put it in quotes)")
    if not isinstance(value, str):
        raise WrongValue(f"expected {expected}, got {quote(value)}")
    if not value.strip():
        raise WrongValue(f"expected {expected}, got nothing")
    if not value.isprintable():
        raise WrongValue(f"expected {expected} without control characters")
    return value


def duration(*, minimum_seconds: float) -> Kind:
    """Seconds as float. Text with a unit, or a plain number of seconds."""

    def read(value: object) -> float:
        seconds = _read_seconds(value)
        if seconds < minimum_seconds or seconds > SECONDS_MAX:
            least, most = show_duration(minimum_seconds), show_duration(SECONDS_MAX)
            raise WrongValue(f"expected a duration of {least} to {most}, got {quote(value)}")
        return seconds

    return Kind("DURATION", read, show_duration)


def _read_seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # NaN fails both comparisons, so it does not pass the caller's bounds by accident.
        if not 0 <= value <= SECONDS_MAX:
            raise WrongValue(f"expected a duration such as 250ms, 5s, 30m or 2h, got {quote(value)}")
        return float(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise WrongValue(f"expected a duration such as 250ms, 5s, 30m or 2h, got {quote(value)}")
    return float(Decimal(match[1]) * _SECONDS_PER_UNIT[match[2] or "s"])


def show_duration(seconds: object) -> str:
    """The largest unit that leaves a whole number: 7200 → 2h, 90 → 90s, 0.25 → 250ms."""
    assert isinstance(seconds, float)
    exact = Decimal(repr(seconds))
    for unit in ("h", "m", "s", "ms"):
        amount = exact / _SECONDS_PER_UNIT[unit]
        if amount == int(amount) and (amount >= 1 or unit == "s"):
            return f"{int(amount)}{unit}"
    return f"{exact.normalize():f}s"


def size(*, minimum_bytes: int, maximum_bytes: int) -> Kind:
    """Bytes as int. Text with a binary unit, or a plain number of bytes."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            amount = value
        else:
            match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
            if match is None:
                raise WrongValue(f"expected a size such as 512KiB, 8MiB or plain bytes, got {quote(value)}")
            amount = int(match[1]) * _BYTES_PER_UNIT[match[2] or "B"]
        if not minimum_bytes <= amount <= maximum_bytes:
            least, most = show_size(minimum_bytes), show_size(maximum_bytes)
            raise WrongValue(f"expected a size of {least} to {most}, got {quote(value)}")
        return amount

    return Kind("SIZE", read, show_size)


def show_size(amount: object) -> str:
    """The largest unit that leaves a whole number: 8388608 → 8MiB, 1000 → 1000."""
    assert isinstance(amount, int)
    for unit in ("GiB", "MiB", "KiB"):
        if amount and amount % _BYTES_PER_UNIT[unit] == 0:
            return f"{amount // _BYTES_PER_UNIT[unit]}{unit}"
    return str(amount)


def count(*, minimum: int, maximum: int) -> Kind:
    """A whole number within bounds."""

    def read(value: object) -> int:
        amount = value
        if isinstance(value, str) and _COUNT.fullmatch(value.strip()):
            amount = int(value)
        if isinstance(amount, bool) or not isinstance(amount, int) or not minimum <= amount <= maximum:
            raise WrongValue(f"expected a whole number of {minimum} to {maximum}, got {quote(value)}")
        return amount

    return Kind("N", read, _same)


def choice(*words: str) -> Kind:
    """One of some words."""

    def read(value: object) -> str:
        if value not in words:
            raise WrongValue(f"expected {', '.join(words[:-1])} or {words[-1]}, got {quote(value)}")
        return str(value)

    return Kind("|".join(words), read, _same)


def switch() -> Kind:
    """On or off; a variable may say it in the usual words."""

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in _TRUE | _FALSE:
            raise WrongValue(f"expected true or false, got {quote(value)}")
        return word in _TRUE

    return Kind("", read, _same)


def text(metavar: str, *, pattern: str = ".*", expected: str = "text", characters_max: int = 256) -> Kind:
    """Printable text of a form."""
    form = re.compile(pattern, re.ASCII)

    def read(value: object) -> str:
        word = read_text(value, expected=expected)
        if not form.fullmatch(word):
            raise WrongValue(f"expected {expected}, got {quote(value)}")
        if len(word) > characters_max:
            raise WrongValue(f"expected at most {characters_max} characters, got {len(word)}")
        return word

    return Kind(metavar, read, _same)


def path() -> Kind:
    """The name of a file, as it is: relative names are relative to the working directory, as in a shell."""

    def read(value: object) -> str:
        return read_text(value, expected="the name of a file")

    return Kind("FILE", read, _same)


def secret() -> Kind:
    """Text that is never shown: not in a message, not in /config."""

    def read(value: object) -> str:
        if not isinstance(value, str) or not value:
            raise WrongValue("expected text (a number has to be put in quotes)")
        if not value.isprintable():
            raise WrongValue("expected text without control characters")
        return value

    return Kind("TEXT", read, _mask)


def _same(value: object) -> object:
    return value


def _mask(value: object) -> object:
    return "***" if value else value
