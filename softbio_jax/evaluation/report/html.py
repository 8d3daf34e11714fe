"""A document as one HTML page that needs nothing else: no script, no font, no network."""

import base64
import html
import re

from softbio_jax.evaluation import plots
from softbio_jax.evaluation.report.document import Block, Document, Figure, Figures, Table, Text

STYLE = """
:root { --ink: #1c2733; --muted: #5b6875; --line: #dfe4ea; --soft: #f5f7f9; --accent: #0b5394; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header { padding: 2.2rem 1.5rem 1.4rem; border-bottom: 1px solid var(--line);
  background: var(--soft); }
header > div { max-width: 76rem; margin: 0 auto; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.2; letter-spacing: -.01em; }
header p { margin: .3rem 0 0; color: var(--muted); }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.3rem 0 0; padding: 0;
  list-style: none; }
.cards li { flex: 1 1 9.5rem; padding: .7rem .9rem; background: #fff;
  border: 1px solid var(--line); border-radius: .5rem; }
.cards b { display: block; font-size: 1.45rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.cards span { display: block; } .cards small { color: var(--muted); }
.page { max-width: 79rem; margin: 0 auto; padding: 0 1.5rem 4rem; display: grid; gap: 2.5rem;
  grid-template-columns: 11rem minmax(0, 1fr); }
nav { position: sticky; top: 1.2rem; align-self: start; margin-top: 2.2rem; font-size: .9rem; }
nav ul { margin: 0; padding: 0; list-style: none; border-left: 2px solid var(--line); }
nav a { display: block; padding: .22rem .8rem; color: var(--muted); text-decoration: none; }
nav a:hover, nav a:focus { color: var(--accent); }
section { padding-top: 2rem; }
h2 { margin: 0 0 .8rem; font-size: 1.3rem; border-bottom: 2px solid var(--ink);
  padding-bottom: .3rem; }
h3 { margin: 1.7rem 0 .5rem; font-size: 1rem; }
p { max-width: 46rem; margin: .5rem 0; }
p.warning { padding: .6rem .9rem; border-left: 4px solid #d55e00; background: #fdf3ec; }
.table { margin: 1.3rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; white-space: nowrap; font-weight: 600; font-size: 1rem;
  padding-bottom: .4rem; }
th, td { padding: .3rem .5rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { font-weight: 600; color: var(--muted); font-size: .8rem; }
thead tr:last-child th { border-bottom: 1.5px solid var(--ink); }
thead .group { text-align: center; color: var(--ink); border-bottom: 1px solid var(--line); }
tbody tr { border-bottom: 1px solid var(--line); }
tbody tr:nth-child(even) { background: var(--soft); }
tbody tr:last-child { border-bottom: 1.5px solid var(--ink); }
.word { text-align: left; }
td.word { white-space: normal; min-width: 5rem; overflow-wrap: break-word; }
.notes { margin: .4rem 0 0; padding: 0; list-style: none; color: var(--muted); font-size: .82rem;
  max-width: 52rem; }
.grid { display: flex; flex-wrap: wrap; gap: 1rem 1.4rem; align-items: flex-start; }
figure { margin: 0; flex: 0 1 auto; max-width: 100%; }
figure.flexible { flex: 0 1 calc(50% - .7rem); min-width: min(27rem, 100%); }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--muted); font-size: .8rem; }
footer { color: var(--muted); font-size: .82rem; margin-top: 3rem; }
@media screen and (max-width: 52rem) {
  header { padding: 1.4rem 1rem 1.1rem; }
  h1 { font-size: 1.35rem; }
  .page { display: block; padding: 0 1rem 3rem; }
  nav { position: static; margin-top: 1.2rem; }
  nav ul { display: flex; flex-wrap: wrap; gap: .3rem; border: 0; }
  nav a { padding: .25rem .7rem; border: 1px solid var(--line); border-radius: 1rem; }
  .cards li { flex-basis: 7.5rem; padding: .55rem .7rem; }
  .cards b { font-size: 1.2rem; }
  th, td { padding: .3rem .45rem; }
  thead tr:last-child th:first-child, tbody td:first-child { position: sticky; left: 0;
    background: inherit; }
  tbody tr, thead tr { background: #fff; }
}
@page { margin: 14mm 12mm; }
@media print {
  body { font-size: 10pt; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  nav { display: none; }
  header { padding: 0 0 1rem; background: none; }
  .page { display: block; padding: 0; max-width: none; }
  .scroll { overflow: visible; }
  table { font-size: 7.6pt; } th { font-size: 7.2pt; }
  th, td { padding: .15rem .3rem; white-space: normal; }
  td.word { min-width: 0; }
  thead { display: table-header-group; }
  tr, figure, .cards li { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  figure, figure.flexible { flex: 0 0 auto; min-width: 0; max-width: 48% !important; }
}
"""


def render(document: Document) -> str:
    """Returns the whole page as text."""
    links = "".join(
        f'<li><a href="#{section.anchor}">{_text(section.title)}</a></li>' for section in document.sections
    )
    cards = "".join(
        f"<li><b>{_text(value)}</b><span>{_text(name)}</span><small>{_text(remark)}</small></li>"
        for value, name, remark in document.highlights
    )
    sections = "\n".join(
        f'<section id="{section.anchor}">\n<h2>{_text(section.title)}</h2>\n'
        + "\n".join(_block(block) for block in section.blocks)
        + "\n</section>"
        for section in document.sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<link rel="icon" href="data:,">
<title>{_text(document.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><div>
<h1>{_text(document.title)}</h1>
<p>{_text(document.subtitle)}</p>
<ul class="cards">{cards}</ul>
</div></header>
<div class="page">
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{sections}
</main>
</div>
</body>
</html>
"""


def _block(block: Block) -> str:
    if isinstance(block, Text):
        kind = ' class="warning"' if block.warning else ""
        return f"<p{kind}>{_text(block.text)}</p>"
    if isinstance(block, Table):
        return _table(block)
    return _figures(block)


def _table(table: Table) -> str:
    def cells(row: tuple[str, ...], tag: str) -> str:
        return "".join(
            f'<{tag} class="word">{_text(cell)}</{tag}>'
            if column < table.text_columns
            else f"<{tag}>{_text(cell)}</{tag}>"
            for column, cell in enumerate(row)
        )

    groups = "".join(f'<th class="group" colspan="{span}">{_text(name)}</th>' for name, span in table.groups)
    head = (f"<tr>{groups}</tr>" if groups else "") + f"<tr>{cells(table.header, 'th')}</tr>"
    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    notes = "".join(f"<li>{_text(note)}</li>" for note in table.notes)
    return (
        f'<div class="table"><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{_text(table.title)}"><table>\n<caption>{_text(table.title)}</caption>\n'
        f"<thead>{head}</thead>\n<tbody>{body}</tbody>\n</table></div>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + "</div>"
    )


def _figures(figures: Figures) -> str:
    items = "\n".join(_figure(item) for item in figures.items)
    return f'<h3>{_text(figures.title)}</h3>\n<div class="grid">{items}</div>'


def _figure(item: Figure) -> str:
    # As an image, a picture's identifiers cannot clash with another picture's.
    data = base64.b64encode(plots.svg(item.figure).encode()).decode()
    width, height = (round(96 * inches) for inches in item.figure.get_size_inches())
    # A large picture gives way to a neighbour instead of leaving half a line empty.
    kind = "flexible" if width > 540 and not item.wide else "plain"
    return (
        f'<figure class="{kind}" style="max-width:min(100%,{width}px)"><img '
        f'width="{width}" height="{height}" alt="{_text(item.caption)}" '
        f'src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{_text(item.caption)}</figcaption></figure>"
    )


def _text(text: str) -> str:
    # "20-29" is one word: a line must not end at its hyphen.
    return re.sub(r"(?<=\d)-(?=\d)", "\N{NON-BREAKING HYPHEN}", html.escape(text, quote=True))
