"""The bench: fastproxy and its peers under the same load, in one run, in alternating rounds.

`python -m bench` runs scenarios and writes one JSON file; `python -m bench.plot FILE` draws it.

    __main__.py   the command: which scenarios, which proxies, how long
    scenarios.py  what is measured, one row per name
    stage.py      one proxy with a backend behind it and a load in front, pinned to processors
    machine.py    what /proc says: processor time, memory, the machine itself
    report.py     medians, ratios, the table
    build.py      compiles the C parts
    load/         the load and the stub backend, in C: they must cost less than what they measure
    compare/      one file per rival: is it installed, how is it configured and started
    micro/        pytest-benchmark, no sockets

What holds still on a shared machine is processor time per request and the ratio of two proxies within one run;
requests per second and high percentiles wander. Every run counts errors and violations (an answer from a replica
that is not the session's): a figure with either of them is not a figure.
"""
