"""Templates in the syntax of Go's text/template, as definitions of composite tools are written.

    text ─ lexer.py ─> pieces ─ parser.py ─> nodes (nodes.py) ─ evaluator.py, functions.py ─> text

The subset: fields, pipelines, variables, if/else/range/with, break and continue, comparison and logic, print, printf,
println, len, index, slice, json, quote, fromJson. The values are JSON's. Nothing but the context can be reached, and
depth, work and output are bounded. A value that is not there is falsy where one asks for it, and an error where it is
used; numbers compare by value.

Of the libraries, bindings to Go need its compiler where they are installed, and gotpl, which bounds a run too, was at
0.1.0 and "planning" when this was written.
"""

from fastproxy.vmcp.composite.template.evaluator import Template, parse
from fastproxy.vmcp.composite.template.nodes import TemplateError

__all__ = ["Template", "TemplateError", "parse"]
