"""Many MCP servers as one: what each of them offers, one catalog of it all, and a client's session over many of theirs.

offers.py, naming.py, templates.py, paging.py, lists.py and catalog.py are pure: from what backends say to what clients
see.
"""
