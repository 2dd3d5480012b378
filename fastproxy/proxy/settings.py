"""What follows the configuration while the process runs: one door for each, and the order in which they are taken.

Nothing under way is touched: requests keep their deadlines, connections and sessions their replicas. Settings that
need a restart (config/schema.py) are not looked at here.
"""

import ssl

from fastproxy import errors
from fastproxy.config import schema
from fastproxy.proxy import guard, plane, probing


def load_backend_trust(config: schema.ServeConfig) -> ssl.SSLContext:
    """What https replicas are verified with. StartError: the file can't be used."""
    try:
        return ssl.create_default_context(cafile=config.backend_ca)
    except (OSError, ssl.SSLError) as error:
        raise errors.StartError(f"cannot use --backend-ca: {error}") from error


def apply(target: plane.Plane, config: schema.ServeConfig) -> None:
    """From now on this holds. StartError: it can't, and nothing has changed."""
    trust = load_backend_trust(config)
    target.config = config
    reactor = target.reactor
    reactor.set_seconds(
        header_seconds=config.header_timeout,
        body_seconds=config.body_timeout,
        idle_seconds=config.idle_timeout,
        connect_seconds=config.connect_timeout,
        response_seconds=config.response_timeout,
    )
    reactor.head_bytes_max = config.max_header
    reactor.body_bytes_max = config.max_body
    reactor.replay_bytes_max = config.replay_body
    reactor.logs_access = config.access_log
    target.guard = guard.of_data(config)
    target.story.set_rules(gate=target.guard, on_backend_loss=config.on_backend_loss)
    target.inquiry.set_bounds(replay_bytes_max=config.replay_body, response_seconds=config.response_timeout)
    target.admission.set_bounds(
        requests_per_backend_max=config.max_requests_per_backend,
        new_sessions_per_second=config.max_new_sessions_per_second,
    )
    for endpoint in target.endpoints.values():
        endpoint.calls_max = config.max_requests_per_backend
    target.prober.rules = probing.rules_of(config)
    target.trust_backends(trust)
    target.backends.set_policy(config.policy)
    if config.backend:  # else a stdio server is bridged, whose port stays
        target.discovery.configure(config.backend)
        target.offer_replicas()
