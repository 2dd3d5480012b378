"""Reading a nested document into checked values, every problem with its path.

A section is a table of rows: key → how to read what stands there, whether it must be there, and what holds when it is
not. A reader gets a Place and a raw value; it answers with the checked value or notes a problem at the place and
answers with INVALID. Reading goes on: the owner gets every problem in one answer. A null says nothing. Sans-io.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from fastproxy.config import document, units

_LIKENESS_MIN = 0.6
_ELEMENT_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_EXPECTED = "a duration such as 250ms, 30s or 1h30m"


class _Invalid:
    """What cannot be read stands for nothing."""

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Final = _Invalid()


class Notes(msgspec.Struct):
    """What is wrong, and what is probably not meant."""

    problems: list[str] = []
    doubts: list[str] = []


class Place(msgspec.Struct, frozen=True):
    """Where in the document we are. `environ`: variables that the document may refer to."""

    notes: Notes
    environ: Mapping[str, str]
    path: str = ""

    def key(self, name: str) -> "Place":
        """The place of a member."""
        shown = document.name_key(name)
        return Place(self.notes, self.environ, f"{self.path}.{shown}" if self.path else shown)

    def item(self, index: int) -> "Place":
        """The place of an entry of a list."""
        return Place(self.notes, self.environ, f"{self.path}[{index}]")

    def refuse(self, problem: str) -> _Invalid:
        """Notes what is wrong here."""
        self.notes.problems.append(f"{self.path}: {problem}" if self.path else problem)
        return INVALID

    @property
    def is_refused(self) -> bool:
        """Whether something here was found wrong: what it leaves open needs no second line."""
        beginnings = (f"{self.path}: ", f"{self.path}.", f"{self.path}[")
        return any(problem.startswith(beginnings) for problem in self.notes.problems)

    def doubt(self, doubt: str) -> None:
        """Notes what is probably not meant."""
        self.notes.doubts.append(f"{self.path}: {doubt}" if self.path else doubt)


Reader = Callable[[Place, object], Any]


class Row(msgspec.Struct, frozen=True):
    """One key of a section."""

    read: Reader
    required: str = ""  # what is expected when it is missing; empty: it may be
    default: object = None


def read_section(place: Place, raw: object, rows: Mapping[str, Row]) -> dict[str, Any]:
    """Values of all keys; what is missing or wrong has its default, unknown keys are problems."""
    values = {key: row.default for key, row in rows.items()}
    if not isinstance(raw, dict):
        place.refuse(f"expected a section, got {units.quote(raw)}")
        return values
    for key in raw:
        if key not in rows:
            place.key(str(key)).refuse(f"unknown key{suggest(str(key), rows)}")
    for key, row in rows.items():
        value = raw.get(key)
        if value is None:
            if row.required:
                place.key(key).refuse(f"expected {row.required}, got nothing")
            continue
        read = row.read(place.key(key), value)
        if read is not INVALID:
            values[key] = read
    return values


def suggest(key: str, known: Mapping[str, object]) -> str:
    """What was probably meant, as the end of a message."""
    plain = {name.lower(): name for name in known}
    written = key[:64].lower().replace("_", "").replace("-", "")
    close = difflib.get_close_matches(written, plain, n=1, cutoff=_LIKENESS_MIN)
    return f" (did you mean {plain[close[0]]}?)" if close else f" (known here: {', '.join(known)})"


def value(kind: units.Kind) -> Reader:
    """A single value of that kind."""

    def read(place: Place, raw: object) -> Any:
        try:
            return kind.read(raw)
        except units.WrongValue as wrong:
            return place.refuse(str(wrong))

    return read


def text(expected: str = "text", *, characters_max: int = 4096) -> Reader:
    """Text that is not empty, line breaks allowed."""

    def read(place: Place, raw: object) -> Any:
        if not isinstance(raw, str):
            hint = " (put it in quotes)" if isinstance(raw, bool | int | float) else ""
            return place.refuse(f"expected {expected}, got {units.quote(raw)}{hint}")
        if not raw.strip():
            return place.refuse(f"expected {expected}, got nothing")
        if len(raw) > characters_max:
            return place.refuse(f"expected at most {characters_max} characters, got {len(raw)}")
        return raw

    return read


def choice(*words: str) -> Reader:
    """One of some words; empty text says nothing."""

    def read(place: Place, raw: object) -> Any:
        if raw in words or raw == "":
            return raw or INVALID
        return place.refuse(f"expected {' or '.join(words)}, got {units.quote(raw)}")

    return read


def flag(place: Place, raw: object) -> Any:
    """true or false, not in quotes."""
    return raw if isinstance(raw, bool) else place.refuse(f"expected true or false, got {units.quote(raw)}")


def duration(*, least_seconds: float, zero: bool = False) -> Reader:
    """Seconds, from text with units as Go writes it. `zero`: 0 is a value of its own."""

    def read(place: Place, raw: object) -> Any:
        seconds = _read_duration(raw)
        if seconds is None:
            hint = " (a unit is missing)" if isinstance(raw, int | float) and not isinstance(raw, bool) else ""
            return place.refuse(f"expected {_DURATION_EXPECTED}, got {units.quote(raw)}{hint}")
        if zero and seconds == 0:
            return seconds
        if not least_seconds <= seconds <= units.SECONDS_MAX:
            least, most = units.show_duration(least_seconds), units.show_duration(units.SECONDS_MAX)
            return place.refuse(f"expected a duration of {least} to {most}, got {units.quote(raw)}")
        return seconds

    return read


def _read_duration(raw: object) -> float | None:
    if raw == 0 and not isinstance(raw, bool):
        return 0.0
    if not isinstance(raw, str) or len(raw) > 64:
        return None
    word = raw.strip()
    if word == "0":
        return 0.0
    if not word or _ELEMENT_DURATION.sub("", word):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _ELEMENT_DURATION.findall(word))


def items(read_item: Reader) -> Reader:
    """A list; entries that cannot be read are left out of it."""

    def read(place: Place, raw: object) -> Any:
        if not isinstance(raw, list):
            return place.refuse(f"expected a list, got {units.quote(raw)}")
        entries = [read_item(place.item(index), entry) for index, entry in enumerate(raw)]
        return tuple(entry for entry in entries if entry is not INVALID)

    return read


def table(read_value: Reader) -> Reader:
    """A section whose keys are names that the owner chose."""

    def read(place: Place, raw: object) -> Any:
        if not isinstance(raw, dict):
            return place.refuse(f"expected a section, got {units.quote(raw)}")
        entries = {str(key): read_value(place.key(str(key)), one) for key, one in raw.items()}
        return {key: entry for key, entry in entries.items() if entry is not INVALID}

    return read


def section(rows: Mapping[str, Row], make: Callable[[Place, dict[str, Any]], Any]) -> Reader:
    """A section, and what is made of its values. `make` is not asked when the section is no section at all."""

    def read(place: Place, raw: object) -> Any:
        values = read_section(place, raw, rows)
        return make(place, values) if isinstance(raw, dict) else INVALID

    return read


def unsupported(hint: str = "") -> Reader:
    """What belongs to the format and is not there yet. An empty list says nothing."""

    def read(place: Place, raw: object) -> Any:
        return INVALID if raw == [] else place.refuse(f"not supported yet{f' ({hint})' if hint else ''}")

    return read


def refuse_twice(place: Place, names: list[str], noun: str) -> None:
    """Notes each name that stands in a list more than once."""
    for name in sorted({name for name in names if names.count(name) > 1}):
        place.refuse(f"expected each {noun} once, got {units.quote(name)} {names.count(name)} times")
