"""Templates: what Go's text/template gives for the same text and values, and what is refused. Pure."""

import time

import pytest

from fastproxy.vmcp.composite import template

CONTEXT = {
    "params": {
        "n": 5,
        "f": 1.5,
        "whole": 2.0,
        "s": "hi",
        "list": [1, 2, 3],
        "map": {"b": 2, "a": "x"},
        "null": None,
        "yes": True,
        "quoted": 'a"b',
        "empty": [],
        "deep": {"a": {"b": {"c": "bottom"}}},
    },
    "steps": {"get": {"output": {"rows": [{"n": 1}, {"n": 2}]}, "status": "completed"}},
}

RENDERED = {
    "": "",
    "no action": "no action",
    "{{.params.s}}": "hi",
    "a {{- .params.s -}} b": "ahib",
    "{{ 23 -}} < {{- 45 }}": "23<45",
    "a{{/* said to nobody */}}b": "ab",
    "a {{- /* nor this */ -}} b": "ab",
    "{{.params.f}} {{.params.whole}} {{.params.n}} {{.params.yes}}": "1.5 2 5 true",
    "{{.params.list}} {{.params.map}}": "[1 2 3] map[a:x b:2]",
    "{{.params.deep.a.b.c}}": "bottom",
    "{{json .params.map}}": '{"a":"x","b":2}',
    "{{json .params.null}}": "null",
    "{{.params.map | json | quote}}": '"{\\"a\\":\\"x\\",\\"b\\":2}"',
    "{{quote .params.quoted}}": '"a\\"b"',
    '{{(fromJson "[1,{\\"a\\":2}]") | json}}': '[1,{"a":2}]',
    '{{index (fromJson "{\\"a\\":[7,8]}") "a" 1}}': "8",
    "{{if .params.yes}}y{{else}}n{{end}}": "y",
    "{{if .params.empty}}y{{else}}n{{end}}": "n",
    "{{if .params.absent}}y{{else}}n{{end}}": "n",
    "{{if not .params.absent}}y{{end}}": "y",
    '{{if eq .params.s "x"}}1{{else if gt .params.n 3}}2{{else}}3{{end}}': "2",
    "{{with .params.map}}{{.a}}{{$.params.s}}{{end}}": "xhi",
    "{{with .params.absent}}a{{else with .params.s}}{{.}}{{else}}c{{end}}": "hi",
    "{{with $x := .params.n}}{{$x}}{{.}}{{end}}": "55",
    "{{range .params.list}}{{.}},{{end}}": "1,2,3,",
    "{{range $i, $v := .params.list}}{{if $i}},{{end}}{{$i}}{{$v}}{{end}}": "01,12,23",
    "{{range $k, $v := .params.map}}{{$k}}={{$v}};{{end}}": "a=x;b=2;",
    "{{range .params.empty}}x{{else}}none{{end}}": "none",
    "{{range 3}}{{.}}{{end}}": "012",
    "{{range .params.list}}{{if eq . 2}}{{continue}}{{end}}{{.}}{{end}}": "13",
    "{{range .params.list}}{{if eq . 2}}{{break}}{{end}}{{.}}{{end}}": "1",
    "{{$x := 1}}{{range .params.list}}{{$x = .}}{{end}}{{$x}}": "3",
    "{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}": "21",
    "{{(index .steps.get.output.rows 1).n}}": "2",
    "{{index .params.list 0}} {{len .params.list}} {{len .params.map}}": "1 3 2",
    '{{len "é"}}': "2",
    '{{slice "abcdef" 1 3}}': "bc",
    "{{slice .params.list 1}}": "[2 3]",
    "{{eq .params.n 5.0}} {{ne 1 2}} {{lt 1 1.5}} {{le 2 2}} {{gt 1 2}} {{ge 2 2}}": "true true true true false true",
    '{{eq .params.s "a" "b" "hi"}}': "true",
    '{{lt "a" "b"}}': "true",
    '{{and true 0 (index .params.list 99)}} {{or "" .params.absent "d"}} {{and 1 2}}': "0 d 2",
    '{{printf "%05d|%-5s|%5.2f|%q|%v|%t|%x|%%" 42 "a" 1.5 "q" .params.list true 255}}': (
        '00042|a    | 1.50|"q"|[1 2 3]|true|ff|%'
    ),
    '{{printf "%d" .params.whole}}': "2",
    '{{"a" | printf "%s-%s" "b"}}': "b-a",
    '{{print 1 2 "a" "b" 3}}': "1 2ab3",
    "{{println 1 2}}": "1 2\n",
    "{{`raw\\n`}}": "raw\\n",
    '{{"tab\\tA\\u00e9"}}': "tab\tAé",
    "{{'a'}} {{0x10}} {{1e3}} {{-3}}": "97 16 1000 -3",
    "{{ .params.s | len | printf `%d!` }}": "2!",
    "{{ (.params.deep.a).b.c }}": "bottom",
    "{{true}}{{false}}": "truefalse",
}

REFUSED = {
    "{{.params.s": "line 1: an action is not closed",
    "{{end}}": "line 1: end without its beginning",
    "{{else}}": "line 1: else without its beginning",
    "a\nb\n{{if .x}}": "line 3: a block is not closed",
    "{{if .x}}{{else}}{{else}}{{end}}": "line 1: else stands twice",
    "{{}}": "line 1: an action is empty",
    "{{foo .x}}": "line 1: unknown function foo",
    "{{$x}}": "line 1: unknown variable $x",
    "{{$x = 1}}": "line 1: unknown variable $x",
    "{{if true}}{{$x := 1}}{{end}}{{$x}}": "unknown variable $x",
    '{{define "a"}}{{end}}': "line 1: define is not supported",
    '{{template "a"}}': "line 1: template is not supported",
    "{{1 2}}": "line 1: only a function can have arguments",
    "{{.a | .b}}": "line 1: only a function can take a value",
    "{{nil}}": "line 1: nil is no value of its own",
    "{{(.a}}": "line 1: a parenthesis is not closed",
    '{{"a}}': "is not expected here",
    "{{.a-b}}": "is not expected here",
    "{{break}}": "line 1: break outside of a range",
    "{{range $a, $b, $c := .x}}{{end}}": "expected at most 2 variables",
    '{{"\\q"}}': "unknown escape",
    "{{'ab'}}": "expected one character",
    "{{" + "(" * 150 + "1" + ")" * 150 + "}}": "nested deeper than 100",
    "{{if 1}}" * 150 + "{{end}}" * 150: "nested deeper than 100",
}

FAILED = {
    "{{.params.absent}}": "line 1: .params.absent is not there",
    "{{.params.absent.x}}": ".params.absent is not there",
    "{{json .params.absent}}": "line 1: .params.absent is not there",
    "{{.params.null}}": "line 1: the value is null",
    "{{.params.s.x}}": ".params.s is a text: it has no .x",
    "{{.params.list.x}}": ".params.list is a list",
    "{{index .params.list 3}}": "line 1: index: 3 is outside of a list of 3",
    '{{index .params.map "zz"}}': 'index "zz" is not there',
    "{{index .params.n 1}}": "a number has no elements",
    "{{eq .params.s 5}}": "a text can't be compared with a number",
    "{{lt .params.s 5}}": "a text has no order to a number",
    "{{eq .params.list .params.list}}": "a list can't be compared",
    "{{len .params.n}}": "a number has no length",
    "{{range .params.s}}{{end}}": "range goes over a list",
    '{{fromJson "{"}}': "the text is not JSON",
    "{{fromJson .params.n}}": "expected a text, got a number",
    '{{printf "%d" "x"}}': "%d does not fit a text",
    '{{printf "%d %d" 1}}': "%d has no value",
    '{{printf "%d" 1 2}}': "1 values more",
    '{{printf "%z" 1}}': "%z does not fit",
    '{{printf "%99999999d" 1}}': "expected a width of at most",
    "{{eq 1}}": "eq takes 2 or more arguments, got 1",
    "{{len 1 2}}": "len takes 1 arguments, got 2",
    "{{slice .params.list 5}}": "5 to 3 is outside",
}


@pytest.mark.parametrize("text", RENDERED)
def test_a_template_gives_what_go_gives(text: str) -> None:
    assert template.parse(text).render(CONTEXT) == RENDERED[text]


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_template_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(template.TemplateError) as refused:
        template.parse(text)
    assert REFUSED[text] in str(refused.value)


@pytest.mark.parametrize("text", FAILED)
def test_what_has_no_value_is_an_error_and_never_a_text_that_says_so(text: str) -> None:
    with pytest.raises(template.TemplateError) as failed:
        template.parse(text).render(CONTEXT)
    assert FAILED[text] in str(failed.value)


def test_chains_are_those_of_the_context_however_they_are_reached() -> None:
    parsed = template.parse(
        "{{.a.b}}{{with .c}}{{$.d.e}}{{.f}}{{end}}{{range (index .g 0).h}}{{json .i}}{{end}}{{if eq .j.k 1}}{{end}}"
    )
    assert parsed.chains == {("a", "b"), ("c",), ("d", "e"), ("f",), ("g",), ("i",), ("j", "k")}


@pytest.mark.parametrize(
    "text",
    [
        "{{range 50000}}{{range 50000}}{{.}}{{end}}{{end}}",
        '{{$x := "aaaaaaaaaaaaaaaa"}}{{range 40}}{{$x = printf "%s%s" $x $x}}{{end}}{{len $x}}',
        "{{range 20000}}{{$.big}}{{end}}",
        "{{range 40}}{{$.nested}}{{end}}",
        "{{json .nested}}",
        "{{$x := 1}}" * 40_000,
        "{{range 99999999999}}{{end}}",
        '{{printf "%1000d%1000d" 1 2}}' * 10_000,
    ],
)
def test_a_hostile_template_ends_soon_and_small(text: str) -> None:
    nested: object = "x" * 1000
    for _ in range(40):
        nested = [nested, nested]
    started = time.monotonic()
    try:
        rendered = template.parse(text).render({"big": "b" * 100_000, "nested": nested})
        assert len(rendered) <= 10 << 20
    except template.TemplateError:
        pass
    assert time.monotonic() - started < 10, "seconds on a loaded machine; without bounds it would be for ever"
