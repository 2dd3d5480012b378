"""What a user gets from `pip install`, and what set-up says when something is missing.

Real: the sdist built by the project's own build back end from a copy of the tracked files, a wheel compiled from the
unpacked sdist by the C compiler of this machine, a fresh virtualenv with that wheel, make and the preflight script as
processes. The fresh virtualenv sees the dependencies of the one that runs this test, so that nothing is downloaded.
Not covered: installing the dependencies themselves, which `make test` has just done. `-m "not slow"` leaves it out.
"""

import email.parser
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile

import pytest

from tests import tree

PROJECT = tomllib.loads((tree.ROOT / "pyproject.toml").read_text())["project"]
BUILD_SECONDS_MAX = 300


def run(*command: str | pathlib.Path, cwd: pathlib.Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS_MAX,
        check=False,
    )


def build(kind: str, source: pathlib.Path, into: pathlib.Path) -> pathlib.Path:
    """The one archive of that kind that the project's back end makes of `source`."""
    result = run(sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", into, source, cwd=into)
    assert result.returncode == 0, result.stdout + result.stderr
    (archive,) = into.iterdir()
    return archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """From what a clean clone holds, under a path with a space."""
    clone = tmp_path_factory.mktemp("a clone")
    for path in tree.files():
        copy = clone / tree.name_of(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    return build("sdist", clone, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def source(sdist: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The sdist, unpacked."""
    unpacked = tmp_path_factory.mktemp("an unpacked sdist")
    shutil.unpack_archive(sdist, unpacked)
    (folder,) = unpacked.iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(source: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Compiled from the sdist alone."""
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of programs of a fresh virtualenv with the wheel, on a machine without a compiler."""
    home = tmp_path_factory.mktemp("a fresh environment")
    venv.create(home, with_pip=False, symlinks=True)
    programs = home / "bin"
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    result = run(*command, cwd=home, CC="/nonexistent/cc")
    assert result.returncode == 0, result.stdout + result.stderr
    packages = sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)})
    (pathlib.Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


@pytest.mark.slow
def test_the_sdist_holds_every_source_that_the_extension_is_made_of(sdist: pathlib.Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        path.relative_to(tree.ROOT).as_posix()
        for path in (tree.ROOT / "ext").iterdir()
        if path.suffix in (".pyx", ".pxd", ".pxi", ".h")
    }
    assert wanted, "ext/ is empty"
    assert wanted | {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= names
    assert not [name for name in names if name.startswith("tests/")]


@pytest.mark.slow
def test_the_wheel_holds_the_compiled_part_its_stub_and_no_source_of_it(wheel: pathlib.Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "fastproxy/_ext/core" + sysconfig.get_config_var("EXT_SUFFIX") in names
    assert {"fastproxy/_ext/core.pyi", "fastproxy/py.typed"} <= set(names)
    assert not [
        name for name in names if name.endswith((".pyx", ".pxd", ".pxi", ".c")) or name.startswith(("ext/", "tests/"))
    ]


@pytest.mark.slow
def test_the_wheel_says_what_it_needs_and_under_which_license(wheel: pathlib.Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.parser.Parser().parsestr(archive.read(name).decode())
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    assert metadata["License-Expression"] == PROJECT["license"]
    needed = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needed == set(PROJECT["dependencies"])


@pytest.mark.slow
def test_the_installed_program_runs_from_its_own_folder_alone(installed: pathlib.Path) -> None:
    code = "import fastproxy._ext.core as core; print(core.__file__)"
    result = run(installed / "python", "-c", code, cwd=installed)
    assert pathlib.Path(result.stdout.strip()).is_relative_to(installed.parent), result.stdout + result.stderr


@pytest.mark.slow
def test_console_script_and_module_tell_the_same_version(installed: pathlib.Path) -> None:
    script = run(installed / "fastproxy", "--version", cwd=installed)
    module = run(installed / "python", "-m", "fastproxy", "--version", cwd=installed)
    assert script.returncode == module.returncode == 0, script.stderr + module.stderr
    assert PROJECT["version"] in script.stdout
    assert script.stdout.split()[-1] == module.stdout.split()[-1]


@pytest.mark.slow
def test_the_dependencies_that_are_named_are_all_that_it_needs(installed: pathlib.Path) -> None:
    """`pip check` of the fresh environment: each named dependency is there, in a version that is allowed."""
    result = run(sys.executable, "-m", "pip", "--python", installed / "python", "check", cwd=installed)
    assert "fastproxy" not in result.stdout, result.stdout


# What set-up says when something is missing: one line, and what to do.


@pytest.fixture
def tools(tmp_path: pathlib.Path) -> pathlib.Path:
    """A PATH with a shell's everyday programs, and neither a Python nor a compiler."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("sh", "head", "mktemp", "rm", "dirname", "env"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def install(tools: pathlib.Path, name: str, script: str) -> None:
    """A program that answers like a machine on which something is amiss."""
    (tools / name).write_text(f"#!/bin/sh\n{script}\n")
    (tools / name).chmod(0o755)


def preflight(*arguments: str, path: pathlib.Path, **environment: str) -> str:
    """The one line that the refused preflight prints."""
    command = ["/bin/sh", tree.ROOT / ".ci" / "preflight", *arguments]
    result = run(*command, cwd=path.parent, PATH=str(path), **environment)
    assert result.returncode == 1, result.stdout + result.stderr
    (line,) = result.stderr.splitlines()
    assert not result.stdout
    return line


def test_a_missing_python_is_said_in_one_line(tools: pathlib.Path) -> None:
    assert "Python 3.11 or newer is needed; none was found" in preflight("venv", "made", path=tools)


def test_a_python_that_is_too_old_is_named_in_one_line(tools: pathlib.Path) -> None:
    install(tools, "python3", 'case "$1" in --version) echo Python 3.9.2 ;; *) exit 1 ;; esac')
    assert "found only python3 (Python 3.9.2)" in preflight("venv", "made", path=tools)


def test_a_missing_venv_module_is_said_in_one_line(tools: pathlib.Path) -> None:
    install(tools, "python3", f'case "$2" in *ensurepip*) exit 1 ;; esac\nexec "{sys.executable}" "$@"')
    assert "the venv module of python3 is missing" in preflight("venv", "made", path=tools)
    assert not (tools.parent / "made").exists()


def test_a_missing_compiler_is_said_in_one_line(tools: pathlib.Path) -> None:
    assert "no C compiler: no-such-cc was not found" in preflight(
        "compiler", sys.executable, path=tools, CC="no-such-cc"
    )


def test_missing_python_headers_are_said_in_one_line(tools: pathlib.Path) -> None:
    install(tools, "cc", "exit 0")
    install(tools, "python3", f'case "$2" in *include*) echo /nonexistent ;; *) exec "{sys.executable}" "$@" ;; esac')
    assert "no Python.h" in preflight("compiler", "python3", path=tools, CC="cc")


def test_a_compiler_that_cannot_link_is_said_in_one_line(tools: pathlib.Path) -> None:
    install(tools, "cc", "echo 'cannot find crt1.o' >&2; exit 1")
    assert "can't build a program" in preflight("compiler", sys.executable, path=tools, CC="cc")


def test_a_port_in_use_ends_make_run_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run(sys.executable, tree.ROOT / "deploy" / "demo" / "run.py", "--listen", address, cwd=tree.ROOT)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"{address} is in use" in line


@pytest.mark.slow
def test_a_second_build_with_nothing_changed_compiles_nothing(source: pathlib.Path, wheel: pathlib.Path) -> None:
    assert wheel.exists()  # the first build, in the folder of `source`
    (library,) = source.glob("build/lib*/fastproxy/_ext/core*.so")
    made = library.stat().st_mtime_ns
    result = run(sys.executable, "setup.py", "--quiet", "build_ext", cwd=source)
    assert result.returncode == 0, result.stdout + result.stderr
    assert library.stat().st_mtime_ns == made
