"""The table of settings against the public surface: names, defaults, and that whatever is shown can be read back."""

import pickle

import pytest

from fastproxy.config import address, load, schema, setting

# interface: one row per flag, with its default as /config shows it.
FLAGS = {
    "backend": [],
    "stdio_mode": "per-session",
    "stdio_max_processes": None,
    "stdio_spares": 0,
    "stdio_max_line": "16MiB",
    "stdio_address": None,
    "name": "default",
    "listen": "127.0.0.1:8080",
    "admin": "127.0.0.1:9901",
    "store": "memory:",
    "key_prefix": "fastproxy:{name}:session:",
    "session_ttl": "2h",
    "cache_sessions": 100000,
    "max_sessions": 1000000,
    "store_required": False,
    "policy": "least-sessions",
    "on_backend_loss": "reinitialize",
    "workers": 1,
    "drain_delay": "5s",
    "drain_timeout": "25s",
    "connect_timeout": "2s",
    "response_timeout": "5m",
    "header_timeout": "10s",
    "body_timeout": "30s",
    "idle_timeout": "2m",
    "replay_body": "256KiB",
    "max_body": "8MiB",
    "max_header": "32KiB",
    "max_connections": None,
    "max_requests_per_backend": 0,
    "max_new_sessions_per_second": 0,
    "allowed_host": [],
    "allowed_origin": [],
    "trusted_proxy": [],
    "tls_cert": None,
    "tls_key": None,
    "backend_ca": None,
    "access_log": False,
    "log_format": "text",
    "log_level": "info",
    "health_interval": "10s",
    "health_timeout": "2s",
    "health_threshold": 3,
    "config": None,
    "fast_lane": True,
}


def test_every_flag_of_the_public_surface_is_there_with_its_default_and_no_other() -> None:
    shown = schema.ServeConfig().effective()
    assert {name: shown[name] for name, row in schema.SETTINGS.items() if row.has_flag} == FLAGS


def test_flag_and_variable_follow_from_the_name() -> None:
    row = schema.SETTINGS["session_ttl"]
    assert (row.flag, row.variable) == ("--session-ttl", "FASTPROXY_SESSION_TTL")


@pytest.mark.parametrize("name", schema.SETTINGS)
def test_a_shown_default_reads_as_the_default(name: str) -> None:
    row = schema.SETTINGS[name]
    shown = row.show(row.default)
    if row.repeatable:
        assert shown == []
    elif shown is not None:
        assert row.kind.read(shown) == row.default


@pytest.mark.parametrize("name", schema.SETTINGS)
def test_every_setting_is_explained_in_lower_case_without_a_full_stop(name: str) -> None:
    row = schema.SETTINGS[name]
    assert row.subject in setting.SUBJECTS
    assert row.description and not row.description.endswith(".")


def test_what_config_answers_can_be_loaded_again() -> None:
    first = load.load(
        {
            "backend": ("http://[::1]:8000/base", "dns://mcp:80?srv=web", "statefulset://a.b.c:80?replicas=2"),
            "admin": "off",
            "listen": "[::1]:0",
            "session_ttl": "1.5s",
            "max_body": "1000",
            "trusted_proxy": ("10.0.0.0/8",),
            "allowed_host": ("a.b:80", "*"),
            "allowed_origin": ("https://a.b",),
            "access_log": True,
        },
        {},
    ).config
    flags = {name: tuple(shown) if isinstance(shown, list) else shown for name, shown in first.effective().items()}
    assert load.load(flags, {}).config == first


def test_no_secret_slips_out_of_a_configuration() -> None:
    config = load.load(
        {"backend": ("http://h:1",)},
        {"FASTPROXY_STORE": "redis://me@redis:6379/1", "FASTPROXY_REDIS_PASSWORD": "hunter2"},
    ).config
    assert config.store.password == config.redis_password == "hunter2"
    for text in (repr(config), str(config), f"{config}", str(config.effective()), str(config.__rich_repr__())):
        assert "hunter2" not in text
    assert config.effective()["store"] == "redis://me:***@redis:6379/1"
    assert config.effective()["redis_password"] == "***"


def test_a_configuration_is_frozen_comparable_and_can_be_sent_to_a_worker() -> None:
    config = load.load({"backend": ("http://h:1",), "trusted_proxy": ("10.0.0.0/8",)}, {}).config
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(AttributeError):
        config.listen = address.Address("::", 1)  # type: ignore[misc]
