"""Configuration files as text: three formats, told apart by suffix or content, with every fault named by its place.

Files are real ones in a temporary folder. Not covered: what the settings in them mean (test_load.py).
"""

import contextlib
import pathlib

import hypothesis
import pytest
from hypothesis import strategies

from fastproxy.config import document

YAML = "name: shop\nbackend:\n  - http://127.0.0.1:8001\n  - http://127.0.0.1:8002\nsession_ttl: 30m\n"
JSON = '{"name": "shop", "backend": ["http://127.0.0.1:8001", "http://127.0.0.1:8002"], "session_ttl": "30m"}'
TOML = 'name = "shop"\nbackend = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"]\nsession_ttl = "30m"\n'
VALUES = {"name": "shop", "backend": ["http://127.0.0.1:8001", "http://127.0.0.1:8002"], "session_ttl": "30m"}


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        pytest.param(".yaml", YAML, id="yaml"),
        pytest.param(".yml", YAML, id="yml"),
        pytest.param(".json", JSON, id="json"),
        pytest.param(".yaml", JSON, id="json-is-yaml"),
        pytest.param(".toml", TOML, id="toml"),
        pytest.param(".conf", YAML, id="yaml-by-content"),
        pytest.param("", "\n  " + JSON, id="json-by-content"),
        pytest.param(".conf", "# of ours\n\n" + TOML, id="toml-by-content"),
        pytest.param(".json", "\ufeff" + JSON, id="json-with-byte-order-mark"),
    ],
)
def test_a_file_is_read_in_its_format(tmp_path: pathlib.Path, suffix: str, text: str) -> None:
    file = tmp_path / f"proxy{suffix}"
    file.write_text(text)
    assert document.read(str(file)) == document.Document(VALUES)


@pytest.mark.parametrize("suffix", [".yaml", ".toml", ""])
def test_an_empty_file_says_nothing(suffix: str) -> None:
    assert document.parse(b"# only a comment\n", suffix) == document.Document({})


def test_yaml_words_stay_words() -> None:
    text = b"admin: off\nname: no\nlog_level: 12:30\nkey_prefix: 2024-01-01\nsession_ttl: 010\nstore: 1e3\n"
    assert document.parse(text, ".yaml").values == {
        "admin": "off",
        "name": "no",
        "log_level": "12:30",
        "key_prefix": "2024-01-01",
        "session_ttl": "010",
        "store": "1e3",
    }


def test_yaml_numbers_truth_and_nothing_are_values() -> None:
    assert document.parse(b"a: 7\nb: -1\nc: 0.5\nd: true\ne: False\nf: null\ng: ~\nh:\n", ".yaml").values == {
        **{"a": 7, "b": -1, "c": 0.5, "d": True, "e": False},
        **{"f": None, "g": None, "h": None},
    }


@pytest.mark.parametrize(
    ("suffix", "text", "problems"),
    [
        (".yaml", "a: 1\nb: 2\na: 3\nb: 4\n", ("a: given twice (line 3)", "b: given twice (line 4)")),
        (".yaml", "{a: 1, 'a': 3}", ("a: given twice (line 1)",)),
        (".json", '{"a": 1, "b": 2, "a": 3}', ("a: given twice",)),
        (".json", '{"a\\n": 1, "a\\n": 3}', (r"'a\n': given twice",)),
    ],
)
def test_a_name_given_twice_is_a_problem_and_the_rest_is_still_read(
    suffix: str, text: str, problems: tuple[str, ...]
) -> None:
    found = document.parse(text.encode(), suffix)
    assert found.problems == problems
    assert len(found.values) >= 1


@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        pytest.param(".yaml", b"a: [1\nb: 2\n", "line 2, column 2: not YAML: ", id="yaml-syntax"),
        pytest.param(".yaml", b"a: 1\n\tb: 2\n", "line 2, column 1: not YAML: ", id="yaml-tab"),
        pytest.param(".yaml", b"a: 1\n---\nb: 2\n", "line 2, column 1: not YAML: ", id="two-documents"),
        pytest.param(".yaml", b"a: !!python/object/apply:os.system [id]\n", "not YAML: ", id="yaml-tag-of-python"),
        pytest.param(".yaml", b"a: !!timestamp never\n", "not YAML: ", id="yaml-tag-of-dates"),
        pytest.param(".yaml", b"a: !!int never\n", "not YAML that can be used", id="yaml-tag-that-lies"),
        pytest.param(".yaml", b"a: !!int ''\n", "not YAML that can be used", id="yaml-tag-of-nothing"),
        pytest.param(".yaml", b"a: !!bool never\n", "not YAML that can be used", id="yaml-truth-that-lies"),
        pytest.param(".yaml", b"a: " + b"[" * 20000, "not YAML that can be used", id="yaml-too-deep"),
        pytest.param(".yaml", b"a: " + b"9" * 5000, "not YAML that can be used", id="yaml-number-too-long"),
        pytest.param(".yaml", b"? [1]\n: 2\n", "not YAML: ", id="yaml-key-that-is-a-list"),
        pytest.param(".yaml", b"a: \x01\n", "not YAML: ", id="yaml-control-byte"),
        pytest.param(".yaml", b"- a\n- b\n", "expected names with values", id="yaml-list"),
        pytest.param(".yaml", b"hello", "expected names with values", id="yaml-scalar"),
        pytest.param(".yaml", b"name: \xff\n", "expected UTF-8 text, got something else at byte 6", id="not-utf-8"),
        pytest.param(".json", b'{"a": 1,}', "line 1, column ", id="json-syntax"),
        pytest.param(".json", b"", "line 1, column 1: not JSON: ", id="json-empty"),
        pytest.param(".json", b'{"a": NaN}', "NaN", id="json-nan"),
        pytest.param(".json", b"[" * 200000, "not JSON that can be used", id="json-too-deep"),
        pytest.param(".json", b'{"a": ' + b"9" * 5000 + b"}", "not JSON that can be used", id="json-number-too-long"),
        pytest.param(".json", b"[1]", "expected names with values", id="json-list"),
        pytest.param(".toml", b"a = \n", "line 1, column 5: not TOML", id="toml-syntax"),
        pytest.param(".toml", b"a = 1\na = 2\n", "not TOML (a name given twice?)", id="toml-twice"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(suffix: str, content: bytes, expected: str) -> None:
    with pytest.raises(document.Malformed) as caught:
        document.parse(content, suffix)
    (problem,) = caught.value.problems
    assert expected in problem and problem.isprintable()


@pytest.mark.parametrize(
    "text",
    [
        f"redis_password: {value}"
        for value in (
            "*hunter2",
            "!hunter2 x",
            "hunter2: x",
            "'hunter2",
            "%hunter2",
            "@hunter2",
            "`hunter2",
            "&hunter2 &a",
        )
    ],
)
@pytest.mark.parametrize("suffix", [".yaml", ".json", ".toml"])
def test_no_message_about_a_broken_file_repeats_its_text(suffix: str, text: str) -> None:
    with pytest.raises(document.Malformed) as caught:
        document.parse(text.encode(), suffix)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "why"), [("none.yaml", "no such file or directory"), (".", "is a directory"), ("a\0b", "null byte")]
)
def test_a_file_that_cannot_be_opened_is_unreadable(tmp_path: pathlib.Path, name: str, why: str) -> None:
    with pytest.raises(document.Unreadable, match=why):
        document.read(f"{tmp_path}/{name}")


def test_an_endless_file_is_refused_and_not_read() -> None:
    with pytest.raises(document.Malformed, match="at most 1048576 bytes"):
        document.read("/dev/zero")


def test_the_configuration_of_a_virtual_server_is_told_apart() -> None:
    assert document.looks_like_vmcp({"name": "x", "groupRef": "y"})
    assert document.looks_like_vmcp({"mcpServers": {}})
    assert not document.looks_like_vmcp({"name": "x", "backend": []})


YAML_PIECES = strategies.sampled_from(
    [
        *"[]{}:,-?&*!|>'\"%@`#~ \n\t",
        "a",
        "a: ",
        "<<: ",
        "*a",
        "&a ",
        "!!int ",
        "!!float ",
        "!!set ",
        "!!binary ",
        "1",
        "0x",
        ".5",
    ]
)


@hypothesis.given(
    strategies.lists(YAML_PIECES, max_size=20).map("".join), strategies.sampled_from([".yaml", ".toml", ".json", ""])
)
@hypothesis.settings(deadline=None, max_examples=500)
def test_whatever_a_file_holds_is_a_document_or_malformed(text: str, suffix: str) -> None:
    with contextlib.suppress(document.Malformed):
        assert isinstance(document.parse(text.encode(), suffix).values, dict)
