"""From flags, environment and file to one checked ServeConfig, or to every problem at once.

    flags, environment, file ─ sources.py: which wins, read ─ check.py: one against the other ─ config

No problem ever holds a secret. Nothing here lists settings; schema.py does.
"""

from collections.abc import Callable, Mapping

import msgspec

from fastproxy import errors
from fastproxy.config import check, document, schema, sources, stdio

OfAClient = Callable[[Mapping[str, object], list[str]], dict[str, object]]


class Loaded(msgspec.Struct, frozen=True):
    """What came out: the configuration, and what is probably not meant (one line each)."""

    config: schema.ServeConfig
    warnings: tuple[str, ...]


def load(flags: Mapping[str, object], environ: Mapping[str, str]) -> Loaded:
    """The configuration. `flags` go by their snake_case names: text, a tuple of texts, a truth value; None: not given.

    The file is the one that a flag or the environment names. errors.ConfigError holds every problem.
    """
    name = str(flags.get("name") or environ.get(schema.SETTINGS["name"].variable) or "")
    gathered = _gather(
        flags, environ, find_file(flags, environ), lambda values, problems: stdio.take_entry(values, name, problems)
    )
    gathered.add(check.find_gaps(gathered.settings))
    if gathered.problems:
        raise errors.ConfigError(gathered.problems)
    settings = gathered.settings
    settings["key_prefix"] = settings["key_prefix"].replace("{name}", settings["name"])
    return Loaded(
        schema.ServeConfig(**settings), (*sources.find_misspelt(schema.SETTINGS, environ), *gathered.find_doubts())
    )


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


def _refuse(values: Mapping[str, object], problems: list[str]) -> dict[str, object]:
    """Of a file by itself nobody knows which of its servers is meant."""
    raise document.Malformed(["expected settings of serve, got the configuration of a virtual MCP server"])


def _gather(
    flags: Mapping[str, object], environ: Mapping[str, str], file: str, of_a_client: OfAClient = _refuse
) -> sources.Gathered:
    problems: list[str] = []
    try:
        values = _read_file(file, problems, of_a_client) if file else {}
    except errors.ConfigError as failure:
        # Other sources are still worth a look, but what they leave open may well stand in the broken file.
        sources.read_all(schema.SETTINGS, sources.choose(schema.SETTINGS, flags, environ, {}, file=""), problems)
        raise type(failure)([*failure.problems, *problems]) from failure
    given = sources.choose(schema.SETTINGS, flags, environ, values, file=file)
    settings = sources.read_all(schema.SETTINGS, given, problems)
    sources.settle_password(given, settings, problems)
    gathered = sources.Gathered(given, settings, problems)
    gathered.add(check.find_problems(settings))
    return gathered


def _read_file(file: str, problems: list[str], of_a_client: OfAClient) -> dict[str, object]:
    """The settings of the file under known names; what else is in it goes to the problems."""
    found = document.read(file)
    own = list(found.problems)
    if document.is_of_a_client(found.values):
        try:
            said = of_a_client(found.values, own)
        except document.Malformed as error:
            raise document.Malformed([f"{file}: {problem}" for problem in error.problems]) from error
    elif document.looks_like_vmcp(found.values):
        raise document.Malformed([f"{file}: expected settings of serve, got the configuration of a virtual MCP server"])
    else:
        said = found.values
    problems += [f"{file}: {problem}" for problem in own]
    values = stdio.join_command(dict(said))
    for name in list(values):
        if name == "config":
            problems.append(f"{file}: config: expected no other file inside of a file")
        elif name not in schema.SETTINGS:
            problems.append(
                f"{file}: {document.name_key(name)}: unknown name{sources.suggest(str(name), schema.SETTINGS)}"
            )
        else:
            continue
        del values[name]
    return values
