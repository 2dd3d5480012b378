"""A configuration file as a mapping, whatever its format.

The suffix says which format it is; without a known one the content does. A key given twice is a problem in every
format: parsers silently drop one of the two. Messages carry places, never pieces of the text: it may hold a password.
Knows no setting; load.py does.
"""

import collections
import json
import pathlib
import re
import tomllib
from collections.abc import Callable, Hashable

import msgspec
import yaml

from fastproxy import errors
from fastproxy.config import units

FILE_BYTES_MAX = 1 << 20  # a thousand backends are 60 KB; more is the wrong file, or /dev/zero

_VMCP_KEYS = frozenset({"mcpServers", "groupRef", "incomingAuth", "outgoingAuth", "aggregation", "compositeTools"})


class Unreadable(errors.ConfigError):
    """The file cannot be read at all, so that there is nothing to check (`validate` exits with 2)."""


class Malformed(errors.ConfigError):
    """The file was read, but is not a document of its format."""


class Document(msgspec.Struct, frozen=True):
    """What a file says, and what is wrong with how it says it."""

    values: dict[str, object]
    problems: tuple[str, ...] = ()


def read(path: str) -> Document:
    """The document in that file. Unreadable or Malformed; all problems name the file."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise Unreadable([f"{path}: cannot be read: {explain(error)}"]) from error
    if len(content) > FILE_BYTES_MAX:
        raise Malformed([f"{path}: expected at most {FILE_BYTES_MAX} bytes"])
    try:
        return parse(content, pathlib.PurePath(path).suffix.lower())
    except Malformed as error:
        raise Malformed([f"{path}: {problem}" for problem in error.problems]) from error


def explain(error: OSError | ValueError) -> str:
    """Why a file cannot be read, in the system's words."""
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()


def parse(content: bytes, suffix: str) -> Document:
    """The document in these bytes, in the format of that suffix, or the one that they look like."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed([f"expected UTF-8 text, got something else at byte {error.start}"]) from error
    problems: list[str] = []
    values = _choose_parser(text, suffix)(text, problems)
    if values is None:  # an empty YAML file
        values = {}
    if not isinstance(values, dict):
        raise Malformed([*problems, "expected names with values at the top level, as in `listen: 127.0.0.1:8080`"])
    return Document(values, tuple(problems))


def looks_like_vmcp(document: dict[str, object]) -> bool:
    """Whether this is a configuration of many servers (or a client's mcp.json) rather than one of `serve`."""
    backends = document.get("backends")
    return not _VMCP_KEYS.isdisjoint(document) or (isinstance(backends, list) and any(map(_is_section, backends)))


def is_of_a_client(document: dict[str, object]) -> bool:
    """Whether this is a client's mcp.json, and nothing of ours."""
    return "mcpServers" in document and _VMCP_KEYS.isdisjoint(document.keys() - {"mcpServers"})


def _is_section(entry: object) -> bool:
    return isinstance(entry, dict)


def _choose_parser(text: str, suffix: str) -> Callable[[str, list[str]], object]:
    if suffix in _PARSERS:
        return _PARSERS[suffix]
    if text.lstrip().startswith("{"):
        return _parse_json
    # TOML's first statement is `name = value` or `[table]`; neither begins a YAML mapping.
    first = next((line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")), "")
    return _parse_toml if re.match(r"[\w.\"'-]+\s*=|\[", first) else _parse_yaml


def _parse_json(text: str, problems: list[str]) -> object:
    def collect(pairs: list[tuple[str, object]]) -> dict[str, object]:
        problems.extend(
            f"{name_key(key)}: given twice"
            for key, times in collections.Counter(key for key, _ in pairs).items()
            if times > 1
        )
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=collect, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Malformed([f"line {error.lineno}, column {error.colno}: not JSON: {error.msg.lower()}"]) from error
    except (ValueError, RecursionError) as error:
        raise Malformed(["not JSON that can be used: a number too long, or nesting too deep"]) from error


def _refuse_constant(constant: str) -> object:
    raise Malformed([f"not JSON: {constant} is no number there"])


def _parse_toml(text: str, problems: list[str]) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at ([^)]*)\)", str(error))
        where = f"{place[1]}: " if place else ""
        hint = " (a name given twice?)" if "overwrite" in str(error).lower() else ""
        raise Malformed([f"{where}not TOML{hint}"]) from error
    except (ValueError, RecursionError) as error:
        raise Malformed(["not TOML that can be used: a number too long, or nesting too deep"]) from error


class _Loader(yaml.SafeLoader):
    """YAML with the plain scalars of its version 1.2: `off`, `no`, `12:30` and dates stay text, as their owner meant.

    No merge keys and no tags beyond these: a list of settings needs neither.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012 - how PyYAML wants it
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in {"str", "int", "float", "bool", "null", "seq"}
    }

    def __init__(self, text: str, problems: list[str]) -> None:
        super().__init__(text)
        self.problems = problems

    def construct_settings(self, node: yaml.MappingNode) -> dict[Hashable, object]:
        """A mapping, with every key that comes twice among the problems."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                self.problems.append(f"{name_key(str(key))}: given twice (line {key_node.start_mark.line + 1})")
            elif isinstance(key, Hashable):
                seen.add(key)
        return self.construct_mapping(node, deep=True)


for _tag, _form, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", "[-+]?(0|[1-9][0-9]*)", [*"-+0123456789"]),
    ("float", r"[-+]?(0|[1-9][0-9]*)\.[0-9]+", [*"-+0123456789"]),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_form})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_settings)


def _parse_yaml(text: str, problems: list[str]) -> object:
    try:
        loader = _Loader(text, problems)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        # PyYAML quotes names of anchors and tags: `*secret` and `!secret` are how unquoted passwords look to it.
        problem = re.sub(r"['\"].{2,}['\"]", "…", error.problem or "malformed")
        raise Malformed([f"{where}not YAML: {problem}"]) from error
    except yaml.YAMLError as error:
        raise Malformed(["not YAML: a character that is not allowed"]) from error
    except (ValueError, LookupError, RecursionError) as error:
        raise Malformed(["not YAML that can be used: a wrong number, or nesting too deep"]) from error


def name_key(key: object) -> str:
    """A key as it may stand in a message: short and on one line, whatever it is."""
    return key if isinstance(key, str) and re.fullmatch(r"[\w.-]{1,64}", key, re.ASCII) else units.quote(key)


_PARSERS: dict[str, Callable[[str, list[str]], object]] = {
    ".json": _parse_json,
    ".toml": _parse_toml,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
