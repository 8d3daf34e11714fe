"""A document as Markdown with the pictures in files beside it."""

from softbio_jax.evaluation.report.document import Block, Document, Table, Text


def render(document: Document, *, pictures: str) -> str:
    """Returns the whole text.

    Args:
      document: the report.
      pictures: the folder of the pictures, relative to the text's own.
    """
    lines = [f"# {document.title}", "", document.subtitle, ""]
    lines += [f"- **{value}** {name} ({remark})" for value, name, remark in document.highlights]
    for section in document.sections:
        lines += ["", f"## {section.title}"]
        for block in section.blocks:
            lines += ["", *_block(block, pictures)]
    return "\n".join(lines) + "\n"


def table(block: Table) -> list[str]:
    """Returns a table's lines; a group's name stands before each of its columns' names."""
    groups = [name for name, span in block.groups for _ in range(span)] or [""] * len(block.header)
    header = [f"{g}: {name}" if g else name for g, name in zip(groups, block.header, strict=True)]
    rules = ["---" if i < block.text_columns else "---:" for i in range(len(header))]
    rows = [header, rules, *block.rows]
    lines = [f"**{block.title}**", ""]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    for note in block.notes:
        lines += ["", f"<sub>{_cell(note)}</sub>"]
    return lines


def _block(block: Block, pictures: str) -> list[str]:
    if isinstance(block, Text):
        return [f"> **Note.** {block.text}" if block.warning else block.text]
    if isinstance(block, Table):
        return table(block)
    lines = [f"### {block.title}", ""]
    for item in block.items:
        lines.append(f"![{_cell(item.caption)}]({pictures}/{item.stem}.png)")
    return lines


def _cell(text: str) -> str:
    for sign in ("\\", "|", "*"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("<", "&lt;").replace(">", "&gt;")
