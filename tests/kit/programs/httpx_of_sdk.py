"""The HTTP library of the SDK in this environment: httpx for 1.x, httpx2 for 2.x; one interface, two names."""

import importlib
import importlib.util
import typing

module: typing.Any = importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx")
