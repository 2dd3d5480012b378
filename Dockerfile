# Two stages: a compiler and its work stay in the first, the second holds Python, the wheel and its dependencies.
# A base by its digest: --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:…
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python3 -m venv /opt/fastproxy \
    && /opt/fastproxy/bin/python -m pip install --no-cache-dir '.[operator]'

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin fastproxy
COPY --from=build /opt/fastproxy /opt/fastproxy
ENV PATH=/opt/fastproxy/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    # In a container the loopback address would serve nobody; every flag has its variable, and a flag wins over it.
    FASTPROXY_LISTEN=0.0.0.0:8080 \
    FASTPROXY_ADMIN=0.0.0.0:9901
USER 10001:10001
EXPOSE 8080 9901
STOPSIGNAL SIGTERM
# Liveness only: a proxy that drains or has lost its store is not to be restarted. Ask /readyz for readiness.
HEALTHCHECK --interval=10s --timeout=2s --start-period=10s \
    CMD ["python3", "-c", "import os, urllib.request; port = os.environ['FASTPROXY_ADMIN'].rpartition(':')[2]; urllib.request.urlopen(f'http://127.0.0.1:{port}/healthz', timeout=2)"]
ENTRYPOINT ["fastproxy"]
