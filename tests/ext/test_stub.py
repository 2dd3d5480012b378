"""The stub of the compiled part against its source: every door, its parameters, and whether it may be written to.

stubtest (tests/test_house.py) compares the stub with the compiled module, which shows names but no signatures. Here
both are read as text: the ext/*.pyx files line by line, the stub as a syntax tree. Types are not compared: C has its
own.
"""

import ast
import re
from collections.abc import Iterator

import msgspec
import pytest

from tests import tree

STUB = tree.ROOT / "fastproxy" / "_ext" / "core.pyi"

CLASS = re.compile(r"(cdef )?class (\w+)")
DOOR = re.compile(r"( *)(?:def|cpdef) (\w+)\(")
ATTRIBUTE = re.compile(r"    cdef (public|readonly) \w[\w\[\]]* ([\w, ]+)")
IMPLICIT = {"__dealloc__"}  # doors of the interpreter's own
CONSTRUCTORS = {"__cinit__", "__init__"}


class Door(msgspec.Struct, frozen=True):
    """A function: its parameters in order, `*` among them, a `=` behind those that may be left out."""

    parameters: tuple[str, ...]


class Attribute(msgspec.Struct, frozen=True):
    writable: bool


Doors = dict[str, Door | Attribute]
"""By `function`, `Class.method` or `Class.attribute`."""


# ---- the source


def doors_of_source(text: str) -> Doors:
    found: Doors = {}
    inside = ""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line and not line[0].isspace():
            match = CLASS.match(line)
            inside = match[2] if match and line.rstrip().endswith(":") else ""
        attribute = ATTRIBUTE.match(line)
        if attribute is not None:
            for name in attribute[2].split(","):
                found[f"{inside}.{name.strip()}"] = Attribute(attribute[1] == "public")
        door = DOOR.match(line)
        if door is None or len(door[1]) != (4 if inside else 0) or door[2] in IMPLICIT:
            continue
        name = f"{inside}.{door[2]}" if inside else door[2]
        if lines[number - 1].strip() == "@property":
            found[name] = Attribute(writable=False)
        else:
            words = parameters_at("\n".join(line.split("#")[0] for line in lines[number : number + 20]))
            found[constructor(name)] = Door(tuple(read_parameter(word) for word in words if word != "self"))
    return found


def constructor(name: str) -> str:
    place, _, last = name.rpartition(".")
    return f"{place}.__init__" if last in CONSTRUCTORS else name


def parameters_at(text: str) -> list[str]:
    """What stands between the first parenthesis and its end, cut at the commas of that level."""
    depth, words = 0, [""]
    for character in text[text.index("(") :]:
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            break
        if character == "," and depth == 1:
            words.append("")
        elif not (character == "(" and depth == 1 and words == [""]):
            words[-1] += character
    return [word.strip() for word in words if word.strip()]


def read_parameter(word: str) -> str:
    declared, separator, _ = word.partition("=")
    if declared.strip() == "*":
        return "*"
    name = declared.replace(" not None", "").split()[-1]
    return name + ("=" if separator else "")


# ---- the stub


def doors_of_stub(text: str) -> Doors:
    found: Doors = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = Door(tuple(parameters_of(node)))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    found[f"{node.name}.{member.target.id}"] = Attribute(writable=True)
                elif isinstance(member, ast.FunctionDef):
                    is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in member.decorator_list)
                    door = Door(tuple(word for word in parameters_of(member) if word != "self"))
                    found[f"{node.name}.{member.name}"] = Attribute(writable=False) if is_property else door
    return found


def parameters_of(function: ast.FunctionDef) -> Iterator[str]:
    arguments = function.args
    placed = [*arguments.posonlyargs, *arguments.args]
    first_default = len(placed) - len(arguments.defaults)
    for position, argument in enumerate(placed):
        yield argument.arg + ("=" if position >= first_default else "")
    if arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield argument.arg + ("=" if default is not None else "")


# ---- the comparison


def disagreements(source: Doors, stub: Doors) -> list[str]:
    """What the stub says otherwise. That it says too much is stubtest's to find."""
    problems = []
    for name, door in source.items():
        if name not in stub and not (name.endswith(".__init__") and door == Door(())):
            problems.append(f"{name}: not in the stub")
        elif stub.get(name, door) != door:
            problems.append(f"{name}: source {door}, stub {stub[name]}")
    return problems


def test_every_door_of_the_source_has_its_signature_in_the_stub() -> None:
    source: Doors = {}
    for path in sorted((tree.ROOT / "ext").glob("*.pyx")):
        source |= doors_of_source(path.read_text())
    assert len(source) > 100, "the source was not understood"
    assert disagreements(source, doors_of_stub(STUB.read_text())) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("rule: int = ..., session", "session", id="a parameter less"),
        pytest.param("def peek(self, limit: int)", "def peek(self, limit: int = 0)", id="a default too many"),
        pytest.param("capacity: int, *, secret", "capacity: int, secret", id="not by keyword only"),
        pytest.param("    def cut(self) -> None: ...\n", "", id="a parameterless door less"),
        pytest.param("    live: bool\n", "    @property\n    def live(self) -> bool: ...\n", id="not writable"),
        pytest.param("    @property\n    def busy(self) -> int: ...\n", "    busy: int\n", id="writable"),
        pytest.param(
            "def siphash13(secret: bytes, data: bytes)", "def siphash13(data: bytes, secret: bytes)", id="order"
        ),
    ],
)
def test_a_difference_would_be_noticed(before: str, after: str) -> None:
    source: Doors = {}
    for path in sorted((tree.ROOT / "ext").glob("*.pyx")):
        source |= doors_of_source(path.read_text())
    stub = STUB.read_text()
    assert before in stub
    assert disagreements(source, doors_of_stub(stub.replace(before, after, 1))) != []
