"""`python -m bench.plot FILE`: draws a results file, PNG files beside it.

Matplotlib is too large a guest for the project's environment: it lives in the bench's own (compare/install.sh), and
the drawing (figures.py) runs there.
"""

import importlib.util
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BENCH_PYTHON = ROOT / ".cache" / "bench" / "bin" / "python"


def main() -> int:
    if len(sys.argv) != 2 or not pathlib.Path(sys.argv[1]).is_file():
        print("usage: python -m bench.plot FILE (a results file of python -m bench)", file=sys.stderr)
        return 2
    python = sys.executable if importlib.util.find_spec("matplotlib") else str(BENCH_PYTHON)
    if not pathlib.Path(python).exists():
        print("bench.plot: matplotlib is not installed (bench/compare/install.sh)", file=sys.stderr)
        return 1
    file = pathlib.Path(sys.argv[1]).resolve()
    return subprocess.run([python, "-m", "bench.figures", str(file)], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
