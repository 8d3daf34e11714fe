r"""Text from outside (names of files, classes, columns, runs), written so that it is only shown.

Terminals obey control characters, spreadsheets run cells such as =1+1, and Markdown has links and
HTML. Each function here takes any text and returns it for one of them; JSON stays JSON.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from typing import Any, TextIO, cast

# C0 but the line break and tab, DEL and C1 (CSI is one of them), line separators, half surrogate
# pairs, and the marks that reverse the direction of what follows.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_QUOTE = '"'
_BREAKS = str.maketrans({"\n": r"\n", "\t": r"\t"})
# What a spreadsheet takes for a formula or skips before one.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Markdown's signs that have a meaning anywhere in a line, and those at its start.
_MARKDOWN = {**{sign: f"\\{sign}" for sign in "\\|*`~$"}, **{"<": "&lt;", ">": "&gt;", "&": "&amp;"}}
_WORD_EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # within a word an underscore is one
# Intervals such as [80.1, 82.3] keep their brackets, which then begin no link.
_BRACKET = re.compile(r"\[[-+\d., ]+\](?!\s*[(\[:])|[\[\]]")
_BLOCK = re.compile(r"(?:#+|[-+=]+)(?=\s|$)|\d+(?=[.)](?:\s|$))")
# A cell with one of them is quoted; other delimiters too, for spreadsheets that split at those.
_QUOTED = re.compile('[",;\t\r\n]')


def visible(text: str) -> str:
    r"""Returns a text whose control characters are written out, such as \x1b; line breaks and tabs stay.

    What a name has instead of UTF-8 is written as the bytes it is.

    >>> print(visible("red \x1b[31m, back\rwards \u202e, not UTF-8 \udce9"))
    red \x1b[31m, back\rwards \u202e, not UTF-8 \xe9
    """
    return _CONTROLS.sub(_written, text)


def printable(name: str) -> str:
    r"""Returns a name as UTF-8 can hold it: other bytes of a file's name are written as \xf1."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    r"""Returns a name for the middle of a line: `visible`, and line breaks and tabs as \n and \t."""
    return visible(text).translate(_BREAKS)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Returns JSON in UTF-8 whose control characters are escapes, which is also a value of YAML."""
    return _CONTROLS.sub(_json_escape, json.dumps(value, ensure_ascii=False, indent=indent))


def markdown(text: str) -> str:
    r"""Returns a text for a line, a cell or a heading of Markdown, where it stands for itself.

    >>> print(markdown("a|b [x](http://y) `z` <i>"))
    a\|b \[x\](http://y) \`z\` &lt;i&gt;
    """
    line = " ".join(visible(text).split("\n"))
    escaped = "".join(_MARKDOWN.get(sign, sign) for sign in line)
    escaped = _WORD_EDGE.sub(r"\\_", escaped)
    escaped = _BRACKET.sub(lambda found: found[0] if found[0][1:] else f"\\{found[0]}", escaped)
    if found := _BLOCK.match(escaped):
        start = found.end() if found[0].isdigit() else 0
        escaped = f"{escaped[:start]}\\{escaped[start:]}"
    return escaped


def code(text: str) -> str:
    """Returns a text as a code span of Markdown, with a fence longer than any inside it."""
    line = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", r"\|")


def cell(text: str) -> str:
    """Returns a text as a spreadsheet shows it: what it would execute begins with an apostrophe.

    Numbers are left alone. `uncell` takes the apostrophe away again.

    >>> cell("=1+1"), cell("-0.5"), cell("0-2"), uncell(cell("=1+1"))
    ("'=1+1", '-0.5', '0-2', '=1+1')
    """
    return f"'{text}" if _executes(text) else text


def uncell(text: str) -> str:
    """Returns what `cell` was given."""
    return text[1:] if text.startswith("'") and _executes(text[1:]) else text


def csv_line(values: Iterable[Any]) -> str:
    """Returns a line of CSV: text by `cell`, numbers as they are, None as an empty cell."""
    texts = (cell(v) if isinstance(v, str) else "" if v is None else str(v) for v in values)
    return ",".join(f'"{t.replace(_QUOTE, 2 * _QUOTE)}"' if _QUOTED.search(t) else t for t in texts) + "\n"


def csv_rows(lines: Iterable[str]) -> list[list[str]]:
    """Reads lines of `csv_line`, and other CSV."""
    return [[uncell(text) for text in row] for row in csv.reader(lines)]


def code_block(text: str) -> str:
    """Returns a line as a code block of Markdown, with a fence that it cannot end."""
    line = one_line(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}\n{line}\n{fence}"


class VisibleStream:
    """A text stream that writes what `visible` returns; everything else is the stream's own."""

    def __init__(self, stream: TextIO):
        self.raw = stream

    def write(self, text: str) -> int:
        encoding = self.raw.encoding or "utf-8"
        shown = visible(text)
        if not encoding.lower().replace("-", "").startswith("utf"):
            shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        # A progress bar of a library begins like this. A name there has nothing to its left to hide.
        back = "\r" if text.startswith("\r") and self.raw.isatty() else ""
        self.raw.write(back + shown.removeprefix(r"\r" if back else ""))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def guarded(stream: TextIO) -> TextIO:
    """Returns a `VisibleStream` on a stream, which may be one already."""
    return stream if isinstance(stream, VisibleStream) else cast(TextIO, VisibleStream(stream))


def unguarded(stream: TextIO) -> TextIO:
    """Returns the stream below, for control characters of our own such as a progress bar's."""
    return stream.raw if isinstance(stream, VisibleStream) else stream


def _executes(text: str) -> bool:
    bare = text.lstrip("'")
    return bare.startswith(_FORMULA) and not _NUMBER.fullmatch(bare)


def _written(found: re.Match[str]) -> str:
    number = ord(found[0])
    if found[0] == "\r":
        return r"\r"
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file's name, as Python keeps it
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def _json_escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    # Half a pair is no character: written out as text.
    return f"\\\\u{number:04x}" if 0xD800 <= number <= 0xDFFF else f"\\u{number:04x}"
