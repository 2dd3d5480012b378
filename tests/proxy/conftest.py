"""What the tests of the relay share: two proxies, with and without the fast lane, in front of one scripted backend."""

from collections.abc import Iterator

import pytest

from tests.proxy import lanes as lanes_module


@pytest.fixture(scope="session")
def lanes() -> Iterator[lanes_module.Lanes]:
    """Both lanes with the default settings, for tests that need no flags of their own."""
    with lanes_module.lanes() as both:
        yield both
