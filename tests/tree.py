"""What belongs to the project, as files: for the tests of the house and of its packaging.

git knows; where there is no git (an unpacked archive, a copied folder), it is everything but what tools leave behind.
"""

import functools
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[1]
LEFT_BEHIND = {"build", "dist", "node_modules", "__pycache__"}  # and all that begins with a dot, but .ci and files


@functools.cache
def files() -> tuple[pathlib.Path, ...]:
    """Absolute paths, sorted."""
    names = tracked() or walked()
    return tuple(sorted(path for path in (ROOT / name for name in names) if path.is_file()))


def tracked() -> list[str]:
    return [name for name in ask_git("ls-files", "-z").split("\0") if name]


def messages() -> list[str]:
    """Every line of every commit's message; of a clone without history, what there is."""
    return ask_git("log", "--format=%B").splitlines()


def ask_git(*question: str) -> str:
    """Empty where git or its folder is missing or out of reach, or where git does not trust who owns it."""
    try:
        answer = subprocess.run(["git", *question], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def walked() -> list[str]:
    names = []
    for folder, below, here in os.walk(ROOT):
        below[:] = [name for name in below if name == ".ci" or not (name[0] == "." or name in LEFT_BEHIND)]
        below[:] = [name for name in below if not name.endswith(".egg-info")]
        names += [
            os.path.relpath(os.path.join(folder, name), ROOT) for name in here if not name.endswith((".so", ".pyc"))
        ]
    return names


def name_of(path: pathlib.Path) -> str:
    """As written in a message: relative, with slashes."""
    return path.relative_to(ROOT).as_posix()
