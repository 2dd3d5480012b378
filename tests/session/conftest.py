"""The tests of this room may be coroutines, on uvloop."""

from tests.kit.coroutines import pytest_pyfunc_call  # noqa: F401
