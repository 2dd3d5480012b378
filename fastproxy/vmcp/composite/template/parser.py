"""From pieces to nodes: blocks, pipelines, operands. Names are looked up here: an unknown one is an error at once."""

from collections.abc import Collection, Iterator
from typing import NoReturn

from fastproxy.vmcp.composite.template import lexer, nodes

DEPTH_MAX = 100  # blocks and parentheses within each other
TEXT_CHARACTERS_MAX = 1 << 20

_CONSTANTS = {"true": True, "false": False, "nil": None}
_UNSUPPORTED = ("define", "template", "block")
_KEYWORDS = ("if", "else", "end", "range", "with", "break", "continue", *_UNSUPPORTED)


def parse(text: str, functions: Collection[str]) -> nodes.Block:
    """The nodes of a template. TemplateError: what is wrong, with its line."""
    if len(text) > TEXT_CHARACTERS_MAX:
        raise nodes.TemplateError(f"expected at most {TEXT_CHARACTERS_MAX} characters, got {len(text)}")
    parser = _Parser(lexer.split(text), functions)
    block, end = parser.read_block({""}, in_range=False, depth=0)
    if end is not None:
        end.refuse(f"{end.peek_word()} without its beginning")
    return block


class _Parser:
    def __init__(self, pieces: Iterator[str | lexer.Action], functions: Collection[str]) -> None:
        self._pieces = pieces
        self._functions = functions
        self._line = 1

    def read_block(self, variables: set[str], *, in_range: bool, depth: int) -> tuple[nodes.Block, "_Tokens | None"]:
        """Nodes up to {{else}}, {{end}} or the end of the text; the action that ends it (None: the text)."""
        if depth > DEPTH_MAX:
            raise nodes.TemplateError(f"line {self._line}: blocks are nested deeper than {DEPTH_MAX}")
        block: list[nodes.Node] = []
        for piece in self._pieces:
            if isinstance(piece, str):
                block.append(nodes.Text(piece))
                continue
            self._line = piece.line
            action = _Tokens(piece, self._functions, variables)
            word = action.peek_word()
            if word in ("else", "end"):
                return tuple(block), action
            if word in _UNSUPPORTED:
                action.refuse(f"{word} is not supported in a step's template")
            if word in ("break", "continue"):
                if not in_range:
                    action.refuse(f"{word} outside of a range")
                action.take()
                action.expect_end()
                block.append(nodes.Leave(word == "break"))
            elif word in ("if", "with"):
                action.take()
                block.append(self._read_condition(action, word == "with", variables, in_range, depth))
            elif word == "range":
                action.take()
                block.append(self._read_range(action, variables, in_range, depth))
            else:
                block.append(action.read_statement())
        return tuple(block), None

    def _read_condition(
        self, action: "_Tokens", moves_dot: bool, variables: set[str], in_range: bool, depth: int
    ) -> nodes.If:
        inner = set(variables)
        names, pipeline = action.read_declared(inner, names_max=1)
        then, end = self._read_branch(action, inner, in_range, depth)
        otherwise: nodes.Block = ()
        if end.take_word() == "else":
            following = end.peek_word()
            if following in ("if", "with"):
                end.take()
                end.variables = inner
                chained = self._read_condition(end, following == "with", inner, in_range, depth + 1)
                return nodes.If(pipeline, names[0] if names else None, moves_dot, then, (chained,))
            end.expect_end()
            otherwise, end = self._read_branch(end, inner, in_range, depth)
            self._expect_last(end)
        else:
            end.expect_end()
        return nodes.If(pipeline, names[0] if names else None, moves_dot, then, otherwise)

    def _read_range(self, action: "_Tokens", variables: set[str], in_range: bool, depth: int) -> nodes.Range:
        inner = set(variables)
        names, pipeline = action.read_declared(inner, names_max=2)
        body, end = self._read_branch(action, inner, True, depth)
        otherwise: nodes.Block = ()
        if end.take_word() == "else":
            end.expect_end()
            otherwise, end = self._read_branch(end, set(variables), in_range, depth)
            self._expect_last(end)
        else:
            end.expect_end()
        return nodes.Range(pipeline, names, body, otherwise)

    def _read_branch(
        self, begin: "_Tokens", variables: set[str], in_range: bool, depth: int
    ) -> tuple[nodes.Block, "_Tokens"]:
        block, end = self.read_block(set(variables), in_range=in_range, depth=depth + 1)
        if end is None:
            begin.refuse("a block is not closed: {{end}} is missing")
        return block, end

    def _expect_last(self, end: "_Tokens") -> None:
        if end.take_word() != "end":
            end.refuse("else stands twice in one block")
        end.expect_end()


class _Tokens:
    """The tokens of one action, read from the front."""

    def __init__(self, action: lexer.Action, functions: Collection[str], variables: set[str]) -> None:
        self._tokens = action.tokens
        self._line = action.line
        self._functions = functions
        self.variables = variables
        self._at = 0
        self._depth = 0

    def peek(self) -> lexer.Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def peek_word(self) -> str | None:
        token = self.peek()
        return str(token.value) if token is not None and token.kind == "word" else None

    def take(self) -> lexer.Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def take_word(self) -> str:
        return str(self.take().value)

    def take_mark(self, *marks: str) -> str | None:
        token = self.peek()
        if token is None or token.kind != "mark" or token.value not in marks:
            return None
        self._at += 1
        return str(token.value)

    def expect_end(self) -> None:
        token = self.peek()
        if token is not None:
            self.refuse(f"expected }}}}, got {_show(token)}")

    def refuse(self, problem: str) -> NoReturn:
        raise nodes.TemplateError(f"line {self._line}: {problem}")

    def read_statement(self) -> nodes.Node:
        """An output, or an assignment."""
        token = self.peek()
        if token is None:
            self.refuse("an action is empty")
        following = self._tokens[1] if len(self._tokens) > 1 else None
        if token.kind == "variable" and following is not None and following.value in (":=", "="):
            self._at = 2
            name, declares = str(token.value), following.value == ":="
            if not declares:
                self._check_variable(name)
            pipeline = self.read_pipeline()
            self.expect_end()
            if declares:
                self.variables.add(name)
            return nodes.Assign(name, declares, pipeline)
        pipeline = self.read_pipeline()
        self.expect_end()
        return nodes.Output(pipeline)

    def read_declared(self, inner: set[str], *, names_max: int) -> tuple[tuple[str, ...], nodes.Pipeline]:
        """`$x := pipeline`, `$i, $x := pipeline` or a pipeline; what is declared is known within the block."""
        names: list[str] = []
        start = self._at
        while (token := self.peek()) is not None and token.kind == "variable":
            self._at += 1
            names.append(str(token.value))
            if self.take_mark(","):
                continue
            if self.take_mark(":="):
                break
            names, self._at = [], start
            break
        if len(names) > names_max:
            self.refuse(f"expected at most {names_max} variables, got {len(names)}")
        pipeline = self.read_pipeline()
        self.expect_end()
        inner.update(names)
        return tuple(names), pipeline

    def read_pipeline(self) -> nodes.Pipeline:
        """Up to the end of the action, or to the parenthesis that closes it."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self.refuse(f"parentheses are nested deeper than {DEPTH_MAX}")
        commands = [self._read_command(first=True)]
        while self.take_mark("|"):
            commands.append(self._read_command(first=False))
        self._depth -= 1
        return nodes.Pipeline(tuple(commands), self._line)

    def _read_command(self, *, first: bool) -> nodes.Command:
        word = self.peek_word()
        function = ""
        if word is not None and word not in _CONSTANTS:
            self._check_function(word)
            function = word
            self.take()
        operands: list[nodes.Operand] = []
        while (token := self.peek()) is not None and not (token.kind == "mark" and token.value in ("|", ")")):
            if token.close and self._at and operands:
                self.refuse(f"expected a space before {_show(token)}")
            operands.append(self._read_operand())
        if function:
            return nodes.Command(function, tuple(operands))
        if not operands:
            self.refuse("expected a value, got nothing")
        if not first:
            self.refuse("only a function can take a value from a pipeline")
        if operands[0] == nodes.Constant(None):
            self.refuse("nil is no value of its own")
        if len(operands) > 1:
            self.refuse("only a function can have arguments")
        return nodes.Command("", (operands[0],))

    def _read_operand(self) -> nodes.Operand:
        token = self.take()
        operand: nodes.Operand
        match token.kind, token.value:
            case "constant", value:
                return nodes.Constant(value)
            case "word", str(word):
                if word not in _CONSTANTS:
                    # A function without arguments, as an argument: only in parentheses could it have some.
                    self._check_function(word)
                    return nodes.Pipeline((nodes.Command(word, ()),), self._line)
                return nodes.Constant(_CONSTANTS[word])
            case "field", str(name):
                return nodes.Fields(nodes.Dot(), (name, *self._read_fields()))
            case "variable", str(name):
                self._check_variable(name)
                operand = nodes.Variable(name)
            case "mark", ".":
                return nodes.Dot()
            case "mark", "(":
                operand = self.read_pipeline()
                if not self.take_mark(")"):
                    self.refuse("a parenthesis is not closed")
            case _:
                self.refuse(f"{_show(token)} is not expected here")
        names = self._read_fields()
        return nodes.Fields(operand, names) if names else operand

    def _read_fields(self) -> tuple[str, ...]:
        names: list[str] = []
        while (token := self.peek()) is not None and token.kind == "field" and token.close:
            names.append(str(self.take().value))
        return tuple(names)

    def _check_function(self, name: str) -> None:
        if name in _KEYWORDS:
            self.refuse(f"{name} is not expected here")
        if name not in self._functions:
            self.refuse(f"unknown function {name} (known: {', '.join(sorted(self._functions))})")

    def _check_variable(self, name: str) -> None:
        if name not in self.variables:
            self.refuse(f"unknown variable ${name}")


def _show(token: lexer.Token) -> str:
    prefix = {"field": ".", "variable": "$"}.get(token.kind, "")
    return f"{prefix}{token.value}"
