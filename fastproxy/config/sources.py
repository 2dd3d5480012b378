"""Where a setting's value comes from: flag, environment or file, and which of them wins.

    flags ──┐
    environ ┼─ choose: the highest source of each ─ read_all: its Kind ─> values, problems
    file ───┘  (flag > environment > file > default)

Works on any table of settings (schema.py has that of `serve`, vmcp_flags.py that of `vmcp`). Each problem names the
place where the owner wrote it: `--session-ttl`, `FASTPROXY_BACKEND[1]`, `proxy.yaml: backend[1]`.
"""

import difflib
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from fastproxy.config import check, setting, store_url, units

# Read elsewhere, or by the code that wraps us; no setting of a file, and no spelling mistake.
_OTHER_VARIABLES = frozenset({"FASTPROXY_DEBUG", "FASTPROXY_SANITIZE"})
# What Kubernetes puts into a container for a Service called fastproxy…
_SERVICE_VARIABLE = re.compile(
    r"FASTPROXY\w*_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)|FASTPROXY_PORT"
)
_LIKENESS_MIN = 0.8  # of a misspelt name to the right one; below it a guess is noise


class Source(enum.IntEnum):
    """Who set a value; the greater wins."""

    DEFAULT = 0
    FILE = 1
    VARIABLE = 2
    FLAG = 3


class Given(msgspec.Struct, frozen=True):
    """A setting as it came."""

    source: Source
    place: str  # what the owner called it
    raw: object


class Gathered(msgspec.Struct):
    """All sources brought together: where each setting came from, what could be read, what is wrong."""

    given: dict[str, Given]
    settings: dict[str, Any]
    problems: list[str]

    def add(self, found: Iterable[check.Problem]) -> None:
        """Problems of settings, with the places where those were written."""
        self.problems += [f"{self.given[name].place}: {problem}" for name, problem in found]

    def find_doubts(self) -> list[str]:
        """What is probably not meant, with its place."""
        return [f"{self.given[name].place}: {doubt}" for name, doubt in check.find_doubts(self.settings)]


def suggest(name: str, known: Mapping[str, object]) -> str:
    """What was probably meant by an unknown name of a file, as the end of a message."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name[:64]).lower().replace("-", "_")
    close = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def choose(
    table: Mapping[str, setting.Setting],
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    values: Mapping[str, object],
    *,
    file: str,
) -> dict[str, Given]:
    """Every setting from the highest source that holds it. An empty variable and a null in a file hold nothing."""
    given = {}
    for name, row in table.items():
        in_file = f"{file}: {name}"
        flag, variable, value = flags.get(name), environ.get(row.variable), values.get(name)
        if flag is not None and flag != ():
            given[name] = Given(Source.FLAG, row.flag if row.has_flag else row.name, flag)
        elif variable and row.has_variable:
            raw = _split(variable) if row.repeatable else variable
            given[name] = Given(Source.VARIABLE, row.variable, raw)
        elif value is not None:
            given[name] = Given(Source.FILE, in_file, value)
        else:
            place = in_file if file and not flags else row.flag if row.has_flag else row.variable
            given[name] = Given(Source.DEFAULT, place, None)
    return given


def _split(variable: str) -> list[object]:
    return [piece.strip() for piece in variable.split(",") if piece.strip()]


def read_all(table: Mapping[str, setting.Setting], given: Mapping[str, Given], problems: list[str]) -> dict[str, Any]:
    """The values of all settings that can be read; what is wrong with the others goes to the problems."""
    settings: dict[str, Any] = {}
    for name, one in given.items():
        row = table[name]
        if one.source is Source.DEFAULT:
            settings[name] = row.default
        elif row.repeatable:
            wrong = len(problems)
            read = tuple(_read_items(row, one, problems))
            if len(problems) == wrong:
                settings[name] = read
        else:
            try:
                settings[name] = row.kind.read(one.raw)
            except units.WrongValue as error:
                problems.append(f"{one.place}: {error}")
    return settings


def _read_items(row: setting.Setting, one: Given, problems: list[str]) -> Iterator[object]:
    if not isinstance(one.raw, list | tuple):
        problems.append(f"{one.place}: expected a list, got {units.quote(one.raw)}")
        return
    # A single flag needs no number; in a list of the file each entry has one, as its reader counts.
    numbered = one.source is Source.FILE or len(one.raw) > 1
    for index, raw in enumerate(one.raw):
        try:
            yield row.kind.read(raw)
        except units.WrongValue as error:
            problems.append(f"{one.place}{f'[{index}]' if numbered else ''}: {error}")


def settle_password(given: Mapping[str, Given], settings: dict[str, Any], problems: list[str]) -> None:
    """Puts the store's password into its place, from the highest of the three sources that may hold it."""
    store = settings.get("store")
    if not isinstance(store, store_url.StoreUrl):
        return
    if store.password and given["store"].source is Source.FLAG:
        problems.append(
            "--store: expected no password in a flag, where ps shows it (set FASTPROXY_REDIS_PASSWORD, "
            "or give the URL by FASTPROXY_STORE or the file)"
        )
        return
    names = [name for name in ("redis_password", "redis_password_file") if settings.get(name)]
    if store.password:
        names.append("store")
    if not names or store.kind == "memory":
        return
    highest = max(given[name].source for name in names)
    names = [name for name in names if given[name].source is highest]
    if len(names) > 1:
        problems.append(f"{given[names[0]].place}: expected the password once, got it by {given[names[1]].place} too")
        return
    password: str | None
    if names == ["redis_password_file"]:
        try:
            password = check.read_secret_file(settings["redis_password_file"])
        except ValueError as error:
            problems.append(f"{given['redis_password_file'].place}: {error}")
            return
    else:
        password = settings["redis_password"] if names == ["redis_password"] else store.password
    settings["store"] = msgspec.structs.replace(store, password=password)


def find_misspelt(table: Mapping[str, setting.Setting], environ: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable that is nearly the name of a setting."""
    known = {row.variable for row in table.values() if row.has_variable} | _OTHER_VARIABLES
    suffixes = [variable.removeprefix(setting.VARIABLE_PREFIX) for variable in sorted(known)]
    for variable in sorted(environ):
        if (
            not variable.startswith(setting.VARIABLE_PREFIX)
            or variable in known
            or _SERVICE_VARIABLE.fullmatch(variable)
        ):
            continue
        suffix = variable.removeprefix(setting.VARIABLE_PREFIX)
        close = difflib.get_close_matches(suffix[:64], suffixes, n=1, cutoff=_LIKENESS_MIN)
        if close:
            yield f"{units.quote(variable)[1:-1]}: unknown variable (did you mean {setting.VARIABLE_PREFIX}{close[0]}?)"
