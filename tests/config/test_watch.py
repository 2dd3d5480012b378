"""The configuration while the process runs: when a file counts as changed, and what of another one may hold at once.

Files are real, symlinks swapped as Kubernetes swaps them included. Not covered here: signals, polling, and that what
holds is done (tests/proxy/test_reload.py).
"""

import os
import pathlib

import msgspec
import pytest

from fastproxy import errors
from fastproxy.config import load, schema, watch

ONE = {"backend": ("http://127.0.0.1:8000",)}


def settings(**flags: object) -> schema.ServeConfig:
    return load.load(ONE | flags, {}).config


def watched(file: pathlib.Path, **flags: object) -> watch.Watch:
    found = watch.Watch({**flags, "config": str(file)}, {})
    found.load()
    return found


def write(file: pathlib.Path, text: str) -> pathlib.Path:
    file.write_text(text)
    return file


# ---- has it changed?


def test_a_file_that_nobody_touches_has_not_changed(tmp_path: pathlib.Path) -> None:
    found = watched(write(tmp_path / "proxy.yaml", "backend: [http://h:1]"))
    assert [found.has_changed() for _ in range(3)] == [False] * 3


def test_a_change_is_told_when_the_file_has_settled_and_until_it_is_loaded(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path / "proxy.yaml", "backend: [http://h:1]")
    found = watched(file)
    for words in ("backend: [http://h:1, ", "backend: [http://h:1, http://h:22]"):
        write(file, words)
        assert not found.has_changed(), "its writer may be at it"
    assert found.has_changed()
    assert found.has_changed()
    assert len(found.load().config.backend) == 2
    assert not found.has_changed()


def test_a_bad_file_is_told_once(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path / "proxy.yaml", "backend: [http://h:1]")
    found = watched(file)
    write(file, "nonsense: 1")
    assert [found.has_changed() for _ in range(2)] == [False, True]
    with pytest.raises(errors.ConfigError, match="nonsense"):
        found.load()
    assert [found.has_changed() for _ in range(3)] == [False] * 3


def test_a_swapped_symlink_to_a_folder_is_a_change(tmp_path: pathlib.Path) -> None:
    for name, url in (("first", "http://h:1"), ("second", "http://h:2")):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "proxy.yaml", f"backend: [{url}]")
        os.utime(tmp_path / name / "proxy.yaml", (1, 1))  # same size, same time: the inode is all that differs
    (tmp_path / "now").symlink_to("first")
    found = watched(tmp_path / "now" / "proxy.yaml")
    (tmp_path / "next").symlink_to("second")
    (tmp_path / "next").rename(tmp_path / "now")
    assert [found.has_changed() for _ in range(2)] == [False, True]
    assert found.load().config.backend == load.load({"backend": ("http://h:2",)}, {}).config.backend


def test_a_file_that_is_away_for_a_moment_has_not_changed(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path / "proxy.yaml", "backend: [http://h:1]")
    found = watched(file)
    file.rename(tmp_path / "away")
    assert [found.has_changed() for _ in range(3)] == [False] * 3
    (tmp_path / "away").rename(file)
    assert [found.has_changed() for _ in range(3)] == [False] * 3


def test_without_a_file_nothing_ever_changes() -> None:
    found = watch.Watch(ONE, {})
    assert found.load().config == settings()
    assert [found.has_changed() for _ in range(3)] == [False] * 3


def test_a_flag_wins_over_the_file_when_it_is_read_again(tmp_path: pathlib.Path) -> None:
    file = write(tmp_path / "proxy.yaml", "backend: [http://h:1]\nmax_body: 1MiB\nmax_header: 1KiB")
    found = watched(file, max_body="2MiB")
    write(file, "backend: [http://h:1]\nmax_body: 3MiB\nmax_header: 3KiB")
    config = found.load().config
    assert (config.max_body, config.max_header) == (2 << 20, 3 << 10)


# ---- what may hold at once


def test_what_needs_no_restart_holds_and_what_does_waits() -> None:
    change = watch.merge(settings(), settings(policy="random", max_body="1KiB", listen="127.0.0.1:1", workers="3"))
    assert change.applied == ("policy", "max_body")
    assert change.restart_needed == ("listen", "workers")
    assert change.config == settings(policy="random", max_body="1KiB")


def test_the_same_again_is_no_change() -> None:
    assert watch.merge(settings(), settings()) == watch.Change(settings(), (), ())


def test_every_setting_either_holds_at_once_or_is_named() -> None:
    other = {
        "int": 7,
        "float": 7.0,
        "str": "seven",
        "bool": True,
    }
    for name in schema.SETTINGS:
        running = settings()
        value = getattr(running, name)
        wanted = msgspec.structs.replace(
            running, **{name: ("seven",) if isinstance(value, tuple) else other.get(type(value).__name__, "seven")}
        )
        if getattr(wanted, name) == value:
            wanted = msgspec.structs.replace(running, **{name: not value})
        change = watch.merge(running, wanted)
        assert name in change.applied + change.restart_needed
        assert (getattr(change.config, name) != value) == (name in change.applied)


def test_tls_is_neither_begun_nor_ended_by_a_reload() -> None:
    plain = settings()
    secure = msgspec.structs.replace(plain, tls_cert="cert", tls_key="key")
    for running, wanted in ((plain, secure), (secure, plain)):
        change = watch.merge(running, wanted)
        assert change.config == running
        assert change.restart_needed == ("tls_cert", "tls_key")
    renewed = msgspec.structs.replace(secure, tls_cert="other")
    assert watch.merge(secure, renewed).config == renewed


def test_replicas_are_not_dropped_for_a_command_that_needs_a_restart() -> None:
    wanted = msgspec.structs.replace(settings(), backend=(), command=("server",))
    change = watch.merge(settings(), wanted)
    assert change.config == settings()
    assert change.restart_needed == ("command", "backend")
