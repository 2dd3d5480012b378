"""HTTP in front of stdio servers: what makes a program on this machine a backend like any other.

    data plane --forward--> a port of the bridge --> session --> stdio.Host --> process

The bridge is a replica of the proxy's one MCP server, listening beside it: records, recovery, forwarding between
replicas of the proxy, drain and metrics are the data plane's, and need not know what answers here.
"""
