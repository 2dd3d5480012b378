"""fastproxy: the session-aware proxy for MCP servers.

Rooms, bottom to top (imports go downwards only): `_ext` and `wire` know bytes, `mcp` knows what a message means,
`config` what the owner wants, `session` what we remember, `routing` who answers, `proxy` awaits everything and
`cli` introduces them to each other.
"""

__version__ = "0.1.0"
