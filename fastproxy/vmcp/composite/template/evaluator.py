"""Rendering: nodes and a context in, text out, within bounds.

The context is what a JSON document may hold: objects, lists, texts, numbers, true, false, null. Each run counts its
steps and its output; a template that goes on for too long, or says too much, is an error of its own.
"""

from collections.abc import Iterable, Mapping

from fastproxy.vmcp.composite.template import functions, nodes, parser

STEPS_MAX = 50_000  # nodes and operands; some hundredths of a second, in which nothing else is served
OUTPUT_CHARACTERS_MAX = functions.TEXT_CHARACTERS_MAX


class Template:
    """One that has been read. `chains`: of fields that begin at a dot or at $ (see nodes.chains)."""

    def __init__(self, text: str, block: nodes.Block) -> None:
        self.text = text
        self.chains = frozenset(nodes.chains(block))
        self._block = block

    def render(self, context: Mapping[str, object]) -> str:
        """TemplateError: a value is missing or does not fit, or a bound is reached."""
        run = _Run(context)
        run.write_block(self._block, context, {"": context})
        return "".join(run.output)


def parse(text: str) -> Template:
    """TemplateError: it can't be read, and why."""
    return Template(text, parser.parse(text, functions.NAMES))


class _LeaveRange(Exception):
    """{{break}} or {{continue}}; never leaves this file."""

    def __init__(self, ends: bool) -> None:
        self.ends = ends


class _Run:
    """One rendering."""

    def __init__(self, context: Mapping[str, object]) -> None:
        self.output: list[str] = []
        self._context = context
        self._characters = 0
        self._steps = 0

    def write_block(self, block: nodes.Block, dot: object, variables: dict[str, object]) -> None:
        """Variables that a block declares end with it; what it changes of outer ones stays."""
        scope: _Scope | None = None
        for node in block:
            self._count()
            match node:
                case nodes.Text(text):
                    self._write(text)
                case nodes.Output(pipeline):
                    value = self._value_of(pipeline, dot, variables)
                    with _At(pipeline):
                        self._write(functions.show(functions.check(value)))
                case nodes.Assign(name, declares, pipeline):
                    value = self._value_of(pipeline, dot, variables)
                    if declares:
                        if scope is None:
                            variables = scope = _Scope(variables, {})
                        scope[name] = value
                    elif isinstance(variables, _Scope):
                        variables.change(name, value)
                    else:
                        variables[name] = value
                case nodes.If():
                    self._write_condition(node, dot, variables)
                case nodes.Range():
                    self._write_range(node, dot, variables)
                case nodes.Leave(ends):
                    raise _LeaveRange(ends)

    def _write_condition(self, node: nodes.If, dot: object, variables: dict[str, object]) -> None:
        value = self._value_of(node.pipeline, dot, variables)
        inner = variables if node.name is None else _Scope(variables, {node.name: value})
        if functions.is_true(value):
            self.write_block(node.then, value if node.moves_dot else dot, inner)
        else:
            self.write_block(node.otherwise, dot, inner)

    def _write_range(self, node: nodes.Range, dot: object, variables: dict[str, object]) -> None:
        value = self._value_of(node.pipeline, dot, variables)
        empty = True
        with _At(node.pipeline):
            pairs = _pairs(value)
        for index, element in pairs:
            empty = False
            self._count()
            names = node.names
            given = {names[0]: element} if len(names) == 1 else dict(zip(names, (index, element), strict=False))
            try:
                self.write_block(node.body, element, _Scope(variables, given) if given else variables)
            except _LeaveRange as leave:
                if leave.ends:
                    break
        if empty:
            self.write_block(node.otherwise, dot, variables)

    # ---- values

    def _value_of(self, operand: nodes.Operand, dot: object, variables: dict[str, object]) -> object:
        self._count()
        match operand:
            case nodes.Constant(value):
                return value
            case nodes.Dot():
                return dot
            case nodes.Variable(name):
                return variables[name]
            case nodes.Fields(of, names):
                return _member(functions.check(self._value_of(of, dot, variables)), names)
            case nodes.Pipeline(commands):
                last: tuple[object, ...] = ()
                for command in commands:
                    last = (self._run_command(command, last, operand, dot, variables),)
                return last[0]

    def _run_command(
        self,
        command: nodes.Command,
        last: tuple[object, ...],
        pipeline: nodes.Pipeline,
        dot: object,
        variables: dict[str, object],
    ) -> object:
        if not command.function:
            return self._value_of(command.arguments[0], dot, variables)
        if command.function in ("and", "or"):  # later arguments are not looked at when an earlier one decides
            wanted = command.function == "or"
            value: object = None
            if not command.arguments and not last:
                with _At(pipeline):
                    functions.call(command.function, ())
            for argument in command.arguments:
                value = self._value_of(argument, dot, variables)
                if functions.is_true(value) == wanted:
                    return value
            return last[0] if last else value
        arguments = (*(self._value_of(argument, dot, variables) for argument in command.arguments), *last)
        with _At(pipeline):
            return functions.call(command.function, arguments)

    # ---- bounds

    def _count(self) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise nodes.TemplateError(f"the template takes more than {STEPS_MAX} steps")

    def _write(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > OUTPUT_CHARACTERS_MAX:
            raise nodes.TemplateError(f"the template gives more than {OUTPUT_CHARACTERS_MAX} characters")
        self.output.append(text)


class _Scope(dict[str, object]):
    """Variables of a block, in front of those around it."""

    def __init__(self, around: dict[str, object], given: dict[str, object]) -> None:
        super().__init__(given)
        self._around = around

    def __missing__(self, name: str) -> object:
        return self._around[name]

    def change(self, name: str, value: object) -> None:
        """Where it was declared."""
        if name in self:
            self[name] = value
        elif isinstance(self._around, _Scope):
            self._around.change(name, value)
        else:
            self._around[name] = value


class _At:
    """Errors within say where in the template they are."""

    def __init__(self, pipeline: nodes.Pipeline) -> None:
        self._line = pipeline.line

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, nodes.TemplateError) and not str(error).startswith("line "):
            raise nodes.TemplateError(f"line {self._line}: {error}") from None


def _member(value: object, names: tuple[str, ...]) -> object:
    for depth, name in enumerate(names):
        if not isinstance(value, Mapping):
            before = ".".join(names[:depth])
            what = functions.name_kind(value)
            raise nodes.TemplateError(f"{f'.{before}' if before else 'the value'} is {what}: it has no .{name}")
        if name not in value:
            path = "." + ".".join(names[: depth + 1])
            if depth == len(names) - 1:
                return nodes.Missing(path)
            raise nodes.TemplateError(f"{path} is not there")
        value = value[name]
    return value


def _pairs(value: object) -> Iterable[tuple[object, object]]:
    match value:
        case None | nodes.Missing():
            return ()
        case bool():
            pass
        case list() | tuple():
            return enumerate(value)
        case Mapping():
            return sorted(value.items())
        case int() if value <= STEPS_MAX:
            return ((number, number) for number in range(value))
    raise nodes.TemplateError(f"range goes over a list, an object or a number, not over {functions.name_kind(value)}")
