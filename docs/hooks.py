"""For mkdocs: parts of the README, and links from the pages to files of the repository.

`<!-- readme: TITLE -->` becomes that section of the README, `<!-- readme: top -->` what precedes its
first section. Links such as ../softbio_jax/tasks.py lead out of docs/, which mkdocs does not serve.
They become links below `repo_url` or, without one, plain code.
"""

import pathlib
import posixpath
import re

_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_PART = re.compile(r"<!-- readme: (.+) -->")


def on_page_markdown(markdown, page, config, **_):
    """Fills in the README's parts and rewrites links that lead out of docs/."""
    root = pathlib.Path(config.docs_dir).parent
    readme = _sections((root / "README.md").read_text())
    markdown = _PART.sub(lambda match: _below_docs(readme[match[1]]), markdown)
    here = posixpath.dirname(page.file.src_uri)

    def rewrite(match):
        image, text, target, _ = match.groups()
        path = posixpath.normpath(posixpath.join("docs", here, target))
        if image or "://" in target or path.startswith("docs/"):
            return match[0]
        if config.repo_url:
            kind = "tree" if (root / path).is_dir() else "blob"
            return f"[{text}]({config.repo_url.rstrip('/')}/{kind}/main/{path})"
        return text if text.startswith("`") else f"`{text}`" if "/" in text or "." in text else text

    return _LINK.sub(rewrite, markdown)


def _sections(text):
    """Returns title -> section of a page, with its heading; `top` is what follows the first heading."""
    top, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return {"top": top.partition("\n")[2]} | {
        section.partition("\n")[0].removeprefix("## "): section for section in sections
    }


def _below_docs(text):
    """Returns text of the README with its links as seen from docs/."""

    def rewrite(match):
        image, label, target, anchor = match.groups()
        if "://" not in target:
            target = posixpath.relpath(target, "docs")
        return f"{image}[{label}]({target}{anchor or ''})"

    return _LINK.sub(rewrite, text)
