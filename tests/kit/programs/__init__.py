"""Programs of the kit: real MCP servers and clients, each run as a process in the environment of its own SDK.

Nothing here is imported by the tests; `backends.py` and `clients.py` start these files by path. What an SDK line does
its own way is in its `dialect_*` file; what is common is in `server.py`, `tools.py`, `driver.py` (Python) and
`driver.mjs` (JavaScript).
"""
