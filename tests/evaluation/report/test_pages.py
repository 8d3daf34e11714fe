"""The three formats of a document: escaping, structure, and no address outside the page."""

import html.parser
import json
import re

import pytest

from softbio_jax.evaluation import plots
from softbio_jax.evaluation.report import render
from softbio_jax.evaluation.report.document import Document, Figure, Figures, Section, Table, Text, file_stem

TABLE = Table(
    title="A & B",
    groups=(("", 1), ("paper", 2)),
    header=("what", "x", "y"),
    rows=(("a_b <i>", "1 ↑", "50 % | 20-29"), ("c", "–", "2 ‡")),
    notes=("p < 0.05 * σ²",),
)


def document() -> Document:
    figure = Figure(name="a_b", caption='a "quoted" <b>', figure=plots.new_figure(1, 1))
    blocks = (Text(text="1 < 2 & 3", warning=True), TABLE, Figures(title="F_1", items=(figure,)))
    return Document(
        title="T & co",
        subtitle="#1",
        highlights=(("50 %", "name", "x_y"),),
        sections=(Section(title="First section", blocks=blocks),),
    )


class Parser(html.parser.HTMLParser):
    """Collects text, checks that tags are closed in order, and keeps all addresses."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.addresses, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[key] for key in ("src", "href") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(text: str) -> Parser:
    parser = Parser()
    parser.feed(text)
    assert parser.open == []
    return parser


def test_html_escapes_and_closes():
    page = parsed(render.document(document(), "html"))
    text = " ".join(page.text)
    for words in ("T & co", "1 < 2 & 3", "a_b <i>", "p < 0.05 * σ²"):
        assert words in text
    assert "20\N{NON-BREAKING HYPHEN}29" in text


@pytest.mark.parametrize(
    ("name", "stem"), [("a b/c", "a-b-c"), ("run_1.x", "run_1.x"), ("MiVOLO & co", "MiVOLO-co")]
)
def test_file_stems(name, stem):
    assert file_stem(name) == stem


def test_tables_check_their_shape():
    with pytest.raises(ValueError, match="not 2 cells long"):
        Table(title="t", header=("a", "b"), rows=(("1",),))
    with pytest.raises(ValueError, match="do not span 2 columns"):
        Table(title="t", header=("a", "b"), rows=(), groups=(("g", 3),))


def test_columns_without_values_are_left_out_with_their_groups():
    table = Table(
        title="t",
        groups=(("", 1), ("one", 2), ("two", 1)),
        header=("what", "x", "y", "z"),
        rows=(("a", "1", "–", ""), ("b", "", "", "–")),
    ).filled()
    assert (table.header, table.groups) == (("what", "x"), (("", 1), ("one", 1)))
    assert table.rows == (("a", "1"), ("b", ""))
    assert table.labels == ["what", "one, x"]


def test_markdown_tables_have_one_width():
    lines = render.table(TABLE, "md").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert rows[0] == "| what | paper: x | paper: y |"
    assert rows[1] == "| --- | ---: | ---: |"
    assert rows[2] == r"| a_b &lt;i&gt; | 1 ↑ | 50 % \| 20-29 |"
    assert render.document(document(), "md").count("](figures/a_b.png)") == 1


def test_latex_escapes_and_aligns():
    text = render.table(TABLE, "tex")
    assert r"\textbf{A \& B}" in text
    assert r"\multicolumn{2}{c}{paper}" in text and r"\cmidrule(lr){2-3}" in text
    assert r"{a\_b $<$i$>$} & {1 $\uparrow$} & {50 \% $|$ 20-29} \\" in text
    assert r"$\sigma$$^2$" in text
    assert r"\begin{tabular}{lrr}" in text


def test_a_long_latex_table_breaks_over_pages():
    long = Table(title="t", header=("a",), rows=(("1",),) * 60)
    assert r"\begin{longtable}" in render.table(long, "tex")


def environments_match(text: str) -> bool:
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            return False
    return not stack


def test_the_whole_report_in_every_form(report):
    page = parsed((report / "report.html").read_text(encoding="utf-8"))
    outside = [a for a in page.addresses if not a.startswith(("data:", "#"))]
    assert outside == []
    targets = {a[1:] for a in page.addresses if a.startswith("#")}
    assert targets == set(page.ids) and len(page.ids) == len(set(page.ids))

    tex = (report / "report.tex").read_text(encoding="utf-8")
    assert environments_match(tex)
    assert not [c for c in tex if ord(c) > 255], "a sign that pdflatex does not know"

    text = (report / "report.md").read_text(encoding="utf-8")
    figures = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert len(figures) == len(set(figures)) > 10
    assert all((report / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    assert set(re.findall(r"detokenize\{(figures/[^}]+)\}", tex)) == set(figures)

    data = json.loads((report / "report.json").read_text(encoding="utf-8"))
    assert [run["name"] for run in data["runs"]] == ["lora", "Other & Co"]
    assert len(data["tables"]) == len(re.findall(r"^\| ---", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src="//x">', "{{ 7 * 7 }}"])
def test_a_hostile_name_stays_text(name):
    figure = Figure(name=name, caption=name, figure=plots.new_figure(1, 1))
    table = Table(title=name, header=(name,), rows=((name,),), groups=((name, 1),), notes=(name,))
    blocks = (Text(text=name), table, Figures(title=name, items=(figure,)))
    section = Section(title=name, blocks=blocks)
    made = Document(title=name, subtitle=name, highlights=((name, name, name),), sections=(section,))
    text = render.document(made, "html")
    page = parsed(text)
    assert [address for address in page.addresses if not address.startswith(("data:", "#"))] == []
    assert "<script" not in text and page.text.count(name) == 16
