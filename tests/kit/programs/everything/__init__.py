"""A dual-era MCP server of our own with every tool, prompt and resource that the official conformance scenarios call.

Run it with `python -m everything --port 0`, this folder's parent as the working directory, in an environment that
holds `mcp==2.3.0`. It binds 127.0.0.1 only and prints its address as its first line. Replicas are simply more
processes: they share nothing, on purpose, so that a request which reaches the wrong one is noticed.

    __main__ → server → tools, input_required, prompts, resources   (each a table of name → function)
                  ↓
                stage: what this process remembers · content: sample bytes, short spellings · events: the replay log

It stands on the SDK's low-level server, so that each schema and each result is on the wire exactly as it is written
here.
"""
