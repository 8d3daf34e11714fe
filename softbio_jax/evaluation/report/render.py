"""Documents and tables as HTML, Markdown or LaTeX, from the templates beside this module.

Templates receive plain text: every value is escaped for the format it is written in.
"""

import base64
import functools
import html
import pathlib
import re
from typing import Any

import jinja2

from softbio_jax import escaping
from softbio_jax.evaluation import plots
from softbio_jax.evaluation.report.document import Document, Figure, Table

FIGURES = "figures"  # the folder of the figures beside report.md and report.tex
# Braces are LaTeX's own, so its templates mark expressions, statements and comments by others.
_LATEX_MARKS = ("<<", ">>", "<%", "%>", "<#", "#>")
_MARKS = ("{{", "}}", "{%", "%}", "{#", "#}")
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        **{sign: f"${sign}$" for sign in "|<>"},
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "×": r"$\times$",
        "·": r"$\cdot$",
        "σ": r"$\sigma$",
        "²": r"$^2$",
        "−": r"$-$",
        "–": "--",
        "†": r"\dag{}",
        "‡": r"\ddag{}",
    }
)


def document(content: Document, form: str) -> str:
    """Returns a document as one file: "html" (self-contained), "md" or "tex" (figures in `FIGURES`)."""
    return template(f"report.{form}").render(document=content)


def table(content: Table, form: str) -> str:
    """Returns a table as a part of a file; `form` as in `document`."""
    return template(f"table.{form}").render(table=content)


def template(name: str) -> jinja2.Template:
    """Returns the template `name`.jinja; the ending of its name decides how values are escaped."""
    return _environment(name.rpartition(".")[2]).get_template(f"{name}.jinja")


@functools.cache
def _environment(form: str) -> jinja2.Environment:
    keys = [f"{part}_{end}_string" for part in ("variable", "block", "comment") for end in ("start", "end")]
    marks: Any = dict(zip(keys, _LATEX_MARKS if form == "tex" else _MARKS, strict=True))
    escape = {
        "html": _html,
        "md": escaping.markdown,
        # An empty line would end a paragraph.
        "tex": lambda text: " ".join(escaping.visible(text).split("\n")).translate(_LATEX),
    }[form]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        # Values that a template marks as safe are not escaped.
        finalize=lambda value: value if hasattr(value, "__html__") else escape(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **marks,
    )
    for name in ("code", "code_block"):
        environment.filters[name] = lambda text, write=getattr(escaping, name): _Written(write(str(text)))
    environment.globals |= {"figures": FIGURES, "svg": _svg}
    return environment


def _html(text: str) -> str:
    # "20-29" is one word: a line must not end at its hyphen.
    escaped = html.escape(escaping.visible(text), quote=True)
    return re.sub(r"(?<=\d)-(?=\d)", "\N{NON-BREAKING HYPHEN}", escaped)


class _Written(str):
    """Text in the form of the file already."""

    def __html__(self) -> str:
        return self


def _svg(item: Figure) -> dict[str, Any]:
    """Returns a figure's size in CSS pixels and its SVG in base64.

    Inlined as an image, so that identifiers of two figures cannot clash.
    """
    width, height = (round(96 * inches) for inches in item.figure.get_size_inches())
    data = base64.b64encode(plots.svg(item.figure).encode()).decode()
    return {"width": width, "height": height, "data": data}
