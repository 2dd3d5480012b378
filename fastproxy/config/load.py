"""From flags, environment and file to one checked ServeConfig, or to every problem at once.

    flags ──┐
    environ ┼─ choose: the highest source of each ─ read: its Kind ─ check.py: one against the other ─ config
    file ───┘  (flag > environment > file > default)

Each problem names the place where the owner wrote it: `--session-ttl`, `FASTPROXY_BACKEND[1]`, `proxy.yaml:
backend[1]`. No problem ever holds a secret. Nothing here lists settings; schema.py does.
"""

import difflib
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.config import check, document, schema, setting, store_url, units

# Read elsewhere, or by the code that wraps us; no setting of a file, and no spelling mistake.
_OTHER_VARIABLES = frozenset({"FASTPROXY_DEBUG", "FASTPROXY_SANITIZE"})
# What Kubernetes puts into a container for a Service called fastproxy…
_SERVICE_VARIABLE = re.compile(
    r"FASTPROXY\w*_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)|FASTPROXY_PORT"
)
_LIKENESS_MIN = 0.8  # of a misspelt name to the right one; below it a guess is noise


class Loaded(msgspec.Struct, frozen=True):
    """What came out: the configuration, and what is probably not meant (one line each)."""

    config: schema.ServeConfig
    warnings: tuple[str, ...]


class _Source(enum.IntEnum):
    """Who set a value; the greater wins."""

    DEFAULT = 0
    FILE = 1
    VARIABLE = 2
    FLAG = 3


class _Given(msgspec.Struct, frozen=True):
    """A setting as it came."""

    source: _Source
    place: str  # what the owner called it
    raw: object


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Loaded:
    """The configuration. `flags` go by their snake_case names: text, a tuple of texts, a truth value; None: not given.

    The file is the one that a flag or the environment names. errors.ConfigError holds every problem.
    """
    gathered = _gather(flags, environ, find_file(flags, environ))
    gathered.add(check.find_gaps(gathered.settings))
    if gathered.problems:
        raise errors.ConfigError(gathered.problems)
    settings = gathered.settings
    settings["key_prefix"] = settings["key_prefix"].replace("{name}", settings["name"])
    return Loaded(schema.ServeConfig(**settings), (*_find_misspelt(environ), *gathered.find_doubts()))


def find_file(flags: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """The name of the file that a flag or the environment names; empty: none."""
    return str(flags.get("config") or environ.get(schema.SETTINGS["config"].variable) or "")


def validate(file: str) -> tuple[str, ...]:
    """Checks a file by itself; answers with what is left to flags or is probably not meant. Problems as with `load`.

    document.Unreadable when there is nothing to check.
    """
    gathered = _gather({}, {}, file)
    if gathered.problems:
        raise errors.ConfigError(gathered.problems)
    left = [f"{name}: {gap}, here or by a flag" for name, gap in check.find_gaps(gathered.settings)]
    return (*left, *gathered.find_doubts())


class _Gathered(msgspec.Struct):
    """All sources brought together: where each setting came from, what could be read, what is wrong."""

    given: dict[str, _Given]
    settings: dict[str, Any]
    problems: list[str]

    def add(self, found: Iterable[check.Problem]) -> None:
        self.problems += [f"{self.given[name].place}: {problem}" for name, problem in found]

    def find_doubts(self) -> list[str]:
        return [f"{self.given[name].place}: {doubt}" for name, doubt in check.find_doubts(self.settings)]


def _gather(flags: Mapping[str, object], environ: Mapping[str, str], file: str) -> _Gathered:
    problems: list[str] = []
    try:
        values = _read_file(file, problems) if file else {}
    except errors.ConfigError as failure:
        # Other sources are still worth a look, but what they leave open may well stand in the broken file.
        _read_all(_choose(flags, environ, {}, file=""), problems)
        raise type(failure)([*failure.problems, *problems]) from failure
    given = _choose(flags, environ, values, file=file)
    settings = _read_all(given, problems)
    _settle_password(given, settings, problems)
    gathered = _Gathered(given, settings, problems)
    gathered.add(check.find_problems(settings))
    return gathered


def _read_file(file: str, problems: list[str]) -> dict[str, object]:
    """The settings of the file under known names; what else is in it goes to the problems."""
    found = document.read(file)
    if document.looks_like_vmcp(found.values):
        raise document.Malformed([f"{file}: expected settings of serve, got the configuration of a virtual MCP server"])
    problems += [f"{file}: {problem}" for problem in found.problems]
    values = dict(found.values)
    for name in found.values:
        if name == "config":
            problems.append(f"{file}: config: expected no other file inside of a file")
        elif name not in schema.SETTINGS:
            problems.append(f"{file}: {document.name_key(name)}: unknown name{_suggest(str(name), schema.SETTINGS)}")
        else:
            continue
        del values[name]
    return values


def _suggest(name: str, known: Mapping[str, object]) -> str:
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name[:64]).lower().replace("-", "_")
    close = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _choose(
    flags: Mapping[str, object], environ: Mapping[str, str], values: Mapping[str, object], *, file: str
) -> dict[str, _Given]:
    """Every setting from the highest source that holds it. An empty variable and a null in a file hold nothing."""
    given = {}
    for name, row in schema.SETTINGS.items():
        in_file = f"{file}: {name}"
        flag, variable, value = flags.get(name), environ.get(row.variable), values.get(name)
        if flag is not None and flag != ():
            given[name] = _Given(_Source.FLAG, row.flag if row.has_flag else row.name, flag)
        elif variable and row.has_variable:
            raw = _split(variable) if row.repeatable else variable
            given[name] = _Given(_Source.VARIABLE, row.variable, raw)
        elif value is not None:
            given[name] = _Given(_Source.FILE, in_file, value)
        else:
            place = in_file if file and not flags else row.flag if row.has_flag else row.variable
            given[name] = _Given(_Source.DEFAULT, place, None)
    return given


def _split(variable: str) -> list[object]:
    return [piece.strip() for piece in variable.split(",") if piece.strip()]


def _read_all(given: Mapping[str, _Given], problems: list[str]) -> dict[str, Any]:
    """The values of all settings that can be read; what is wrong with the others goes to the problems."""
    settings: dict[str, Any] = {}
    for name, one in given.items():
        row = schema.SETTINGS[name]
        if one.source is _Source.DEFAULT:
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


def _read_items(row: setting.Setting, one: _Given, problems: list[str]) -> Iterator[object]:
    if not isinstance(one.raw, list | tuple):
        problems.append(f"{one.place}: expected a list, got {units.quote(one.raw)}")
        return
    # A single flag needs no number; in a list of the file each entry has one, as its reader counts.
    numbered = one.source is _Source.FILE or len(one.raw) > 1
    for index, raw in enumerate(one.raw):
        try:
            yield row.kind.read(raw)
        except units.WrongValue as error:
            problems.append(f"{one.place}{f'[{index}]' if numbered else ''}: {error}")


def _settle_password(given: Mapping[str, _Given], settings: dict[str, Any], problems: list[str]) -> None:
    """Puts the store's password into its place, from the highest of the three sources that may hold it."""
    store = settings.get("store")
    if not isinstance(store, store_url.StoreUrl):
        return
    if store.password and given["store"].source is _Source.FLAG:
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


def _find_misspelt(environ: Mapping[str, str]) -> Iterator[str]:
    known = {row.variable for row in schema.SETTINGS.values() if row.has_variable} | _OTHER_VARIABLES
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
