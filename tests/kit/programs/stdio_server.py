"""A real stdio server on an official Python SDK: `python stdio_server.py mcp1|mcp2`, with the tools of `tools.py`."""

import importlib
import sys
import typing

import tools


def main(dialect_name: str) -> None:
    dialect: typing.Any = importlib.import_module(f"dialect_{dialect_name}")
    server = dialect.build_stdio()
    tools.add(server, dialect)
    server.run("stdio")


if __name__ == "__main__":
    main(sys.argv[1])
