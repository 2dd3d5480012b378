"""Flags, environment and file brought together: which wins, what is wrong, and where it was written.

Files and certificates are real, the environment is a dictionary. Not covered: how a process says all this
(tests/test_cli.py).
"""

import pathlib

import hypothesis
import pytest
import trustme
from hypothesis import strategies

from fastproxy import errors
from fastproxy.config import address, backend, document, load, schema

ONE = {"backend": ("http://127.0.0.1:8000",)}


def find_problems(flags: dict[str, object] | None = None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(errors.ConfigError) as caught:
        load.load(flags or {}, environ or {})
    for problem in caught.value.problems:
        assert problem.isprintable(), "one line each"
    return caught.value.problems


def write(folder: pathlib.Path, text: str, name: str = "proxy.yaml") -> str:
    file = folder / name
    file.write_text(text)
    return str(file)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path, "name: from-file\npolicy: random\nworkers: 3\nbackend: [http://file:1]\n")
    environ = {"FASTPROXY_CONFIG": file, "FASTPROXY_NAME": "from-environment", "FASTPROXY_POLICY": "round-robin"}
    config = load.load({"name": "from-flag", "workers": None, "backend": ()}, environ).config
    assert (config.name, config.policy, config.workers) == ("from-flag", "round-robin", 3)
    assert config.backend == (backend.read_backend("http://file:1"),)
    assert config.config == file


def test_a_file_named_by_a_flag_wins_over_one_named_by_the_environment(tmp_path: pathlib.Path) -> None:
    one, other = write(tmp_path, "name: one", "one.yaml"), write(tmp_path, "name: other", "other.yaml")
    assert load.load(ONE | {"config": one}, {"FASTPROXY_CONFIG": other}).config.name == "one"


def test_several_values_come_by_repeated_flags_commas_or_a_list(tmp_path: pathlib.Path) -> None:
    expected = (backend.read_backend("http://a:1"), backend.read_backend("http://b:1"))
    file = write(tmp_path, '{"backend": ["http://a:1", "http://b:1"]}', "proxy.json")
    assert load.load({"backend": ("http://a:1", "http://b:1")}, {}).config.backend == expected
    assert load.load({}, {"FASTPROXY_BACKEND": "http://a:1, http://b:1,"}).config.backend == expected
    assert load.load({"config": file}, {}).config.backend == expected


def test_an_empty_variable_and_a_null_say_nothing(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path, "name:\nworkers: null\n")
    config = load.load(ONE | {"config": file}, {"FASTPROXY_NAME": "", "FASTPROXY_REDIS_PASSWORD": ""}).config
    assert (config.name, config.workers) == ("default", 1)


def test_the_name_is_put_into_the_prefix_and_other_braces_stay() -> None:
    assert load.load(ONE | {"name": "shop"}, {}).config.key_prefix == "fastproxy:shop:session:"
    config = load.load(ONE | {"name": "shop", "key_prefix": "{tag}:{name}:{{name}}:"}, {}).config
    assert config.key_prefix == "{tag}:shop:{shop}:"


def test_a_command_may_stand_where_backends_do(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path, "command: [python, server.py, --verbose]\n")
    assert load.load({"config": file}, {}).config.command == ("python", "server.py", "--verbose")
    assert load.load({"command": ("a", "-b")}, {}).config.command == ("a", "-b")


def test_every_problem_is_named_in_one_go_with_the_place_where_it_was_written(tmp_path: pathlib.Path) -> None:
    file = write(
        tmp_path,
        "backend: [http://a:1, ftp://b, http://c:0]\nsesion_ttl: 5s\nmaxBody: 1\nworkers: two\nname: 7\n"
        "access_log: maybe\nmax_header: [1]\nstore: {url: x}\ntrusted_proxy: 10.0.0.0/8\nname: 8\nconfig: x\n",
    )
    flags = {"config": file, "session_ttl": "5 parsecs", "allowed_host": ("a", "b/c")}
    environ = {"FASTPROXY_LISTEN": "nowhere", "FASTPROXY_TRUSTED_PROXY": "10.0.0.0/8,10.0.0.0/99"}
    problems = find_problems(flags, environ)
    places = [problem.removeprefix(f"{file}: ").partition(": ")[0] for problem in problems]
    assert sorted(places) == sorted(
        [
            *("name", "sesion_ttl", "maxBody", "config", "backend[1]", "backend[2]", "workers", "name", "access_log"),
            *("max_header", "store", "FASTPROXY_LISTEN", "--session-ttl", "--allowed-host[1]"),
            "FASTPROXY_TRUSTED_PROXY[1]",
        ]
    )
    assert f"{file}: sesion_ttl: unknown name (did you mean session_ttl?)" in problems
    assert f"{file}: maxBody: unknown name (did you mean max_body?)" in problems
    assert f"{file}: workers: expected a whole number of 1 to 256, got 'two'" in problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("backend: http://a:1", "backend: expected a list, got 'http://a:1'"),
        ("backend: {a: 1}", "backend: expected a list, got a section"),
        ("backend: [null]", "backend[0]: expected a URL, got nothing"),
        ("backend: [[http://a:1]]", "backend[0]: expected a URL, got a list"),
        ("listen: 8080", "listen: expected HOST:PORT, got 8080 (put it in quotes)"),
        ("session_ttl: true", "session_ttl: expected a duration such as 250ms, 5s, 30m or 2h, got true"),
        ("session-ttl: 5s", "session-ttl: unknown name (did you mean session_ttl?)"),
        ("7: x", "7: unknown name"),
        ("'a\\nb': x", "'a\\\\nb': unknown name"),
        ("redis_pasword: hunter2", "redis_pasword: unknown name (did you mean redis_password?)"),
        ("redis_password: 12345", "redis_password: expected text (a number has to be put in quotes)"),
    ],
)
def test_a_wrong_entry_of_a_file_is_named(tmp_path: pathlib.Path, text: str, problem: str) -> None:
    file = write(tmp_path, text)
    assert f"{file}: {problem}" in find_problems(ONE | {"config": file} if "backend" not in text else {"config": file})


def test_a_broken_file_does_not_hide_what_is_wrong_elsewhere_nor_invent_more(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path, "backend: [")
    problems = find_problems({"config": file, "workers": "0"})
    assert [problem.rpartition(": ")[0] for problem in problems][1:] == ["--workers"]
    assert problems[0].startswith(f"{file}: line 1, column 11: not YAML")


def test_a_virtual_servers_file_is_refused_by_name(tmp_path: pathlib.Path) -> None:
    (problem,) = find_problems({"config": write(tmp_path, '{"groupRef": "all"}', "vmcp.json")})
    assert "configuration of a virtual MCP server" in problem


@pytest.mark.parametrize(
    ("flags", "problems"),
    [
        ({}, ["--backend: expected at least one, as in http://127.0.0.1:8000"]),
        (ONE | {"command": ("a",)}, ["command: expected either backends or a command, got both"]),
        (
            {"backend": ("http://a:1", "http://A:1/base")},
            ["--backend: expected each replica once, got http://a:1 2 times"],
        ),
        (
            {"backend": ("statefulset://a.b.c:1?replicas=2", "http://a-1.b.c.svc.cluster.local:1")},
            ["--backend: expected each replica once, got http://a-1.b.c.svc.cluster.local:1 2 times"],
        ),
        (
            ONE | {"listen": "127.0.0.1:9901"},
            ["--admin: expected another address than listen's, got 127.0.0.1:9901 for both"],
        ),
        (
            ONE | {"tls_key": "/nowhere/key.pem"},
            [
                "--tls-cert: expected a file, since tls_key is given",
                "--tls-key: /nowhere/key.pem: cannot be read: no such file or directory",
            ],
        ),
    ],
)
def test_settings_are_compared_with_each_other(flags: dict[str, object], problems: list[str]) -> None:
    assert find_problems(flags) == problems


def test_any_port_may_be_asked_for_twice() -> None:
    config = load.load(ONE | {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}, {}).config
    assert config.listen == config.admin == address.Address("127.0.0.1", 0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    files = {}
    for name in ("one", "other"):
        issued = authority.issue_cert("localhost")
        for part, blob in (("cert", issued.cert_chain_pems[0]), ("key", issued.private_key_pem)):
            files[f"{name}-{part}"] = str(folder / f"{name}-{part}.pem")
            blob.write_to_path(files[f"{name}-{part}"])
    files["ca"] = str(folder / "ca.pem")
    authority.cert_pem.write_to_path(files["ca"])
    files["junk"] = str(folder / "junk.pem")
    pathlib.Path(files["junk"]).write_text("hunter2")
    return files


def test_certificates_that_fit_are_taken(certificates: dict[str, str]) -> None:
    flags = ONE | {
        "tls_cert": certificates["one-cert"],
        "tls_key": certificates["one-key"],
        "backend_ca": certificates["ca"],
    }
    assert load.load(flags, {}).config.tls_cert == certificates["one-cert"]


@pytest.mark.parametrize(
    ("cert", "key", "expected"),
    [
        ("one-cert", "other-key", "(key values mismatch)"),
        ("one-cert", "junk", "expected PEM that OpenSSL takes"),
        ("junk", "one-key", "expected PEM that OpenSSL takes"),
    ],
)
def test_certificates_that_do_not_fit_are_refused(
    certificates: dict[str, str], cert: str, key: str, expected: str
) -> None:
    (problem,) = find_problems(ONE | {"tls_cert": certificates[cert], "tls_key": certificates[key]})
    assert problem.startswith("--tls-cert: ") and expected in problem and "hunter2" not in problem


def test_authorities_are_looked_at(certificates: dict[str, str]) -> None:
    environ = {"FASTPROXY_STORE": "rediss://h", "FASTPROXY_REDIS_CA": certificates["junk"]}
    assert [problem.partition(":")[0] for problem in find_problems(ONE | {"backend_ca": "/nowhere"}, environ)] == [
        "--backend-ca",
        "FASTPROXY_REDIS_CA",
    ]


def test_files_for_tls_towards_a_store_without_tls_are_no_silent_no_op(certificates: dict[str, str]) -> None:
    environ = {"FASTPROXY_STORE": "redis://h", "FASTPROXY_REDIS_CA": certificates["ca"]}
    (problem,) = find_problems(ONE, environ)
    assert problem.startswith("FASTPROXY_REDIS_CA: expected a store with TLS")
    assert load.load(ONE, environ | {"FASTPROXY_STORE": "rediss://h"}).config.redis_ca == certificates["ca"]


def test_a_password_in_a_store_flag_is_refused_and_not_repeated() -> None:
    for url in ("redis://me:hunter2@h", "redis://:hunter2@h", "rediss+sentinel://:hunter2@h/main"):
        (problem,) = find_problems(ONE | {"store": url})
        assert problem.startswith("--store: expected no password in a flag") and "hunter2" not in problem
    assert load.load(ONE | {"store": "redis://me@h"}, {}).config.store.user == "me"


def test_the_password_may_come_by_url_variable_or_file(tmp_path: pathlib.Path) -> None:
    secret = write(tmp_path, "hunter2\n", "secret")
    config = write(tmp_path, "store: redis://:from-file@h\nredis_password: null\n")
    store = {"FASTPROXY_STORE": "redis://me@h/3"}
    for environ, expected in (
        ({"FASTPROXY_STORE": "redis://:in-url@h"}, "in-url"),
        (store | {"FASTPROXY_REDIS_PASSWORD": "in variable"}, "in variable"),
        (store | {"FASTPROXY_REDIS_PASSWORD_FILE": secret}, "hunter2"),
        ({"FASTPROXY_CONFIG": config}, "from-file"),
        ({"FASTPROXY_CONFIG": config, "FASTPROXY_REDIS_PASSWORD": "higher"}, "higher"),
        (store, None),
    ):
        assert load.load(ONE, environ).config.store.password == expected


def test_a_password_given_twice_is_a_problem(tmp_path: pathlib.Path) -> None:
    secret = write(tmp_path, "hunter2\n", "secret")
    both = {"FASTPROXY_REDIS_PASSWORD": "hunter2", "FASTPROXY_REDIS_PASSWORD_FILE": secret}
    (problem,) = find_problems(ONE, both | {"FASTPROXY_STORE": "redis://h"})
    assert problem.startswith("FASTPROXY_REDIS_PASSWORD: expected the password once") and "hunter2" not in problem
    (problem,) = find_problems(ONE, {"FASTPROXY_REDIS_PASSWORD": "hunter2", "FASTPROXY_STORE": "redis://:hunter2@h"})
    assert problem.endswith("got it by FASTPROXY_STORE too")


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot be read"), ("", "one line of text"), ("a\nb", "one line of text"), ("a" * 5000, "at most 4096")],
)
def test_a_password_file_that_is_none_is_refused(tmp_path: pathlib.Path, content: str | None, expected: str) -> None:
    file = str(tmp_path / "none") if content is None else write(tmp_path, content, "secret")
    environ = {"FASTPROXY_STORE": "redis://h", "FASTPROXY_REDIS_PASSWORD_FILE": file}
    (problem,) = find_problems(ONE, environ)
    assert problem.startswith(f"FASTPROXY_REDIS_PASSWORD_FILE: {file}: ") and expected in problem


def test_the_embedded_store_goes_with_anything() -> None:
    environ = {"FASTPROXY_REDIS_PASSWORD": "hunter2", "FASTPROXY_STORE_REQUIRED": "on", "FASTPROXY_WORKERS": "4"}
    config = load.load(ONE | {"store": "memory:"}, environ).config
    assert config.store.password is None and config.store_required


def test_a_misspelt_variable_is_a_warning_and_foreign_ones_are_not() -> None:
    environ = {
        "FASTPROXY_SESION_TTL": "5s",
        "FASTPROXY_BACKENDS": "http://a:1",
        **dict.fromkeys(("FASTPROXY_DEBUG", "FASTPROXY_SANITIZE", "FASTPROXY_FAST_LANE"), "1"),
        # what Kubernetes adds for a Service called fastproxy, and one called fastproxy-admin
        "FASTPROXY_PORT": "tcp://10.0.0.1:80",
        "FASTPROXY_SERVICE_HOST": "10.0.0.1",
        "FASTPROXY_PORT_80_TCP_ADDR": "10.0.0.1",
        "FASTPROXY_ADMIN_PORT": "tcp://10.0.0.1:80",
        "FASTPROXY_SOMETHING_ELSE": "1",
        "SESSION_TTL": "1",
    }
    loaded = load.load(ONE, environ)
    assert loaded.warnings == (
        "FASTPROXY_BACKENDS: unknown variable (did you mean FASTPROXY_BACKEND?)",
        "FASTPROXY_SESION_TTL: unknown variable (did you mean FASTPROXY_SESSION_TTL?)",
    )
    assert loaded.config.session_ttl == 7200.0


def test_a_backend_path_that_repeats_the_endpoint_is_a_warning() -> None:
    (warning,) = load.load({"backend": ("http://127.0.0.1:8000/mcp",)}, {}).warnings
    assert warning.startswith("--backend: ") and "/mcp/mcp" in warning


def test_a_file_is_validated_by_itself(tmp_path: pathlib.Path) -> None:
    assert load.validate(write(tmp_path, "backend: [http://a:1]\n")) == ()
    (left,) = load.validate(write(tmp_path, "session_ttl: 5s\n"))
    assert left == "backend: expected at least one, as in http://127.0.0.1:8000, here or by a flag"
    with pytest.raises(errors.ConfigError, match="workers: expected a whole number"):
        load.validate(write(tmp_path, "workers: 0"))
    with pytest.raises(document.Unreadable):
        load.validate(str(tmp_path / "none"))


ANYTHING = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda children: strategies.lists(children) | strategies.dictionaries(strategies.text(), children),
    max_leaves=5,
)
NAMES = strategies.sampled_from([name for name in schema.SETTINGS if name != "config"])
URLS = strategies.from_regex(r"(http|dns|statefulset|redis(\+sentinel|\+cluster)?)://[a-z0-9.:@/?=&,%\[\]-]{0,40}")


@hypothesis.given(strategies.dictionaries(NAMES, ANYTHING | strategies.lists(URLS) | URLS, max_size=4))
@hypothesis.settings(deadline=None)
def test_whatever_a_source_holds_comes_out_as_a_configuration_or_as_lines(values: dict[str, object]) -> None:
    environ = {schema.SETTINGS[name].variable: value for name, value in values.items() if isinstance(value, str)}
    for flags, variables in ((values, {}), ({}, environ)):
        try:
            config = load.load(flags, variables).config
        except errors.ConfigError as error:
            assert error.problems and all(problem.isprintable() for problem in error.problems)
        else:
            assert config.effective()


# ---- the time that the platform gives


@pytest.mark.parametrize(
    ("grace", "advice"),
    [
        pytest.param("30s", ["to at least 35s", "drain_timeout to at most 20s"], id="Kubernetes' own default"),
        pytest.param("10", ["to at least 35s", "drain_timeout to at most 0s"], id="plain seconds"),
        pytest.param("5s", ["to at least 35s"], id="shorter than the delay"),
    ],
)
def test_a_drain_that_does_not_fit_into_the_grace_period_is_one_warning_with_what_to_set(
    grace: str, advice: list[str]
) -> None:
    (warning,) = load.load(ONE, {"FASTPROXY_GRACE_PERIOD": grace}).warnings
    assert warning.startswith("FASTPROXY_GRACE_PERIOD: ")
    assert all(words in warning for words in advice), warning
    assert ("drain_timeout to at most" in warning) == (len(advice) == 2)


@pytest.mark.parametrize(
    ("grace", "flags"),
    [
        pytest.param("35s", {}, id="it just fits"),
        pytest.param("30s", {"drain_timeout": "20s"}, id="as advised"),
        pytest.param("", {}, id="not known"),
    ],
)
def test_a_drain_that_fits_into_the_grace_period_is_no_warning(grace: str, flags: dict[str, object]) -> None:
    assert load.load(ONE | flags, {"FASTPROXY_GRACE_PERIOD": grace}).warnings == ()


@pytest.mark.parametrize("grace", ["soon", "-1s", "0", "1d"])
def test_a_grace_period_that_is_no_duration_is_a_problem(grace: str) -> None:
    (problem,) = find_problems(ONE, {"FASTPROXY_GRACE_PERIOD": grace})
    assert problem.startswith("FASTPROXY_GRACE_PERIOD: expected a duration")
