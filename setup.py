"""Compiles ext/ into fastproxy._ext.core, nothing else; metadata lives in pyproject.toml.

One extension, whose root file includes the others: the scanner, the table and the relay call each other as C
functions, and there is no .pxd to lose between a flat ext/ and a dotted module name.
FASTPROXY_DEBUG=1 builds with assertions, bounds checks and -O0; FASTPROXY_SANITIZE=address adds the sanitizer.
FASTPROXY_WITHOUT_EXTENSION=1 leaves it out: an editable installation would compile it from nothing every time, where
`make` has it compiled in place, and again only when a source has changed.
"""

import os
import pathlib

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

DEBUG = os.environ.get("FASTPROXY_DEBUG") == "1"
WITHOUT_EXTENSION = os.environ.get("FASTPROXY_WITHOUT_EXTENSION") == "1"
SANITIZE = os.environ.get("FASTPROXY_SANITIZE", "")
PATTERNS = ("*.pyx", "*.pxd", "*.pxi", "*.h")
SOURCES = sorted(str(path) for pattern in PATTERNS for path in pathlib.Path("ext").glob(pattern))

if DEBUG:
    compile_args = ["-O0", "-g", "-UNDEBUG"]
else:
    compile_args = ["-O3", "-g0", "-fno-strict-aliasing", "-DCYTHON_WITHOUT_ASSERTIONS"]
compile_args += ["-Wno-sign-compare"]  # Cython counts up to an enum with an int
link_args = []
if SANITIZE:
    compile_args += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={SANITIZE}"]

# Ours to mend, in the debug build: a newer Cython with new warnings must not break somebody's installation.
Options.warning_errors = DEBUG

extension = Extension(
    "fastproxy._ext.core",
    ["ext/core.pyx"],
    depends=SOURCES,
    include_dirs=["ext"],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
)
directives = {
    "language_level": "3",
    "binding": False,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "autotestdict": False,  # no `__test__` at the door
}
modules = [] if WITHOUT_EXTENSION else [extension]
setup(ext_modules=cythonize(modules, build_dir="build/cython", quiet=True, compiler_directives=directives))
