"""Single values as owners write them: durations, sizes, counts, words, hosts, origins, networks.

Pure: nothing is real or fake, the functions are the whole story. Not covered here: where a value comes from
(test_load.py).
"""

import math

import hypothesis
import pytest
from hypothesis import strategies

from fastproxy.config import address, units

DURATION = units.duration(minimum_seconds=0.001)
SIZE = units.size(minimum_bytes=0, maximum_bytes=1 << 40)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("30m", 1800.0),
        ("2h", 7200.0),
        ("7", 7.0),
        ("0.5", 0.5),
        ("1.5s", 1.5),
        (" 5s ", 5.0),
        (7, 7.0),
        (0.5, 0.5),
    ],
)
def test_a_duration_is_read_as_seconds(written: object, seconds: float) -> None:
    assert DURATION.read(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        *("", "5 parsecs", "5d", "5S", "-1s", "1h30m", "1e3", "٣s", "0", "0s", "9999999h", "s", ".5s", "5s\n5s"),
        *(True, None, [5], {"s": 5}, -1, math.nan, math.inf, 10**400),
    ],
)
def test_what_is_no_duration_is_refused_with_examples_or_bounds(written: object) -> None:
    with pytest.raises(units.WrongValue, match=r"^expected a duration (such as 250ms|of 1ms to 8760h)") as caught:
        DURATION.read(written)
    assert "\n" not in str(caught.value)


@hypothesis.given(strategies.floats(min_value=0.001, max_value=units.SECONDS_MAX).map(lambda number: round(number, 3)))
def test_a_shown_duration_reads_as_itself(seconds: float) -> None:
    assert DURATION.read(DURATION.show(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "shown"), [(7200.0, "2h"), (90.0, "90s"), (120.0, "2m"), (0.25, "250ms"), (1.5, "1500ms"), (0.0, "0s")]
)
def test_a_duration_is_shown_in_its_largest_whole_unit(seconds: float, shown: str) -> None:
    assert units.show_duration(seconds) == shown


@pytest.mark.parametrize(
    ("written", "amount"),
    [("8MiB", 8 << 20), ("512KiB", 512 << 10), ("1GiB", 1 << 30), ("17", 17), ("17B", 17), (17, 17), (0, 0)],
)
def test_a_size_is_read_as_bytes(written: object, amount: int) -> None:
    assert SIZE.read(written) == amount


@pytest.mark.parametrize("written", ["", "8MB", "8 MiB", "1.5MiB", "-1", "lots", 1.5, True, None, -1, 1 << 41])
def test_what_is_no_size_is_refused(written: object) -> None:
    with pytest.raises(units.WrongValue, match=r"^expected a size"):
        SIZE.read(written)


@hypothesis.given(strategies.integers(min_value=0, max_value=1 << 40))
def test_a_shown_size_reads_as_itself(amount: int) -> None:
    assert SIZE.read(SIZE.show(amount)) == amount


@pytest.mark.parametrize("written", ["0", "257", "1.0", "-1", "one", "", True, 1.0, None, [1], "9" * 30])
def test_a_count_outside_of_its_bounds_is_refused_with_them(written: object) -> None:
    with pytest.raises(units.WrongValue, match=r"^expected a whole number of 1 to 256, got "):
        units.count(minimum=1, maximum=256).read(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [(True, True), (False, False), ("true", True), ("ON", True), ("1", True), ("no", False), ("off", False)],
)
def test_a_switch_understands_the_usual_words(written: object, meant: bool) -> None:
    assert units.switch().read(written) is meant


@pytest.mark.parametrize("written", ["", "maybe", 1, None, []])
def test_a_switch_refuses_other_words(written: object) -> None:
    with pytest.raises(units.WrongValue, match=r"^expected true or false, got "):
        units.switch().read(written)


def test_a_wrong_word_is_answered_with_all_right_ones() -> None:
    with pytest.raises(units.WrongValue, match=r"^expected a, b or c, got 'd'$"):
        units.choice("a", "b", "c").read("d")


@pytest.mark.parametrize("written", [7, 1.5, True])
def test_a_number_where_text_belongs_is_refused_with_a_hint_at_quotes(written: object) -> None:
    with pytest.raises(units.WrongValue, match=r"\(put it in quotes\)$"):
        units.read_text(written)


def test_a_long_or_hostile_value_is_quoted_short_and_on_one_line() -> None:
    shown = units.quote("\x1b[31m\n" + "x" * 1000)
    assert len(shown) < 120 and shown.isprintable()
    assert units.quote(10**5000) == "a very long number"


def test_a_secret_is_never_quoted_and_never_shown() -> None:
    kind = units.secret()
    for written in (13131313, "hunter\n2", ["hunter2"]):
        with pytest.raises(units.WrongValue) as caught:
            kind.read(written)
        assert "hunter" not in str(caught.value) and "1313" not in str(caught.value)
    assert kind.show("hunter2") == "***"


@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("[::1]:80", "::1", 80),
        ("[0:0::1]:80", "::1", 80),
        ("My_Service.Internal:65535", "my_service.internal", 65535),
    ],
)
def test_an_address_to_listen_on_has_a_host_and_a_port(written: str, host: str, port: int) -> None:
    assert address.read_address(written) == address.Address(host, port)


@pytest.mark.parametrize(
    "written",
    [
        *("", "8080", ":8080", "localhost", "localhost:", "localhost:x", "localhost:65536", "::1:80", "[::1]"),
        *("[::1]80", "[::1", "300.1.1.1:80", "1.2.3:80", "a b:80", "-a:80", "a-:80", "a..b:80", "[fe80::1%eth0]:80"),
        *("*:80", 8080, f"{'a' * 64}:80", f"{'a.' * 130}:80", "localhost:+80", "localhost:٨٠", "http://localhost:80"),
    ],
)
def test_what_is_no_address_is_refused(written: object) -> None:
    with pytest.raises(units.WrongValue, match=r"^expected "):
        address.read_address(written)


def test_an_address_is_shown_as_it_is_written() -> None:
    assert str(address.read_address("[::1]:80")) == "[::1]:80"


@pytest.mark.parametrize("written", ["off", False])
def test_the_admin_address_can_be_off(written: object) -> None:
    assert address.LISTEN_OR_OFF.read(written) is None
    assert address.LISTEN_OR_OFF.show(None) == "off"


@pytest.mark.parametrize(
    ("written", "kept"),
    [("*", "*"), ("Example.com", "example.com"), ("[::1]:80", "[::1]:80"), ("[::1]", "[::1]"), ("a.b:80", "a.b:80")],
)
def test_an_allowed_host_may_have_a_port(written: str, kept: str) -> None:
    assert address.ALLOWED_HOST.read(written) == kept


@pytest.mark.parametrize("written", ["", "http://a", "*.example.com", "a:0", "a/b", "a,b"])
def test_what_is_no_host_is_not_allowed(written: str) -> None:
    with pytest.raises(units.WrongValue):
        address.ALLOWED_HOST.read(written)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("*", "*"),
        ("HTTPS://App.Example.com", "https://app.example.com"),
        ("vscode-webview://abc", "vscode-webview://abc"),
    ],
)
def test_an_allowed_origin_is_kept_in_lower_case(written: str, kept: str) -> None:
    assert address.ALLOWED_ORIGIN.read(written) == kept


@pytest.mark.parametrize("written", ["example.com", "null", "https://", "https://a/", "https://a/b", "https://a?b"])
def test_what_is_no_origin_is_not_allowed(written: str) -> None:
    with pytest.raises(units.WrongValue, match=r"^expected an origin"):
        address.ALLOWED_ORIGIN.read(written)


def test_a_password_in_an_origin_is_not_repeated() -> None:
    with pytest.raises(units.WrongValue) as caught:
        address.ALLOWED_ORIGIN.read("https://me:hunter2@example.com")
    assert "hunter2" not in str(caught.value)


def test_a_network_with_host_bits_is_refused_with_the_one_that_was_meant() -> None:
    assert address.NETWORK.show(address.NETWORK.read("10.0.0.0/8")) == "10.0.0.0/8"
    assert address.NETWORK.show(address.NETWORK.read("10.1.2.3")) == "10.1.2.3/32"
    with pytest.raises(units.WrongValue, match=r"did you mean 10\.0\.0\.0/8\?"):
        address.NETWORK.read("10.0.0.1/8")
    with pytest.raises(units.WrongValue, match=r"^expected a network such as"):
        address.NETWORK.read("10.0.0.0/33")
