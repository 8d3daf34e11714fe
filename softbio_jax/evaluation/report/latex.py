"""A document as LaTeX: the tables to be put into a paper, and the pictures in files beside it."""

from softbio_jax.evaluation.report.document import Block, Document, Figures, Table, Text

PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[a4paper,margin=18mm]{geometry}
\usepackage[utf8]{inputenc}
\usepackage{booktabs,graphicx,longtable}
% Shrinks what is wider than the page and leaves the rest alone.
\newcommand{\fit}[1]{\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{#1}}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt}
\begin{document}
"""
ROWS_ON_A_PAGE = 40
TEXT_WIDTH = 6.85  # inches, of the page above
CHARACTERS_A_LINE = 125  # in script size
ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"$|$",
    "<": r"$<$",
    ">": r"$>$",
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


def render(document: Document, *, pictures: str) -> str:
    """Returns the whole text, ready for pdflatex.

    Args:
      document: the report.
      pictures: the folder of the pictures, relative to the text's own.
    """
    parts = [
        PREAMBLE,
        rf"\section*{{{escape(document.title)}}}",
        escape(document.subtitle),
        r"\begin{itemize}",
        *(
            rf"\item \textbf{{{escape(value)}}} {escape(name)} ({escape(remark)})"
            for value, name, remark in document.highlights
        ),
        r"\end{itemize}",
    ]
    for section in document.sections:
        parts.append(rf"\section{{{escape(section.title)}}}")
        parts += [_block(block, pictures) for block in section.blocks]
    return "\n".join([*parts, r"\end{document}", ""])


def table(block: Table) -> str:
    """Returns one table with booktabs rules; a long one breaks over pages."""
    columns = "".join("l" if i < block.text_columns else "r" for i in range(len(block.header)))
    head = []
    if block.groups:
        spans = [rf"\multicolumn{{{span}}}{{c}}{{{escape(name)}}}" for name, span in block.groups]
        head.append(" & ".join(spans) + r" \\")
        start = 1
        for name, span in block.groups:
            if name:
                head.append(rf"\cmidrule(lr){{{start}-{start + span - 1}}}")
            start += span
    head.append(_row(block.header))
    rows = [_row(row) for row in block.rows]
    notes = [rf"{{\footnotesize {escape(note)}\par}}" for note in block.notes]
    title = rf"\textbf{{{escape(block.title)}}}\par\nopagebreak"
    lines = [r"\toprule", *head, r"\midrule", *rows, r"\bottomrule"]
    if len(rows) > ROWS_ON_A_PAGE:
        head_end = [r"\toprule", *head, r"\midrule", r"\endhead"]
        body = [*head_end, *rows, r"\bottomrule"]
        widths = [max(len(row[i]) for row in (block.header, *block.rows)) for i in range(len(columns))]
        size = r"\tiny" if sum(widths) > CHARACTERS_A_LINE else r"\scriptsize"
        inner = [
            rf"{{{size}\setlength{{\tabcolsep}}{{3pt}}\begin{{longtable}}{{{columns}}}",
            *body,
            r"\end{longtable}}",
        ]
    else:
        inner = [rf"\fit{{\begin{{tabular}}{{{columns}}}", *lines, r"\end{tabular}}\par"]
    return "\n".join([title, *inner, *notes, r"\medskip"])


def escape(text: str) -> str:
    """Returns plain text as LaTeX."""
    return "".join(ESCAPES.get(sign, sign) for sign in text)


def _row(cells: tuple[str, ...]) -> str:
    # A bracket after \\ would be read as its argument.
    return " & ".join(f"{{{escape(cell)}}}" if cell else "" for cell in cells) + r" \\"


def _block(block: Block, pictures: str) -> str:
    if isinstance(block, Text):
        text = escape(block.text)
        return (rf"\textbf{{Note.}} {text}" if block.warning else text) + r"\par"
    if isinstance(block, Table):
        return table(block)
    return _figures(block, pictures)


def _figures(block: Figures, pictures: str) -> str:
    lines = [rf"\subsection*{{{escape(block.title)}}}"]
    for item in block.items:
        room = TEXT_WIDTH if item.wide else 0.49 * TEXT_WIDTH
        width = min(room, item.figure.get_figwidth())
        file = rf"\detokenize{{{pictures}/{item.stem}.png}}"
        lines.append(rf"\includegraphics[width={width:.2f}in]{{{file}}}")
    # Not justified: the gap after two pictures would be stretched, or a third squeezed in.
    return "\n".join([r"{\raggedright", *lines, r"\par}"])
