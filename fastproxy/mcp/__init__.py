"""Events to meaning: what an MCP message asks for. Sans-io. Only revision.py compares protocol dates."""
