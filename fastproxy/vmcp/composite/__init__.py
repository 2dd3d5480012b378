"""Composite tools: a tool of ours that is a graph of calls to backends' tools, questions to the user, and loops.

definition.py   what the owner wrote, as structs
template/       Go text/template as existing definitions use it, sandboxed
validation.py   everything that is wrong with a definition, in one answer
graph.py        which steps may begin now (pure)
runner.py       one run of a workflow
advertising.py  when a composite tool is shown, and how
"""
