"""What a template is made of once it is parsed, and the one error of this room."""

from collections.abc import Iterator

import msgspec


class TemplateError(Exception):
    """A template that can't be read, or can't be rendered with these values. The text says where and why."""


class Missing(msgspec.Struct, frozen=True):
    """The value of a member that is not there. Falsy; any use of it is an error. `path`: as the template has it."""

    path: str

    def __bool__(self) -> bool:
        return False


# ---- operands: what has a value


class Constant(msgspec.Struct, frozen=True):
    """A number, a text, true, false, or nil."""

    value: object


class Dot(msgspec.Struct, frozen=True):
    """The value that the surrounding range or with has put in place of the context."""


class Variable(msgspec.Struct, frozen=True):
    """$name; the empty name is $, the context."""

    name: str


class Fields(msgspec.Struct, frozen=True):
    """`.a.b` of an operand: members of objects."""

    of: "Operand"
    names: tuple[str, ...]


class Command(msgspec.Struct, frozen=True):
    """A function and its arguments, or (with no name) an operand alone."""

    function: str
    arguments: tuple["Operand", ...]


class Pipeline(msgspec.Struct, frozen=True):
    """Commands, each of which gets the value before it as its last argument. `line`: for messages."""

    commands: tuple[Command, ...]
    line: int


Operand = Constant | Dot | Variable | Fields | Pipeline


# ---- what stands in the text


class Text(msgspec.Struct, frozen=True):
    """As it is."""

    text: str


class Output(msgspec.Struct, frozen=True):
    """{{pipeline}}"""

    pipeline: Pipeline


class Assign(msgspec.Struct, frozen=True):
    """{{$x := pipeline}} declares, {{$x = pipeline}} changes."""

    name: str
    declares: bool
    pipeline: Pipeline


class If(msgspec.Struct, frozen=True):
    """{{if}} and {{with}}, the latter of which moves the dot. `name`: of the variable that is declared."""

    pipeline: Pipeline
    name: str | None
    moves_dot: bool
    then: "Block"
    otherwise: "Block"


class Range(msgspec.Struct, frozen=True):
    """{{range}}; `names`: none, of the element, or of index and element."""

    pipeline: Pipeline
    names: tuple[str, ...]
    body: "Block"
    otherwise: "Block"


class Leave(msgspec.Struct, frozen=True):
    """{{break}}, or {{continue}}."""

    ends: bool


Node = Text | Output | Assign | If | Range | Leave
Block = tuple[Node, ...]


def chains(nodes: Block) -> Iterator[tuple[str, ...]]:
    """Every chain of fields that begins at a dot or at $, whatever the dot is there."""
    for node in nodes:
        match node:
            case Output(pipeline) | Assign(pipeline=pipeline):
                yield from _chains_of(pipeline)
            case If(pipeline, then=first, otherwise=second) | Range(pipeline, body=first, otherwise=second):
                yield from _chains_of(pipeline)
                yield from chains(first)
                yield from chains(second)


def _chains_of(operand: Operand) -> Iterator[tuple[str, ...]]:
    match operand:
        case Fields(Dot() | Variable(""), names):
            yield names
        case Fields(of, _):
            yield from _chains_of(of)
        case Pipeline(commands):
            for command in commands:
                for argument in command.arguments:
                    yield from _chains_of(argument)
