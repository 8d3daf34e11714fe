"""Hostile names as terminals, spreadsheets, Markdown and YAML would take them."""

import csv
import io
import json
import unicodedata

import pytest
import yaml
from markdown_it import MarkdownIt

from softbio_jax import escaping
from softbio_jax.console import Console, aligned

# What a terminal obeys: ESC, a CSI of one byte, BEL, DEL, carriage return, marks of direction, halves.
CONTROLS = [
    "\x1b[31m",
    "\x9b31m",
    "\x07",
    "\x7f",
    "\r",
    "\x85",
    "\u202e",
    "\u2066",
    "\u200f",
    "\u2028",
    "\ud800",
    "\udce9",
]
FORMULAS = ["=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x", "＝1"]
PLAIN = [
    "-0.5",
    "+5",
    "0-2",
    "1e-3",
    "-1E+5",
    "it's",
    "'",
    "'quoted'",
    "",
    "a;b",
    'a"b',
    "a,b",
    "a\nb",
    "a\rb",
    " x ",
]


def harmless(text):
    return all(
        c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in text
    ) and not any(
        c in text for c in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


@pytest.mark.parametrize("control", CONTROLS)
def test_what_is_printed_has_no_control_characters(control):
    name = f"a{control}b é 你 😀"
    out = io.StringIO()
    Console(out=out).say(name)
    Console(out=out).show(name, 0, 1)
    print(name, end="\n", file=escaping.guarded(out))
    out.write(aligned([("set", "n"), (name, "1")], text_columns=1))
    assert harmless(out.getvalue()) and "é 你 😀" in out.getvalue()
    assert escaping.visible(escaping.visible(name)) == escaping.visible(name)
    assert "\n" not in escaping.one_line(name + "\nerror: x\ty") and "\t" not in escaping.one_line("a\tb")


def test_a_line_break_in_a_name_makes_no_line_of_a_table_or_of_progress():
    assert len(aligned([("set", "n"), ("a\nerror: b", "1")]).splitlines()) == 3
    out = io.StringIO()
    Console(out=out).show("a\nerror: b", 0, 1)
    assert out.getvalue().count("\n") == 1


def test_a_stream_of_another_encoding_prints_every_name():
    raw = io.BytesIO()
    stream = escaping.guarded(io.TextIOWrapper(raw, encoding="ascii"))
    print("é ‡ \x1b", file=stream, flush=True)
    assert raw.getvalue() == b"\\xe9 \\u2021 \\x1b\n"
    assert escaping.guarded(stream) is stream and isinstance(escaping.unguarded(stream), io.TextIOWrapper)


def test_a_bar_of_a_library_is_redrawn_on_a_terminal_only():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for raw, expected in ((Terminal(), "\r50 %"), (io.StringIO(), r"\r50 %")):
        for text in ("\r50 %", "a\rb\x1b"):
            escaping.guarded(raw).write(text)
        assert raw.getvalue() == expected + r"a\rb\x1b"


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_that_would_be_executed_is_text_and_reads_back(text):
    line = escaping.csv_line([text, 0.5, "x"])
    (row,) = csv.reader(io.StringIO(line, newline=""))
    assert row[0] == f"'{text}"
    assert escaping.csv_rows(io.StringIO(line, newline="")) == [[text, "0.5", "x"]]


@pytest.mark.parametrize("text", PLAIN)
def test_other_cells_are_left_as_they_are(text):
    (row,) = csv.reader(io.StringIO(escaping.csv_line([text, -0.5, None, 3]), newline=""))
    assert row == [text, "-0.5", "", "3"]
    assert escaping.csv_rows(io.StringIO(escaping.csv_line([text, -0.5]), newline="")) == [[text, "-0.5"]]


def test_a_cell_stays_one_cell_where_semicolons_or_tabs_divide():
    assert escaping.csv_line(["x;=1+1", "x\t=1+1"]) == '"x;=1+1","x\t=1+1"\n'


@pytest.mark.parametrize(
    "name", [*CONTROLS, "a: b # c", "\"quoted\" 'too'", "a\nb: c", "---", "- x", "{x}", "&a *b !c", "%", "😀"]
)
def test_json_is_json_and_a_value_of_yaml(name):
    text = escaping.json_text({"name": name})
    read = json.loads(text)["name"]
    if not any("\ud800" <= sign <= "\udfff" for sign in name):  # half a pair is no character of JSON
        assert read == name
    assert harmless(text) and yaml.safe_load(f"key: {text}")["key"]["name"] == read


MARKDOWN = [
    "a|b",
    "`code`",
    "[x](http://e)",
    "![x](http://e)",
    "[x][y]",
    "<b onclick=1>",
    "# x",
    "- x",
    "1. x",
    "> x",
    "**b** __c__ *d* ~~e~~",
    "&lt;b&gt;",
    "a\n# b",
    "a\n\n| b | c |",
    "\\",
    "\\|",
    "===",
    "$x$",
    "a_b",
    "_c_",
    "[31m",
    "a]",
    "[1](x)",
    "[1, 2] [3",
    "[a]: http://e",
]


@pytest.mark.parametrize("name", MARKDOWN)
def test_a_name_is_text_in_markdown(name):
    """Read by another implementation of Markdown."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for before, after, count in (
        ("", "", 1),
        ("| h | i |\n|---|---|\n| ", " | y |", 4),
        ("## ", "", 1),
        ("- ", "", 1),
    ):
        inline = [t for t in parser.parse(before + escaping.markdown(name) + after) if t.type == "inline"]
        assert len(inline) == count
        cell = inline[-2 if count == 4 else 0]
        assert {t.type for t in cell.children} <= {"text", "text_special"}
        assert "".join(t.content for t in cell.children) == " ".join(name.split("\n"))


@pytest.mark.parametrize("name", ["a`b", "``", "`", "a\nb", "x` <b> `y"])
def test_code_is_not_left(name):
    parser = MarkdownIt("commonmark")
    (inline,) = [t for t in parser.parse(f"- {escaping.code(name)}: 1") if t.type == "inline"]
    assert [t.type for t in inline.children] == ["code_inline", "text"]
    tokens = parser.parse(escaping.code_block(f"run {name}\n```\n# heading"))
    assert [t.type for t in tokens] == ["fence"]
