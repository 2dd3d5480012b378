"""The house rules, as tests: what a reviewer would otherwise have to say twice.

Everything is real: the tree as it lies here, and ruff, mypy, stubtest and import-linter as subprocesses with the
settings of pyproject.toml. The tools look at folders, this file's own tests at what belongs to the project. Rules of
thumb that a file may break for a reason have a table with that reason; a reason that is no longer needed fails too.
Not covered: whether names are good ones.
"""

import ast
import functools
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests import tree

BIN = pathlib.Path(sys.executable).parent
TOOL_SECONDS_MAX = 300

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# What is longer, and why there is no seam in it. A path, or `path:function`.
LONGER: dict[str, str] = {
    "tests/vmcp/composite/cases.py": "one table, a row for each thing that a composite tool can do",
    "ext/exchange.pyx": "one class, which Cython cannot spread over files: its state and the story's verbs; what "
    "happens to it is in lifecycle, request_body and answer_body",
    "ext/http1.pyx": "the scan of heads: tables, names, fields, two first lines; half of it is the law it fires",
    "ext/reactor.pyx": "one class, which Cython cannot spread over files: epoll, listening, backends, counters",
}

# Where `except Exception` is right: the outermost loops, whose last duty is to say what happened and go on.
OUTERMOST_LOOPS: dict[str, str] = {
    "fastproxy/vmcp/story.py": "one exchange; a fault costs that connection",
    "fastproxy/vmcp/discovery.py": "one backend's discovery; a fault costs one round, not the backend for ever",
    "fastproxy/operator/program.py": "one look at one resource; a fault costs that resource its turn",
    "fastproxy/proxy/bridge/server.py": "one exchange with a stdio server; a fault costs that connection",
    "fastproxy/proxy/admin.py": "one page of the admin address; a fault costs that connection",
    "fastproxy/proxy/story.py": "one exchange; a fault costs that connection",
}

# Files outside the sans-io rooms (those have an import-linter contract) that are pure all the same.
PURE_FILES = (
    "fastproxy/session/record.py",
    "fastproxy/session/outcome.py",
    "fastproxy/routing/backend.py",
    "fastproxy/routing/decide.py",
    "fastproxy/routing/health.py",
    "fastproxy/vmcp/breaker.py",
    "fastproxy/vmcp/bridge.py",
    "fastproxy/stdio/lines.py",
    "fastproxy/stdio/message.py",
    "fastproxy/stdio/ledger.py",
    "fastproxy/stdio/eras.py",
    "fastproxy/proxy/bridge/mirrored.py",
    "fastproxy/vmcp/catalog.py",
    "fastproxy/vmcp/events.py",
    "fastproxy/vmcp/health.py",
    "fastproxy/vmcp/inquiries.py",
    "fastproxy/vmcp/lists.py",
    "fastproxy/vmcp/mirrors.py",
    "fastproxy/vmcp/naming.py",
    "fastproxy/vmcp/offers.py",
    "fastproxy/vmcp/outgoing.py",
    "fastproxy/vmcp/paging.py",
    "fastproxy/vmcp/presentation.py",
    "fastproxy/vmcp/templates.py",
    "fastproxy/vmcp/composite.py",
    "fastproxy/operator/adoption.py",
    "fastproxy/operator/conditions.py",
    "fastproxy/operator/crd.py",
    "fastproxy/operator/definitions.py",
    "fastproxy/operator/inject.py",
    "fastproxy/operator/manifest.py",
    "fastproxy/operator/mirror.py",
    "fastproxy/operator/overlay.py",
    "fastproxy/operator/parts.py",
    "fastproxy/operator/pod.py",
    "fastproxy/operator/proxies.py",
    "fastproxy/operator/remote_proxy.py",
    "fastproxy/operator/render.py",
    "fastproxy/operator/review.py",
    "fastproxy/operator/rights.py",
    "fastproxy/operator/schema.py",
    "fastproxy/operator/server.py",
    "fastproxy/operator/storage.py",
    "fastproxy/operator/surroundings.py",
    "fastproxy/operator/virtual_server.py",
)
IMPURE_MODULES = {"asyncio", "hiredis", "lightkube", "redis", "select", "socket", "ssl", "threading", "time", "uvloop"}
OPERATOR_MAY_IMPORT = {"operator", "config", "errors", "limits", "telemetry"}
VAGUE_NAME = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)(_|$)|\d$")
FEWEST_WORDS_OF_A_SENTENCE = 4

# Assembled, so that this file does not hold what it looks for.
FOLDERS_OF_A_MACHINE = ("work", "farm", "root", "opt/pypi", "opt/wheels")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:" + "|".join(FOLDERS_OF_A_MACHINE) + r")(?:/|\b)")
REGISTRY_HOST = re.compile(
    r"\b(?:"
    + "|".join((r"pypi\.", r"pythonhosted\.", r"registry\.npmjs\.", r"npmjs\.", r"docker\.", r"ghcr\.", r"quay\."))
    + r")(?:org|com|io)\b"
)


def files(*suffixes: str, under: str = "") -> list[pathlib.Path]:
    return [path for path in tree.files() if path.suffix in suffixes and tree.name_of(path).startswith(under)]


@functools.cache
def syntax_of(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports_of(path: pathlib.Path) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """(module, names, line); `import a.b` has no names."""
    for node in ast.walk(syntax_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, (), node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, tuple(alias.name for alias in node.names), node.lineno


def functions_of_python(path: pathlib.Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(syntax_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


CYTHON_FUNCTION = re.compile(
    r"(\s*)(?:async\s+)?(?:def|cdef|cpdef)\s+(?!class\b|struct\b|enum\b|union\b|extern\b)[^=(]*?(\w+)\s*\("
)


def functions_of_cython(path: pathlib.Path) -> Iterator[tuple[str, int]]:
    """By indentation: a head that ends in a colon, and all that is indented deeper."""
    lines = path.read_text().splitlines()
    for first, line in enumerate(lines):
        match = CYTHON_FUNCTION.match(line)
        if match is None:
            continue
        body = first
        while body < len(lines) - 1 and lines[body].split("#")[0].count("(") and not closes(lines[first : body + 1]):
            body += 1
        if not lines[body].split("#")[0].rstrip().endswith(":"):
            continue  # a variable with a call on its right, or a declaration
        last = body
        for number in range(body + 1, len(lines)):
            if lines[number].strip() and len(lines[number]) - len(lines[number].lstrip()) <= len(match[1]):
                break
            last = number if lines[number].strip() else last
        yield match[2], last - first + 1


def closes(lines: list[str]) -> bool:
    text = "\n".join(line.split("#")[0] for line in lines)
    return text.count("(") == text.count(")")


def run_tool(*command: str) -> None:
    """A tool of the development environment; its report is the failure's text."""
    result = subprocess.run(
        command, cwd=tree.ROOT, capture_output=True, text=True, timeout=TOOL_SECONDS_MAX, check=False
    )
    if result.returncode:
        pytest.fail(f"{' '.join(command[1:])}\n{result.stdout}{result.stderr}", pytrace=False)


def fail_on(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def unexplained(found: dict[str, str], reasons: dict[str, str]) -> list[str]:
    """`found`: what to print → its key in `reasons`. A reason for what is no longer found is a problem as well."""
    problems = [f"{text}: no reason is listed" for text, key in found.items() if key not in reasons]
    return problems + [f"{key}: its reason is no longer needed" for key in reasons.keys() - set(found.values())]


def test_imports_go_downwards_only_and_the_pure_rooms_stay_pure() -> None:
    run_tool(str(BIN / "lint-imports"), "--no-logo")


def test_ruff_finds_nothing_to_say() -> None:
    run_tool(sys.executable, "-m", "ruff", "check", "--quiet", ".")


def test_mypy_is_content_in_strict_mode() -> None:
    run_tool(sys.executable, "-m", "mypy", "--no-error-summary")


def test_cython_has_no_warnings_for_us(tmp_path: pathlib.Path) -> None:
    target = str(tmp_path / "core.c")
    run_tool(str(BIN / "cython"), "-3", "-Werror", "ext/core.pyx", "--output-file", target)


def test_every_door_of_the_compiled_part_stands_in_its_stub_and_nothing_else_does(tmp_path: pathlib.Path) -> None:
    allowed = tmp_path / "allowed"
    # Cython gives a class's constructor no signature that can be looked at.
    allowed.write_text(r"fastproxy\._ext\.\w+\.\w+\.__(init|new)__" + "\n")
    options = ["--concise", "--ignore-unused-allowlist", "--allowlist", str(allowed)]
    run_tool(sys.executable, "-m", "mypy.stubtest", "--mypy-config-file", "pyproject.toml", *options, "fastproxy._ext")


def test_no_file_is_longer_than_a_reader_likes_without_a_reason() -> None:
    lengths = {tree.name_of(path): len(path.read_text().splitlines()) for path in files(".py", ".pyx", ".pxd", ".c")}
    longer = {f"{name} ({lines} lines)": name for name, lines in lengths.items() if lines > FILE_LINES_MAX}
    fail_on(unexplained(longer, {name: LONGER[name] for name in LONGER if ":" not in name}))


def test_no_function_is_longer_than_a_screen_without_a_reason() -> None:
    longer = {}
    for path in files(".py", ".pyx"):
        functions = functions_of_python(path) if path.suffix == ".py" else functions_of_cython(path)
        for name, lines in functions:
            if lines > FUNCTION_LINES_MAX:
                longer[f"{tree.name_of(path)}:{name} ({lines} lines)"] = f"{tree.name_of(path)}:{name}"
    fail_on(unexplained(longer, {name: LONGER[name] for name in LONGER if ":" in name}))


def test_functions_of_cython_are_measured_by_indentation(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "sample.pyx"
    source.write_text(
        "cdef int size = len(x)\n"
        "cdef class Table:\n"
        "    cdef int find(self, int a,\n"
        "                  int b) noexcept nogil:  # why\n"
        "        return a\n"
        "\n"
        "        # last\n"
        "    def used(self):\n"
        "        cdef int n = count(1)\n"
        "        return n\n"
        "cdef inline int declared(int a)\n"
        "cpdef bytes cut(bytes a):\n"
        "    return a\n"
    )
    assert list(functions_of_cython(source)) == [("find", 5), ("used", 3), ("cut", 2)]


def test_every_module_says_in_its_docstring_what_it_does() -> None:
    python = [
        tree.name_of(path) for path in files(".py") if syntax_of(path).body and not ast.get_docstring(syntax_of(path))
    ]
    cython = [tree.name_of(path) for path in files(".pyx") if not path.read_text().lstrip().startswith(('"""', "#"))]
    fail_on([f"{name}: no docstring" for name in python + cython])


def test_names_of_files_are_nouns_that_mean_something() -> None:
    paths = files(".py", ".pyx", under="fastproxy/") + files(".pyx", under="ext/")
    # http1 is the protocol's own name.
    fail_on(
        [f"{tree.name_of(path)}: vague name" for path in paths if path.stem != "http1" and VAGUE_NAME.search(path.stem)]
    )


def test_names_of_tests_are_sentences() -> None:
    problems = []
    for path in files(".py", under="tests/"):
        for node in ast.walk(syntax_of(path)):
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if is_test and len(node.name.split("_")) < FEWEST_WORDS_OF_A_SENTENCE:
                problems.append(f"{tree.name_of(path)}:{node.lineno}: {node.name} is no sentence")
    fail_on(problems)


def test_modules_not_names_are_imported_across_rooms() -> None:
    problems = []
    for path in files(".py", under="fastproxy/"):
        own_room = path.relative_to(tree.ROOT / "fastproxy").parts[0]
        for module, names, line in imports_of(path):
            room = module.removeprefix("fastproxy.").split(".")[0]
            if not module.startswith("fastproxy.") or room == own_room:
                continue
            if (tree.ROOT / module.replace(".", "/")).with_suffix(".py").exists():
                problems.append(
                    f"{tree.name_of(path)}:{line}: from {module} import {', '.join(names)}: import the module"
                )
    fail_on(problems)


def test_pure_files_import_neither_sockets_nor_clocks() -> None:
    problems = []
    for path in (tree.ROOT / name for name in PURE_FILES):
        if path.exists():
            problems += [
                f"{tree.name_of(path)}:{line}: imports {module}"
                for module, _, line in imports_of(path)
                if module.split(".")[0] in IMPURE_MODULES
            ]
    fail_on(problems)


def test_the_operator_knows_nothing_of_the_data_plane() -> None:
    problems = []
    for path in files(".py", under="fastproxy/operator/"):
        for module, names, line in imports_of(path):
            house, _, room = module.partition(".")
            rooms = {room.split(".")[0]} if room else set(names)
            if house == "fastproxy":
                problems += [f"{tree.name_of(path)}:{line}: imports {room}" for room in rooms - OPERATOR_MAY_IMPORT]
    fail_on(problems)


def test_only_the_outermost_loops_catch_everything() -> None:
    found = {}
    for path in files(".py", under="fastproxy/"):
        for node in ast.walk(syntax_of(path)):
            if isinstance(node, ast.ExceptHandler) and catches_everything(node.type) and not raises_again(node):
                found[f"{tree.name_of(path)}:{node.lineno} catches everything"] = tree.name_of(path)
    fail_on(unexplained(found, OUTERMOST_LOOPS))


def catches_everything(expression: ast.expr | None) -> bool:
    names = expression.elts if isinstance(expression, ast.Tuple) else [expression]
    return any(not name or (isinstance(name, ast.Name) and name.id in ("Exception", "BaseException")) for name in names)


def raises_again(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))


def test_nothing_in_the_tree_names_a_machine_or_a_registry() -> None:
    problems = []
    for path in tree.files():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            if found := names_what_it_must_not(line):
                problems.append(f"{tree.name_of(path)}:{number}: {found[0]}")
    fail_on(problems)


def test_no_commit_names_a_machine_or_a_registry() -> None:
    problems = [f"a commit's message: {line}" for line in tree.messages() if names_what_it_must_not(line)]
    fail_on(problems)


def names_what_it_must_not(line: str) -> re.Match[str] | None:
    return MACHINE_PATH.search(line) or REGISTRY_HOST.search(line)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        pytest.param("cd /" + "work/main", MACHINE_PATH, id="checkout"),
        pytest.param("see '/" + "root/.cache'", MACHINE_PATH, id="home"),
        pytest.param("https://" + "pypi" + ".org/simple", REGISTRY_HOST, id="python"),
        pytest.param("registry" + ".npmjs." + "org", REGISTRY_HOST, id="node"),
    ],
)
def test_the_words_looked_for_would_be_found(text: str, pattern: re.Pattern[str]) -> None:
    assert pattern.search(text)


def test_work_that_is_not_finished_is_not_in_the_tree() -> None:
    words = re.compile("|".join(rf"\b{word}\b" for word in ("TO" + "DO", "FIX" + "ME", "X" + "XX")))
    problems = []
    for path in files(".py", ".pyx", ".pxd", ".pyi", ".c", ".md", ".toml"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if found := words.search(line):
                problems.append(f"{tree.name_of(path)}:{number}: {found[0]}")
    fail_on(problems)
