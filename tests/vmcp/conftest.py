"""Tests of vMCP: those that are coroutines run on uvloop, as the product does."""

from tests.kit.coroutines import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]
